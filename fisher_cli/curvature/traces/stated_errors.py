"""What a row says about the estimator's error of its true trace."""

from fisher_cli.results import Trace


def remarks(trace: Trace, target_error: float | None) -> list[str]:
    """One for an error that is not known, one where that of the estimator is above the target, relative to tr F."""
    true, found = trace.true, list[str]()
    if true.standard_error is None and len(trace.per_example_true) > 1:
        found.append("trace_true_se is left empty: what the estimator adds hides it: type --estimator exact")
    if true.estimator_error is None:
        found.append(
            "trace_true_estimator_se is left empty: all labels that were drawn agree, which says nothing of the "
            "others: type --estimator exact, or more --samples"
        )
    elif target_error is not None and true.estimator_error > target_error * true.value:
        reached = f"{true.estimator_error / true.value:.3g} reached" if true.value else "the trace is zero"
        other = "deflated" if trace.estimator.startswith("sampled") else "exact"
        found.append(f"target error {target_error:g} was asked for, {reached}: type --estimator {other}")
    return found
