"""How the gradient norms of every parameter were found, and what the check against autograd saw."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the gradient norms of one parameter tensor were found: its number of values, the rule, the work.

    `work` is the tensor's share of all operations after the forward pass, from 0 to 1; None where not counted.
    """

    name: str
    values: int
    method: str
    work: float | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """The coverage ledger: every analysed parameter tensor once, nothing dropped.

    `directions` is the number of backward passes per batch, and `backward` their share of the work, which all
    tensors have in common: with it the shares add up to one.
    """

    entries: tuple[Coverage, ...]
    directions: int
    backward: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """What bfloat16 or TF32 costs: both traces of the first `examples` in either precision, on the same network.

    Errors are |tr − tr₃₂|/tr₃₂, None where the trace is zero; the rounding of the weights is in them.
    """

    precision: str
    examples: int
    trace_true_float32: float
    trace_true_rounded: float
    trace_true_error: float | None
    trace_empirical_float32: float
    trace_empirical_rounded: float
    trace_empirical_error: float | None

    def sentence(self) -> str:
        """The errors in words."""
        each = {"true": self.trace_true_error, "empirical": self.trace_empirical_error}
        errors = " and ".join(f"{error:.1e} ({name})" for name, error in each.items() if error is not None)
        what = f"off by {errors} of float32's" if errors else "zero in float32"
        return f"{self.precision}: the traces of the first {self.examples} examples are {what}"


@dataclass(frozen=True, slots=True)
class Check:
    """The run-time check: some examples and directions recomputed with plain autograd, one by one.

    largest_relative_difference: of any parameter's squared gradient norm, relative to that norm; above `tolerance` the
    row fails. precision: of the look that decided, float64 where float32 differed. derivatives: how many parameter
    tensors were held against finite differences of the outputs, once for the checkpoints of one network; `undecided`
    are those of which kinks or rounding hide whether they agree.
    """

    examples: int
    directions: int
    largest_relative_difference: float
    tolerance: float
    precision: str
    derivatives: int = 0
    undecided: tuple[str, ...] = ()
