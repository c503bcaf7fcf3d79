"""Identities of what does not move the predictions, and of what moves them as a whole: null vectors and homogeneity."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fisher_cli.curvature.identities import diagnosis
from fisher_cli.curvature.identities.autograd_reference import Change, covariance, differentiable_kernels, inner, norm
from fisher_cli.curvature.identities.heads import NONE, find_head
from fisher_cli.curvature.identities.identity_specs import IdentityCase, IdentitySpec
from fisher_cli.results import Identity

SCALE = 1.25
# Outputs that agree to so many units of their measured rounding are unchanged.
UNCHANGED = 100
# Candidates that are tried for each kind of symmetry, and units of a layer: some are off for all examples.
TRIED, UNITS = 24, 4
# A change so small that no unit which is off is switched on by it.
SMALL = 1e-4
RADIAL = IdentitySpec(
    "radial direction",
    "θᵀFθ = K² mean fᵀΛf for outputs homogeneous of degree K",
    "T9, Liang et al. 2019",
    "θᵀJᵀΛJθ | closed form from the outputs",
    "the closed form",
)
_NULL_SIDES = "‖F v‖ | 0"
_NULL_SCALE = "‖F v'‖, v' being v with every other sign turned"


@dataclass(frozen=True)
class Symmetry:
    """A kind of change that leaves the outputs as they are; `absent` says what a network without it lacks."""

    statement: IdentitySpec
    absent: str


def _null(name: str, formula: str) -> IdentitySpec:
    return IdentitySpec(name, formula, "T8", _NULL_SIDES, _NULL_SCALE)


SHIFT = Symmetry(_null("softmax shift", "F v = 0 for the same u added to every class's weights"), NONE)
RESCALING = Symmetry(
    _null("ReLU rescaling", "F v = 0 for v = (w_in, b_in, −w_out) of a unit"),
    "no unit between two layers can be rescaled",
)
CHANNEL = Symmetry(
    _null("batch-norm channel", "F v = 0 for v = (W_c, b_c, −γ_c, −γ_c μ_c/σ_c)"),
    "no batch norm follows a layer directly",
)
BIAS = Symmetry(
    _null("bias before batch norm", "F v = 0 for v = (1 on b_c, −γ_c/σ_c on β_c)"),
    "no batch norm follows a layer with a bias directly",
)


HIDDEN = tuple(symmetry.statement for symmetry in (RESCALING, CHANNEL, BIAS))


def softmax_shift(subject: IdentityCase) -> Identity:
    """The same amount added to all logits, as a linear function of the last layer's inputs."""
    head = find_head(subject)
    if head is None:
        return SHIFT.statement.not_applicable(NONE)
    if subject.plain.kind != "softmax":
        return SHIFT.statement.not_applicable("the outputs are not those of a softmax")
    weight = subject.plain.parameters[head.weight].detach()
    change = {head.weight: torch.linspace(-1, 1, weight.shape[1]).to(weight).expand_as(weight).clone()}
    if head.bias is not None:
        change[head.bias] = torch.ones_like(subject.plain.parameters[head.bias].detach())
    return _judged(subject, SHIFT, change, "all classes")


def hidden_symmetries(subject: IdentityCase) -> list[Identity]:
    """Null vectors at layers of the network: candidates by the order of calls, accepted if no output changes."""
    calls = _calls(subject)
    kinds = ((RESCALING, _rescalings), (CHANNEL, _channels), (BIAS, _biases))
    found = []
    for symmetry, candidates in kinds:
        accepted = next((each for each in _first(candidates(subject, calls)) if _holds(subject, each[2])), None)
        if accepted is None:
            found.append(symmetry.statement.not_applicable(symmetry.absent))
        else:
            found.append(_judged(subject, symmetry, accepted[1], accepted[0]))
    return found


_Vector = dict[str, Tensor]
_Candidate = tuple[str, _Vector, _Vector]
"""Where, the null vector v, and a finite change of the parameters along the same symmetry."""


@dataclass(frozen=True)
class _Call:
    module: nn.Module
    inputs: Tensor
    output: Tensor


def _calls(subject: IdentityCase) -> list[_Call]:
    """Layers in the order in which one example goes through them."""
    calls: list[_Call] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(_Call(module, inputs[0], output))

    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
    hooks = [m.register_forward_hook(note) for m in subject.plain.model.modules() if isinstance(m, kinds)]
    try:
        with differentiable_kernels():
            subject.plain.outputs(0, 1)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _first(candidates: Iterator[_Candidate]) -> Iterator[_Candidate]:
    """Some of many.

    Yields:
        The first ones.
    """
    for number, each in enumerate(candidates):
        if number >= TRIED:
            return
        yield each


