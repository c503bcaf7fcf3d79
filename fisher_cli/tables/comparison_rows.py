"""What comparisons say, as rows: of the true and the empirical Fisher, and of two checkpoints."""

from collections.abc import Iterator

from fisher_cli.results import CheckpointComparison, Estimate, Interval, LayerStep, Measurement
from fisher_cli.tables.rows import Value, estimate_cells, main_row


def comparison_row(measurement: Measurement, order: int, eigenvalues: int) -> dict[str, Value]:
    """One checkpoint's row of the comparison of the two Fishers."""
    row = main_row(measurement, order, eigenvalues)
    found = measurement.comparison
    if found is None:
        return row
    row |= estimate_cells("trace_difference", found.difference) | _interval(
        "trace_difference", found.difference_interval
    )
    row |= _interval("trace_ratio", found.ratio_interval)
    intervals = [each for each in (found.difference_interval, found.ratio_interval) if each]
    if intervals:
        row["intervals"] = "95 %" if all(each.is_trusted for each in intervals) else "nominal"
    row |= _probed("norm_true", found.norm_true)
    for name, against in (
        ("norm_empirical", found.norm_empirical),
        ("inner_product", found.inner_product),
        ("matrix_difference", found.difference_norm),
        ("matrix_cosine", found.cosine),
        ("natural_gradient_cosine", found.natural_gradient),
        ("inverse_product", found.inverse_product),
        ("eigenspace_overlap", found.overlap),
    ):
        if against is not None:
            row |= _probed(name, against.value)
            row |= {f"{name}_null": against.null, f"{name}_null_sd": against.null_deviation}
    return row | {
        "trace_ratio_null_sd": found.null_deviation,
        "null_method": found.null_method,
        "null_carriers": found.carriers,
        "trace_z": found.z,
        "matrix_method": found.method,
        "damping": found.damping,
        "natural_gradient_residual": found.residual,
        "gradient_cosine_true": found.gradient_true,
        "gradient_cosine_empirical": found.gradient_empirical,
        "null_draws": found.draws,
        "finding": found.verdict.finding,
        "verdict": found.verdict.text,
    }


def _interval(name: str, interval: Interval | None) -> dict[str, Value]:
    return {} if interval is None else {f"{name}_low": interval.low, f"{name}_high": interval.high}


def _probed(name: str, estimate: Estimate) -> dict[str, Value]:
    """A value and the error that random probes leave."""
    return {name: estimate.value, f"{name}_estimator_se": estimate.estimator_error}


def comparison_layer_rows(measurement: Measurement, order: int) -> Iterator[dict[str, Value]]:
    """One checkpoint's rows of the comparison by parameter tensor.

    Yields:
        One row per parameter tensor.
    """
    for layer in measurement.comparison.layers if measurement.comparison else ():
        row: dict[str, Value] = {
            "checkpoint": measurement.checkpoint,
            "order": order,
            "step": measurement.step,
            "layer": layer.name,
            "parameters": layer.parameters,
            "trace_ratio": layer.ratio,
            "trace_ratio_null_sd": layer.null_deviation,
            "trace_z": layer.z,
        }
        yield row | estimate_cells("trace_true", layer.true) | estimate_cells("trace_empirical", layer.empirical)


def checkpoint_comparison_row(found: CheckpointComparison) -> dict[str, Value]:
    """The row about two checkpoints."""
    plain = ("checkpoint_a", "checkpoint_b", "step_a", "step_b", "architecture", "parameters", "examples", "classes")
    row: dict[str, Value] = {name: getattr(found, name) for name in (*plain, "cross_terms_a", "cross_terms_b")}
    for name in ("kl_ab", "kl_ba", "agreement", "loss_a", "loss_b", "accuracy_a", "accuracy_b"):
        row |= estimate_cells(name, getattr(found, name))
    return row | estimate_cells("kl_ab_parameters", found.kl_ab_parameters or found.kl_ab) | _step(found.whole)


def layer_step_rows(found: CheckpointComparison) -> Iterator[dict[str, Value]]:
    """The rows about the step between two checkpoints.

    Yields:
        One row per parameter tensor.
    """
    for layer in found.layers:
        yield {"layer": layer.name, **_step(layer)}


def _step(step: LayerStep) -> dict[str, Value]:
    return {
        **{name: getattr(step, name) for name in ("parameters", "distance", "relative_distance", "cosine")},
        **estimate_cells("quadratic_a", step.quadratic_a),
        **estimate_cells("quadratic_b", step.quadratic_b),
    }
