"""What a Measurement says, as rows: column name → value, absent or None where nothing was found."""

from collections.abc import Iterator

from fisher_cli.results import Eigenvalues, Estimate, Measurement, Spectrum, Status

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