def _names(subject: IdentityCase) -> dict[int, str]:
    return {id(parameter): name for name, parameter in subject.plain.parameters.items()}


def _rescalings(subject: IdentityCase, calls: list[_Call]) -> Iterator[_Candidate]:
    """A unit's incoming weights grown and its outgoing ones shrunk, for layers that follow each other.

    Yields:
        Candidates.
    """
    names = _names(subject)
    for before, after in itertools.pairwise(calls):
        producer, consumer = _learned(before.module, names), _learned(after.module, names)
        transposed = (nn.modules.conv._ConvTransposeNd, nn.modules.batchnorm._BatchNorm)
        if not producer or not consumer or isinstance(after.module, transposed):
            continue
        if isinstance(before.module, nn.modules.conv._ConvTransposeNd) or getattr(after.module, "groups", 1) != 1:
            continue
        channels, inputs = len(producer[0]), consumer[0].shape[1]
        if inputs % channels:
            continue
        each, name = inputs // channels, names[id(consumer[0])]
        for unit in _lengths(producer[0]).argsort(descending=True, stable=True)[:UNITS].tolist():
            vector, finite = _grown(producer, unit, names)
            part = torch.zeros_like(consumer[0])
            some = slice(unit * each, (unit + 1) * each)
            part[:, some] = -consumer[0].detach()[:, some]
            vector[name], finite[name] = part, (1 - 1 / SCALE) * part
            yield f"{names[id(producer[0])]}, unit {unit}", vector, finite


def _learned(module: nn.Module, names: Mapping[int, str]) -> list[nn.Parameter]:
    """Weight and bias, where it has one; nothing where one of them is not analysed, or the weight is computed."""
    if not isinstance(module.weight, nn.Parameter):  # from others, as in pruning and weight norm
        return []
    found = [each for each in (module.weight, module.bias) if isinstance(each, nn.Parameter)]
    return found if all(id(each) in names for each in found) else []


def _grown(parameters: Sequence[nn.Parameter], unit: int, names: Mapping[int, str]) -> tuple[_Vector, _Vector]:
    """One unit's entries of some parameters, and what they grow by."""
    vector, finite = _Vector(), _Vector()
    for parameter in parameters:
        part = torch.zeros_like(parameter)
        part[unit] = parameter.detach()[unit]
        vector[names[id(parameter)]], finite[names[id(parameter)]] = part, (SCALE - 1) * part
    return vector, finite


def _lengths(weight: Tensor) -> Tensor:
    """‖w‖ of every unit."""
    found: Tensor = weight.detach().reshape(len(weight), -1).norm(dim=1)
    return found


@dataclass(frozen=True)
class _Normalised:
    """A layer whose output goes into a batch norm as it is: γ/σ and μ by channel, the channel of the largest γ/σ."""

    layer: list[nn.Parameter]
    gamma: nn.Parameter
    beta: nn.Parameter
    slope: Tensor
    mean: Tensor
    channel: int


def _normalised(subject: IdentityCase, calls: list[_Call]) -> Iterator[_Normalised]:
    """All such layers.

    Yields:
        One after the other.
    """
    names = _names(subject)
    for before, after in itertools.pairwise(calls):
        module = after.module
        if not isinstance(module, nn.modules.batchnorm._BatchNorm) or after.inputs is not before.output:
            continue
        if isinstance(before.module, (nn.modules.conv._ConvTransposeNd, nn.modules.batchnorm._BatchNorm)):
            continue
        layer, own = _learned(before.module, names), _learned(module, names)
        if not layer or len(own) < 2 or module.running_var is None or module.running_mean is None:
            continue
        slope = own[0].detach() / (module.running_var.double() + module.eps).sqrt()
        yield _Normalised(layer, own[0], own[1], slope, module.running_mean.double(), int(slope.abs().argmax()))


def _channels(subject: IdentityCase, calls: list[_Call]) -> Iterator[_Candidate]:
    """A channel grown before its batch norm, γ shrunk, and β moved for the mean that stays.

    Yields:
        Candidates.
    """
    names = _names(subject)
    for each in _normalised(subject, calls):
        c = each.channel
        vector, finite = _grown(each.layer, c, names)
        for parameter, values in ((each.gamma, each.gamma.detach()), (each.beta, each.slope * each.mean)):
            part = torch.zeros_like(parameter)
            part[c] = -values[c]
            vector[names[id(parameter)]], finite[names[id(parameter)]] = part, (1 - 1 / SCALE) * part
        yield f"{names[id(each.layer[0])]}, channel {c}", vector, finite


