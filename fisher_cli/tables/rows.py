"""What a Measurement says, as rows: column name → value, absent or None where nothing was found."""

from collections.abc import Iterator
from dataclasses import fields

from fisher_cli.results import (
    CheckpointComparison,
    Eigenvalues,
    Estimate,
    ExampleGroup,
    ExampleRow,
    Interval,
    LayerStep,
    Measurement,
    Spectrum,
    Status,
)

Value = str | int | float | None


def main_row(
    measurement: Measurement, order: int, eigenvalues: int, path_length: float | None = None, phase: str | None = None
) -> dict[str, Value]:
    """One checkpoint's row of the main table, with at most `eigenvalues` eigenvalues of either Fisher.

    The length of the path so far and the phase come from the other rows.
    """
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
        "path_length": path_length,
        "phase": phase,
        "status": measurement.status,
        "error": measurement.error,
    }
    if predictions := measurement.predictions:
        row |= estimate_cells("loss", predictions.loss) | estimate_cells("accuracy", predictions.accuracy)
        row["entropy"] = predictions.entropy.value
    if trace := measurement.trace:
        row |= estimate_cells("trace_true", trace.true) | estimate_cells("trace_empirical", trace.empirical)
        row |= estimate_cells("trace_ratio", trace.ratio)
        row["trace_true_estimator_se"] = trace.true.estimator_error
        row["trace_estimator"] = trace.estimator
    if gradient := measurement.gradient:
        row["trace_covariance"] = gradient.covariance
        row["gradient_norm_squared"] = gradient.norm_squared
        row |= estimate_cells("gradient_snr", gradient.signal_to_noise)
        row |= estimate_cells("noise_scale", gradient.noise_scale)
    if movement := measurement.movement:
        row |= estimate_cells("trace_true_change", movement.trace_change) | estimate_cells("kl_step", movement.kl)
        row |= estimate_cells("kl_step_quadratic", movement.kl_quadratic)
        row |= estimate_cells("kl_step_parameters", movement.kl_parameters or movement.kl)
    for spectrum in measurement.spectra:
        if spectrum.matrix == "true":
            row |= _shape(spectrum)
    row |= _eigenvalues("eig_true", measurement.eigenvalues_true, eigenvalues)
    return row | _eigenvalues("eig_empirical", measurement.eigenvalues_empirical, eigenvalues)


def estimate_cells(name: str, estimate: Estimate | None) -> dict[str, Value]:
    """An estimate's two cells."""
    if estimate is None:
        return {}
    return {name: estimate.value, f"{name}_se": estimate.standard_error}


def _shape(spectrum: Spectrum) -> dict[str, Value]:
    """What the eigenvalues of the true Fisher say."""
    rank, dimension = spectrum.effective_rank, spectrum.effective_dimension
    return {
        "effective_rank": rank.value if rank else None,
        "effective_rank_estimator_se": rank.estimator_error if rank else None,
        "effective_dimension": dimension.value if dimension else None,
        "subspace_overlap": spectrum.overlap,
    }


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
        yield row | estimate_cells("trace_true", layer.true) | estimate_cells("trace_empirical", layer.empirical)


def spectrum_rows(measurement: Measurement, order: int) -> Iterator[dict[str, Value]]:
    """One checkpoint's rows of the table of eigenvalues.

    Yields:
        One row per matrix and eigenvalue; for a checkpoint without any a row that says why.
    """
    place: dict[str, Value] = {"checkpoint": measurement.checkpoint, "order": order, "step": measurement.step}
    if not measurement.spectra:
        yield place | {"status": measurement.status, "error": measurement.error}
    for spectrum in measurement.spectra:
        leading, errors = spectrum.leading, spectrum.errors or ()
        ending: dict[str, Value] = {
            "eig_method": leading.method,
            "status": Status.OK if leading.converged else Status.NOT_CONVERGED,
            "error": "" if leading.converged else measurement.error,
        }
        for i, value in enumerate(spectrum.values):
            yield (
                place
                | ending
                | {
                    "matrix": f"{spectrum.matrix} Fisher",  # spreadsheets read a lone "true" as a truth value
                    "index": i + 1,
                    "eigenvalue": value,
                    "eigenvalue_residual": leading.residuals[i] if i < len(leading.residuals) else None,
                    "eigenvalue_se": errors[i] if i < len(errors) else None,
                    "trace_share": spectrum.shares[i],
                }
            )


def density_rows(measurement: Measurement, order: int) -> Iterator[dict[str, Value]]:
    """One checkpoint's rows of the table of densities.

    Yields:
        One row per matrix and grid value, for the matrices whose density was estimated.
    """
    place: dict[str, Value] = {"checkpoint": measurement.checkpoint, "order": order, "step": measurement.step}
    for spectrum in measurement.spectra:
        if (found := spectrum.density) is None:
            continue
        for i, value in enumerate(found.grid):
            least, most = found.cumulative_range[i]
            yield place | {
                "matrix": f"{spectrum.matrix} Fisher",
                "lambda": value,
                "density": found.density[i],
                "cumulative": found.cumulative[i],
                "cumulative_estimator_se": found.cumulative_error[i] if found.cumulative_error else None,
                "cumulative_least": least,
                "cumulative_most": most,
            }


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


_FIELDS = tuple(field.name for field in fields(ExampleRow))


def place_of(measurement: Measurement, order: int) -> dict[str, Value]:
    """The columns that say which checkpoint a row is about."""
    return {"checkpoint": measurement.checkpoint, "order": order, "step": measurement.step}


def example_row(measurement: Measurement, order: int, example: ExampleRow) -> dict[str, Value]:
    """One example's row of the table of examples."""
    estimator = measurement.trace.estimator if measurement.trace else None
    ending: dict[str, Value] = {"trace_estimator": estimator, "status": measurement.status, "error": measurement.error}
    return place_of(measurement, order) | {name: getattr(example, name) for name in _FIELDS} | ending


def failed_row(measurement: Measurement, order: int) -> dict[str, Value]:
    """The row of a checkpoint whose examples could not be measured."""
    return place_of(measurement, order) | {"status": measurement.status, "error": measurement.error}


def group_rows(measurement: Measurement, order: int) -> Iterator[dict[str, Value]]:
    """One checkpoint's rows of the table of groups.

    Yields:
        One row per class, then the clean and the noisy examples where they are marked.
    """
    summary = measurement.example_summary
    if summary is None:
        return
    noise = summary.noise
    by_noise = (noise.clean, noise.noisy) if noise else ()
    for grouping, groups in (("label", summary.classes), ("noise", by_noise)):
        for group in groups:
            yield place_of(measurement, order) | {"grouping": grouping} | _group(group)


def _group(group: ExampleGroup) -> dict[str, Value]:
    row: dict[str, Value] = {"group": group.name, "examples": group.examples, "share": group.share}
    estimates: dict[str, Estimate | None] = {
        "trace_true": group.trace_true,
        "trace_empirical": group.trace_empirical,
        "loss": group.loss,
        "accuracy": group.accuracy,
    }
    for name, estimate in estimates.items():
        row |= estimate_cells(name, estimate)
    return row


def task2vec_rows(measurement: Measurement, order: int) -> Iterator[dict[str, Value]]:
    """One checkpoint's rows of the table of its task vector.

    Yields:
        One row per weight tensor and filter.
    """
    for layer in measurement.task2vec:
        for i, mean in enumerate(layer.means):
            yield place_of(measurement, order) | {"layer": layer.name, "filter": i, "task2vec": mean}
