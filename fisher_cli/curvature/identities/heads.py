"""Identities of the last linear layer, whose Fisher has a closed form."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fisher_cli.curvature.identities import diagnosis
from fisher_cli.curvature.identities.autograd_reference import covariance, differentiable_kernels, observed_score
from fisher_cli.curvature.identities.identity_specs import IdentityCase, IdentitySpec, swept
from fisher_cli.curvature.problem.problem import Problem, as_outputs
from fisher_cli.results import Identity

TRUE = IdentitySpec(
    "last layer",
    "tr F_last = mean (1 − ‖p‖²)(‖h‖² + 1)",
    "T2",
    "norms without gradients | closed form from inputs and outputs",
    "the closed form",
)
EMPIRICAL = IdentitySpec(
    "last layer, empirical",
    "tr F̂_last = mean ‖p − e_y‖² (‖h‖² + 1)",
    "T2",
    "norms without gradients | closed form from inputs and outputs",
    "the closed form",
)
ZERO = IdentitySpec(
    "zero last layer",
    "F_l = 0 below a last layer of zeros, and tr F = tr F̂ there for equal classes",
    "T3",
    "trace of all other tensors | 0",
    "the trace",
)
TEMPERED = IdentitySpec(
    "temperature",
    "tr F_last at z/2 = ¼ mean (1 − ‖p_τ‖²)(‖h‖² + 1)",
    "T18",
    "norms of the network with halved outputs | closed form",
    "the closed form",
)
NONE = "no linear layer of its own gives the outputs"
TEMPERATURE = 2.0


@dataclass(frozen=True)
class Head:
    """The last linear layer: its parameters' names, its inputs h of all examples, and whether it has a bias."""

    weight: str
    bias: str | None
    inputs: Tensor
    outputs: Tensor

    @property
    def names(self) -> list[str]:
        """Of its parameters."""
        return [self.weight] + ([self.bias] if self.bias else [])

    @property
    def size(self) -> Tensor:
        """‖h‖², and one more for a bias, (N,)."""
        found: Tensor = self.inputs.square().sum(1) + (self.bias is not None)
        return found


def find_head(subject: IdentityCase) -> Head | None:
    """The linear layer whose output is the network's; None where there is none, or its weights are used elsewhere."""
    twin, calls = subject.plain, list[tuple[nn.Linear, Tensor, Tensor]]()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        calls.append((module, inputs[0].detach(), output.detach().clone()))

    linears = [module for module in twin.model.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_hook(note) for module in linears]
    try:
        with differentiable_kernels():
            outputs = twin.outputs().detach()
    finally:
        for hook in hooks:
            hook.remove()
    last = [call for call in calls if call[2].shape == outputs.shape and torch.equal(call[2], outputs)]
    if not last or last[-1][1].dim() != 2:
        return None
    module, inputs, _ = last[-1]
    owners = [m for m in twin.model.modules() for p in m._parameters.values() if p is module.weight]
    uses = sum(call[0] is module for call in calls)
    names = {id(parameter): name for name, parameter in twin.parameters.items()}
    if len(set(map(id, owners))) != 1 or uses != 1 or id(module.weight) not in names:
        return None
    if module.bias is not None and id(module.bias) not in names:
        return None
    return Head(names[id(module.weight)], names.get(id(module.bias)), inputs, outputs)


def _trace(problem: Problem, head: Head, matrix: str) -> float:
    trace = swept(replace(problem, parameters=_of(problem, head)), "exact").trace
    return float(getattr(trace, matrix).value)


def _of(problem: Problem, head: Head) -> Mapping[str, nn.Parameter]:
    return {name: problem.parameters[name] for name in head.names}


def _judged(subject: IdentityCase, statement: IdentitySpec, ours: float, theirs: float) -> Identity:
    error = abs(ours - theirs) / max(abs(theirs), 1e-300)
    cause = ""
    if not error <= subject.tolerance(1e-10):
        one, other = torch.tensor([ours]).double(), torch.tensor([theirs]).double()
        cause = diagnosis.training_mode(subject) or diagnosis.of_factor(one, other, len(subject.plain))
        if "constant factor" in cause:
            cause = "the classes have wrong weights, or the rule for linear layers is wrong"
    why = subject.rounding("sums")
    return statement.judged(ours, theirs, error, subject.tolerance(1e-10), why, cause, subject.lost)


def last_layer(subject: IdentityCase) -> list[Identity]:
    """Both traces of the last layer."""
    head = find_head(subject)
    if head is None:
        return [TRUE.not_applicable(NONE), EMPIRICAL.not_applicable(NONE)]
    twin = subject.plain
    score = observed_score(twin.kind, head.outputs, twin.labels)
    closed = {
        "true": _closed(twin.kind, head.outputs, head.size),
        "empirical": float((score.square().sum(1) * head.size).mean()),
    }
    found = []
    for statement, matrix in ((TRUE, "true"), (EMPIRICAL, "empirical")):
        ours = _trace(subject.problem, head, matrix)
        found.append(_judged(subject, statement, ours, closed[matrix]))
    return found


def _closed(kind: str, outputs: Tensor, size: Tensor) -> float:
    """mean tr Λ (‖h‖² + 1), which is (1 − ‖p‖²)(‖h‖² + 1) for softmax."""
    spread = covariance(kind, outputs).diagonal(dim1=1, dim2=2).sum(1)
    return float((spread * size).mean())


def zero_head(subject: IdentityCase) -> Identity:
    """With a last layer of zeros nothing below it moves the outputs."""
    head = find_head(subject)
    if head is None:
        return ZERO.not_applicable(NONE)
    if any(bool(subject.plain.parameters[name].any()) for name in head.names):
        return ZERO.not_applicable("the last layer is not zero")
    trace = subject.summed.trace
    others = sum(layer.true.value + layer.empirical.value for layer in trace.layers if layer.name not in head.names)
    # The classes are equal: any label's score is as long as any other's. Residuals of a Gaussian are not.
    apart = abs(trace.true.value - trace.empirical.value) if subject.plain.kind != "gaussian" else 0.0
    error = max(others, apart) / max(trace.true.value, 1e-300)
    cause = "layers below a zero head have gradients, or the two traces differ where all classes are equal"
    return ZERO.judged(others, 0.0, error, subject.tolerance(1e-12), subject.rounding("sums"), cause)


class _Tempered(nn.Module):
    """A network with its outputs divided by a temperature."""

    def __init__(self, inside: nn.Module, temperature: float) -> None:
        super().__init__()
        self.inside = inside
        self.temperature = temperature

    def forward(self, inputs: Tensor) -> Tensor:
        """z/τ."""
        return as_outputs(self.inside(inputs), len(inputs)) / self.temperature


def tempered(subject: IdentityCase) -> Identity:
    """Outputs divided by two: the probabilities are others, and the Jacobian is half."""
    head = find_head(subject)
    if head is None:
        return TEMPERED.not_applicable(NONE)
    outputs = head.outputs / TEMPERATURE
    theirs = _closed(subject.plain.kind, outputs, head.size) / TEMPERATURE**2
    problem = replace(subject.problem, model=_Tempered(subject.problem.model, TEMPERATURE))
    return _judged(subject, TEMPERED, _trace(problem, head, "true"), theirs)
