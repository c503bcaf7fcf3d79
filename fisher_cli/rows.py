"""What a Measurement says, as rows: column name → value, absent or None where nothing was found."""

from collections.abc import Iterator

from fisher_cli.results import Eigenvalues, Estimate, Measurement

Value = str | int | float | None


def main_row(measurement: Measurement, order: int, eigenvalues: int) -> dict[str, Value]:
    """One checkpoint's row of the main table, with at most `eigenvalues` eigenvalues of either Fisher."""
    row: dict[str, Value] = {
        "checkpoint": measurement.checkpoint,
        "order": order,
        "step": measurement.step,
        "epoch": measurement.epoch,
        "architecture": measurement.architecture,
        "weights": measurement.weights,
        "parameters": measurement.parameters,
        "examples": measurement.examples,
        "classes": measurement.classes,
        "status": measurement.status,
        "error": measurement.error,
    }
    if predictions := measurement.predictions:
        row |= _estimate("loss", predictions.loss) | _estimate("accuracy", predictions.accuracy)
        row["entropy"] = predictions.entropy.value
    if trace := measurement.trace:
        row |= _estimate("trace_true", trace.true) | _estimate("trace_empirical", trace.empirical)
        row |= _estimate("trace_ratio", trace.ratio)
        row["trace_true_estimator_se"] = trace.true.estimator_error
        row["trace_estimator"] = trace.estimator
    if gradient := measurement.gradient:
        row["trace_covariance"] = gradient.covariance
        row["gradient_norm_squared"] = gradient.norm_squared
        row |= _estimate("gradient_snr", gradient.signal_to_noise)
    row |= _eigenvalues("eig_true", measurement.eigenvalues_true, eigenvalues)
    return row | _eigenvalues("eig_empirical", measurement.eigenvalues_empirical, eigenvalues)


def _estimate(name: str, estimate: Estimate | None) -> dict[str, Value]:
    """An estimate's two cells."""
    if estimate is None:
        return {}
    return {name: estimate.value, f"{name}_se": estimate.standard_error}


def _eigenvalues(name: str, found: Eigenvalues | None, count: int) -> dict[str, Value]:
    """The method and the first `count` eigenvalues with their residuals."""
    if found is None:
        return {}
    row: dict[str, Value] = {f"{name}_method": found.method}
    for i, (value, residual) in enumerate(zip(found.values, found.residuals, strict=True), start=1):
        if i <= count:
            row |= {f"{name}_{i}": value, f"{name}_{i}_residual": residual}
    return row


def layer_rows(measurement: Measurement, order: int) -> Iterator[dict[str, Value]]:
    """One checkpoint's rows of the layer table.

    Yields:
        One row per parameter tensor.
    """
    if measurement.trace is None:
        return
    total = measurement.trace.true.value
    for layer in measurement.trace.layers:
        row: dict[str, Value] = {
            "checkpoint": measurement.checkpoint,
            "order": order,
            "step": measurement.step,
            "layer": layer.name,
            "parameters": layer.parameters,
            "method": layer.method,
            "share": layer.true.value / total if total else None,
        }
        yield row | _estimate("trace_true", layer.true) | _estimate("trace_empirical", layer.empirical)
