"""How the gradient norms of every parameter were found, and what the check against autograd saw."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the gradient norms of one parameter tensor were found.

    Attributes:
        name: the parameter's name in the network.
        values: how many numbers the tensor holds.
        method: the rule that computed the norms.
        work: the tensor's share of all operations after the forward pass, from 0 to 1, counted and not timed; None
            where nothing was counted.
    """

    name: str
    values: int
    method: str
    work: float | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """The coverage ledger: every analysed parameter tensor once, nothing dropped.

    Attributes:
        entries: one per parameter tensor, in the order of the traces' layers.
        directions: backward passes per batch.
        backward: the share of the work of the backward passes, which all tensors have in common; with it the shares add
            up to one. None where nothing was counted.
    """

    entries: tuple[Coverage, ...]
    directions: int
    backward: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """What bfloat16 or TF32 costs: both traces of the first examples in float32 and rounded, on the same network.

    Attributes:
        precision: `bfloat16` or `tf32`.
        examples: how many of the first examples were taken.
        trace_true_float32: tr F in float32, in 1/weight².
        trace_true_rounded: tr F in the other precision.
        trace_true_error: |tr − tr₃₂|/tr₃₂; None where the trace is zero. The rounding of the weights is in it.
        trace_empirical_float32: tr F̂ in float32.
        trace_empirical_rounded: tr F̂ in the other precision.
        trace_empirical_error: as `trace_true_error`.
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
        """Both errors in one line, for people."""
        each = {"true": self.trace_true_error, "empirical": self.trace_empirical_error}
        errors = " and ".join(f"{error:.1e} ({name})" for name, error in each.items() if error is not None)
        what = f"off by {errors} of float32's" if errors else "zero in float32"
        return f"{self.precision}: the traces of the first {self.examples} examples are {what}"


@dataclass(frozen=True, slots=True)
class Check:
    """The run-time check: some examples and directions recomputed with plain autograd, one by one.

    Attributes:
        examples: how many examples were compared.
        directions: in how many directions of the outputs each of them was.
        largest_relative_difference: of any parameter's squared gradient norm, relative to that norm.
        tolerance: a larger difference fails the row.
        precision: of the comparison that decided: `float64` where float32 differed.
        derivatives: how many parameter tensors were held against finite differences of the outputs, once for the
            checkpoints of one network.
        undecided: names of the tensors of which kinks or rounding hide whether they agree.
    """

    examples: int
    directions: int
    largest_relative_difference: float
    tolerance: float
    precision: str
    derivatives: int = 0
    undecided: tuple[str, ...] = ()
