"""J v is the derivative of the outputs, tensor by tensor: what no identity between autograd's own numbers can show."""

import torch

from fisher_cli.curvature.identities import diagnosis
from fisher_cli.curvature.identities.identity_specs import LARGE, IdentityCase, IdentitySpec
from fisher_cli.curvature.torch_backend.finite_differences import Derivative, derivatives_by_tensor
from fisher_cli.results import Identity, Outcome

# Examples, evenly spaced, and how many for a network that is large: every tensor takes two evaluations of them.
EXAMPLES, EXAMPLES_OF_LARGE = 4, 1

STATEMENT = IdentitySpec(
    "derivatives",
    "⟨u, J v⟩ = ⟨u, (z(θ+hv) − z(θ−hv))/2h⟩ for v in one tensor, tensor by tensor",
    "definition of J",
    "autograd | finite differences of the outputs",
    "the larger side, over several u",
)


def derivatives(subject: IdentityCase) -> Identity:
    """Every tensor by itself: a detached part, a wrong backward or a hook inside the network is named."""
    twin = subject.plain
    count = min(len(twin), EXAMPLES if subject.problem.size <= LARGE else EXAMPLES_OF_LARGE)
    some = twin.at(torch.linspace(0, len(twin) - 1, count).round().long())
    # Every tensor by itself on some examples, and all tensors together on all: a backward that is wrong for one example
    # is wrong for it alone.
    found = derivatives_by_tensor(some.outputs, some.parameters, seed=subject.seed)
    if len(twin) > count and subject.problem.size <= LARGE:
        together = derivatives_by_tensor(twin.outputs, twin.parameters, seed=subject.seed, most_groups=1)
        found += tuple(each for each in together if each.outcome is Outcome.FAILED)
    worst = max(found, key=_badness)
    names = {outcome: [name for each in found if each.outcome is outcome for name in each.names] for outcome in Outcome}
    failed, undecided = names[Outcome.FAILED], names[Outcome.UNDECIDED]
    reason = ""
    if failed:
        reason = diagnosis.training_mode(subject) or f"{diagnosis.listed(failed)}: {worst.reason}"
    elif undecided:
        reason = f"{diagnosis.listed(undecided)}: {worst.reason}"
    what = f"{len(twin.parameters)} tensors, {count} examples, h = {worst.step:.0e}"
    why = f"bends and rounding of the outputs, measured; {what}"
    if beside := [name for each in found if each.is_beside for name in each.names]:
        why += f"; {diagnosis.listed(beside)} next to θ, where no unit is exactly at a kink (zero)"
    return STATEMENT.with_sides(worst.outcome, worst.autograd, worst.finite, worst.error, worst.tolerance, why, reason)


def _badness(each: Derivative) -> tuple[int, float]:
    order = (Outcome.PASSED, Outcome.UNDECIDED, Outcome.FAILED)
    return order.index(each.outcome), each.error / each.tolerance if each.tolerance else 0.0
