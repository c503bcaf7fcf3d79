"""What the record of a run, `name.fisher/record.json`, says beside its tables, as JSON."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from fisher_cli.results import Density, Estimate, ExampleSummary, Ledger, Spectrum


def ledger_record(ledger: Ledger) -> dict[str, Any]:
    """A ledger as JSON values for the record; shares of the work, 0 to 1, are of operations after the forward pass."""
    return {
        "values": sum(entry.values for entry in ledger.entries),
        "backward_passes_per_batch": ledger.directions,
        "work_of_backward_passes": ledger.backward,
        "parameters": [asdict(entry) for entry in ledger.entries],
    }


def spectrum_record(spectrum: Spectrum) -> dict[str, Any]:
    """What the eigenvalues of one matrix say, and how they were found, as JSON values; the table holds the eigenvalues.

    Numbers of `leading_share` and `gap_profile` that are not finite are None.
    """
    leading = spectrum.leading
    return {
        "matrix": spectrum.matrix,
        "method": leading.method,
        "converged": leading.converged,
        "products": leading.products + spectrum.products,
        "is_whole": spectrum.is_whole,
        "rank": spectrum.rank,
        "floor": spectrum.floor,
        "bound": spectrum.bound,
        "trace": spectrum.trace,
        "leading": len(leading.values),
        "leading_share": next(reversed(_finite(spectrum.shares[: len(leading.values)])), None),
        "gap_profile": _finite(spectrum.gaps),
        "effective_rank": _estimate(spectrum.effective_rank),
        "effective_rank_probes": spectrum.norm_probes,
        "damping": spectrum.damping,
        "effective_dimension": _estimate(spectrum.effective_dimension),
        "normalised_effective_dimension": spectrum.normalised_dimension,
        "normalised_effective_dimension_of": {"n": spectrum.examples, "gamma": 1.0, "thetas": 1},
        "gradient_share": spectrum.gradient_share,
        "subspace_overlap": spectrum.overlap,
        "density": _density(spectrum.density),
    }


def examples_record(summary: ExampleSummary | None) -> dict[str, Any] | None:
    """What the examples of one checkpoint say together, as JSON values; the table of groups holds the means.

    Returns:
        None without a summary; AUROC and the ratio of noisy to clean only where examples are marked noisy.
    """
    if summary is None:
        return None
    found = {"largest": [asdict(each) for each in summary.concentration]}
    if summary.noise is None:
        return found
    noise = summary.noise
    detectors = {"trace_true": noise.auroc_true, "trace_empirical": noise.auroc_empirical, "loss": noise.auroc_loss}
    return found | {
        "noisy_to_clean": None if noise.ratio is None else asdict(noise.ratio),
        "auroc": {
            name: None if each is None else {"value": each.value, "se": each.standard_error}
            for name, each in detectors.items()
        },
    }


def parameterisation(likelihood: str | None, outputs: int | None) -> str | None:
    """In words, what distribution the outputs parameterise: the Fisher belongs to it as much as to the predictions.

    Args:
        likelihood: `softmax`, `sigmoid` or `gaussian`.
        outputs: C, how many outputs the network has.

    Returns:
        None where one of them is not known.
    """
    if likelihood is None or outputs is None:
        return None
    if likelihood == "gaussian":
        return f"gaussian: {outputs} means, unit variance"
    if likelihood == "softmax":
        text = f"softmax over {outputs} logits"
        return f"{text}; the same classifier with one logit would have half this Fisher" if outputs == 2 else text
    text = f"sigmoid: {outputs} independent yes-or-no labels, a logit each"
    binary = "sigmoid: one logit; the same classifier with two softmax logits would have twice this Fisher"
    return binary if outputs == 1 else text


def _estimate(estimate: Estimate | None) -> dict[str, float | None] | None:
    return None if estimate is None else {"value": estimate.value, "estimator_se": estimate.estimator_error}


def _density(density: Density | None) -> dict[str, Any] | None:
    if density is None:
        return None
    return {
        "probes": len(density.nodes),
        "steps": max((len(nodes) for nodes in density.nodes), default=0),
        "width": density.width,
        "axis": density.axis,
        "floor": density.floor,
        "share_below_floor": _estimate(density.zeros),
    }


def _finite(values: Iterable[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