def _biases(subject: IdentityCase, calls: list[_Call]) -> Iterator[_Candidate]:
    """A bias before a batch norm against the one behind it.

    Yields:
        Candidates.
    """
    names = _names(subject)
    for each in _normalised(subject, calls):
        if len(each.layer) < 2:
            continue
        bias, c = each.layer[1], each.channel
        vector = {names[id(parameter)]: torch.zeros_like(parameter) for parameter in (bias, each.beta)}
        vector[names[id(bias)]][c] = 1
        vector[names[id(each.beta)]][c] = -each.slope[c]
        yield f"{names[id(bias)]}, channel {c}", vector, {name: 0.1 * part for name, part in vector.items()}


def _holds(subject: IdentityCase, finite: Change) -> bool:
    """Whether the finite change leaves all outputs as they are, while the same amount elsewhere does not."""
    before = subject.plain.outputs().detach()
    moved = float((subject.plain.outputs_at(finite) - before).abs().max())
    broken = float((subject.plain.outputs_at(_broken(finite), SMALL) - before).abs().max())
    limit = UNCHANGED * subject.noise
    return moved <= limit < broken


def _broken(change: Change) -> dict[str, Tensor]:
    """The same entries with every other sign turned, and the first tensor's twice as long."""
    turned = {}
    for number, (name, part) in enumerate(change.items()):
        flat = part.reshape(-1).clone()
        flat[1::2] *= -1
        turned[name] = flat.reshape(part.shape) * (2 if number == 0 else 1)
    return turned


def _judged(subject: IdentityCase, symmetry: Symmetry, change: Change, where: str) -> Identity:
    ours = norm(subject.multiplied(change))
    broken = norm(subject.multiplied(_broken(change)))
    if broken == 0:
        return symmetry.statement.undecided(f"F is zero along a change out of proportion as well ({where})")
    error = ours / broken
    cause = diagnosis.training_mode(subject) or f"F moves along a direction that changes no prediction ({where})"
    why = f"{subject.rounding('products')}, which cancel; {where}"
    return symmetry.statement.judged(ours, 0.0, error, subject.tolerance(1e-9), why, cause, subject.lost)


def radial(subject: IdentityCase) -> Identity:
    """All parameters where the outputs are homogeneous in them, else those of the last layer, of degree one."""
    twin, head = subject.plain, find_head(subject)
    every = {name: parameter.detach().clone() for name, parameter in twin.parameters.items()}
    outputs = twin.outputs().detach()
    candidates = [("all parameters", every)]
    if head is not None:
        candidates.append(("the last layer", {name: every[name] for name in head.names}))
    for where, change in candidates:
        degree = _degree(subject, change, outputs)
        if degree is None:
            continue
        form = float((outputs * (covariance(twin.kind, outputs) @ outputs.unsqueeze(2)).squeeze(2)).sum()) / len(twin)
        theirs = degree**2 * form
        ours = inner(subject.multiplied(change), {**subject.zeros(), **change})
        tolerance, cause = subject.tolerance(1e-9), ""
        error = abs(ours - theirs) / max(abs(theirs), 1e-300)
        if not error <= tolerance:
            one, other = torch.tensor([ours]).double(), torch.tensor([theirs]).double()
            cause = diagnosis.training_mode(subject) or diagnosis.of_factor(one, other, len(twin))
        why = f"{subject.rounding('products')}; K = {degree} in {where}"
        return RADIAL.judged(ours, theirs, error, tolerance, why, cause, subject.lost)
    return RADIAL.not_applicable(
        "the outputs are not homogeneous in the parameters (biases, norms), nor in a last layer"
    )


def _degree(subject: IdentityCase, change: Change, outputs: Tensor) -> int | None:
    """K with f(a θ) = a^K f(θ), None where there is none."""
    scaled = subject.plain.outputs_at(change, SCALE - 1)
    lengths = float(scaled.norm()), float(outputs.norm())
    if min(lengths) == 0:
        return None
    degree = math.log(lengths[0] / lengths[1]) / math.log(SCALE)
    whole = round(degree)
    apart = float((scaled - SCALE**whole * outputs).abs().max())
    return whole if whole >= 1 and apart <= UNCHANGED * subject.noise * SCALE**whole else None
