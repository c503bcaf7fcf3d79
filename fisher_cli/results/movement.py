"""How far a network moved from the checkpoint before."""

from dataclasses import dataclass

from fisher_cli.results.traces import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """From the last checkpoint before that has numbers to this one, on the same examples.

    kl: mean KL(q_before ‖ q_now); kl_quadratic: ½ΔᵀFΔ with the F of before, Δ the step of the analysed parameters;
    kl_parameters: the KL if only they had moved, None where nothing else has (batch-norm statistics, what is not
    analysed); trace_change: tr F minus that of before, its error from differences example by example.
    """

    kl: Estimate
    kl_quadratic: Estimate
    kl_parameters: Estimate | None
    trace_change: Estimate
