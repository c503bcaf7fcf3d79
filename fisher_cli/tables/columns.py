"""The glossary: every column of the reports, with its kind, its unit and what it means.

The order is the order in the files. Columns are only ever appended, so that old spreadsheets keep working.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What the cells of a column hold; any cell may be empty."""

    TEXT = "text"
    INTEGER = "integer"
    REAL = "real"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a report. `unit` is "" for pure numbers and for text."""

    name: str
    kind: Kind
    unit: str
    description: str


TEXT, INTEGER, REAL = Kind.TEXT, Kind.INTEGER, Kind.REAL
CURVATURE = "1/weight²"  # a trace or an eigenvalue: nats per squared unit of the weights

COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", INTEGER, "", "position in the sequence, from 0"),
    Column("step", INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("epoch", REAL, "epochs", "training epoch; may be a fraction"),
    Column("architecture", TEXT, "", "the network that the weights were loaded into"),
    Column("weights", TEXT, "", "which weights were analysed: raw, ema or averaged"),
    Column("parameters", INTEGER, "", "number of weights analysed; tied ones count once"),
    Column("examples", INTEGER, "", "number of examples that the means run over"),
    Column("classes", INTEGER, "", "number of outputs of the network"),
    Column("loss", REAL, "nats", "mean of −log p(label)"),
    Column("loss_se", REAL, "nats", "standard error of loss over examples"),
    Column("accuracy", REAL, "", "fraction of examples whose most probable class is the label"),
    Column("accuracy_se", REAL, "", "standard error of accuracy over examples"),
    Column("entropy", REAL, "nats", "mean entropy of the predicted distribution"),
    Column("trace_true", REAL, CURVATURE, "trace of the true Fisher: labels follow the model"),
    Column("trace_true_se", REAL, CURVATURE, "standard error of trace_true over examples"),
    Column(
        "trace_true_estimator_se", REAL, CURVATURE, "error from sampled labels or signs; 0 if exact, empty if unknown"
    ),
    Column("trace_estimator", TEXT, "", "how trace_true was computed: exact, deflated or sampled"),
    Column("trace_empirical", REAL, CURVATURE, "trace of the empirical Fisher: labels of the dataset"),
    Column("trace_empirical_se", REAL, CURVATURE, "standard error of trace_empirical over examples"),
    Column("trace_ratio", REAL, "", "trace_empirical / trace_true"),
    Column("trace_ratio_se", REAL, "", "standard error of trace_ratio over examples"),
    Column("trace_true_change", REAL, CURVATURE, "trace_true minus that of the row before, paired"),
    Column("trace_true_change_se", REAL, CURVATURE, "standard error of trace_true_change over examples"),
    Column("trace_covariance", REAL, CURVATURE, "trace_empirical minus gradient_norm_squared"),
    Column("gradient_norm_squared", REAL, CURVATURE, "squared norm of the mean gradient of the loss"),
    Column("gradient_snr", REAL, "", "signal-to-noise ratio of one example's gradient; empty unless above 0"),
    Column("gradient_snr_se", REAL, "", "standard error of gradient_snr"),
    Column("eig_true_method", TEXT, "", "how the eigenvalues of the true Fisher were found"),
    Column("eig_empirical_method", TEXT, "", "how the eigenvalues of the empirical Fisher were found"),
    Column("effective_rank", REAL, "", "squared trace over squared Frobenius norm of the true Fisher"),
    Column("effective_dimension", REAL, "", "Σ λ/(λ + 1/N) of the true Fisher: directions that the data determine"),
    Column("subspace_overlap", REAL, "", "overlap of the true Fisher's leading eigenspace with that of the row before"),
    Column("kl_step", REAL, "nats", "mean KL divergence from the row before to this row's predictions"),
    Column("kl_step_quadratic", REAL, "nats", "½ΔᵀFΔ of the step from the row before, with its true Fisher"),
    Column("path_length", REAL, "√nats", "√(ΔᵀFΔ) summed over the steps so far"),
    Column("phase", TEXT, "", "low early, rising, high (fitting or memorising), falling, or low, converged"),
    Column("status", TEXT, "", "ok, not-converged, rejected (the file) or failed (the computation)"),
    Column("error", TEXT, "", "what went wrong, in one line"),
)

LAYER_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("layer", TEXT, "", "name of the parameter tensor"),
    Column("parameters", INTEGER, "", "number of weights in the tensor"),
    Column("method", TEXT, "", "the rule that computed the tensor's gradient norms"),
    Column("trace_true", REAL, CURVATURE, "the tensor's part of the trace of the true Fisher"),
    Column("trace_true_se", REAL, CURVATURE, "standard error of trace_true over examples"),
    Column("trace_empirical", REAL, CURVATURE, "the tensor's part of the trace of the empirical Fisher"),
    Column("trace_empirical_se", REAL, CURVATURE, "standard error of trace_empirical over examples"),
    Column("share", REAL, "", "the tensor's trace_true over that of the whole network"),
)

# Appended after the eigenvalues, where files of earlier versions end.
LATER_COLUMNS: tuple[Column, ...] = (
    Column("effective_rank_estimator_se", REAL, "", "error of effective_rank from random probes; 0 if exact"),
    Column("kl_step_se", REAL, "nats", "standard error of kl_step over examples"),
    Column("kl_step_quadratic_se", REAL, "nats", "standard error of kl_step_quadratic over examples"),
    Column("kl_step_parameters", REAL, "nats", "kl_step if only the analysed parameters had moved"),
    Column("kl_step_parameters_se", REAL, "nats", "standard error of kl_step_parameters over examples"),
    Column("noise_scale", REAL, "examples", "gradient noise scale B_simple, tr Σ/|G|²; empty unless |G|² is above 0"),
    Column("noise_scale_se", REAL, "examples", "standard error of noise_scale"),
)

SPECTRUM_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("matrix", TEXT, "", "whose eigenvalue it is: true Fisher or empirical Fisher"),
    Column("index", INTEGER, "", "the eigenvalue's place in descending order, from 1"),
    Column("eigenvalue", REAL, CURVATURE, "the eigenvalue; those left out are zero to rounding, or not known"),
    Column("eigenvalue_residual", REAL, CURVATURE, "residual ‖Fv − θv‖ of a leading eigenvalue, recomputed"),
    Column("eigenvalue_se", REAL, CURVATURE, "standard error of a leading eigenvalue over examples, by bootstrap"),
    Column("trace_share", REAL, "", "sum of the eigenvalues down to this one over the trace"),
    Column("eig_method", TEXT, "", "how the eigenvalues were found"),
    Column("status", TEXT, "", "ok, not-converged, rejected (the file) or failed (the computation)"),
    Column("error", TEXT, "", "what went wrong, in one line"),
)

DENSITY_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("matrix", TEXT, "", "whose eigenvalues: true Fisher or empirical Fisher"),
    Column("lambda", REAL, CURVATURE, "a value that an eigenvalue can have"),
    Column("density", REAL, "1/decade", "share of the eigenvalues per decade there, each a Gaussian of 0.1 decades"),
    Column("cumulative", REAL, "", "share of the eigenvalues that are at most lambda, not broadened"),
    Column("cumulative_estimator_se", REAL, "", "error of cumulative from random probes"),
    Column("cumulative_least", REAL, "", "what cumulative is at least, given these probes"),
    Column("cumulative_most", REAL, "", "what cumulative is at most, given these probes"),
)

IDENTITY_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("identity", TEXT, "", "name of the identity"),
    Column("formula", TEXT, "", "what must hold"),
    Column("source", TEXT, "", "where the identity comes from"),
    Column("verdict", TEXT, "", "pass, fail, undecided or not applicable"),
    Column("ours", REAL, "", "the side that fisher computes; of many numbers the worst"),
    Column("independent", REAL, "", "the other side, by a way that shares as little code as possible"),
    Column("identity_error", REAL, "", "difference of the sides relative to the scale"),
    Column("tolerance", REAL, "", "largest identity_error that passes"),
    Column("scale", TEXT, "", "what identity_error is relative to"),
    Column("sides", TEXT, "", "how ours and the independent side are computed, in this order"),
    Column("why", TEXT, "", "why the tolerance is what it is, and what was looked at"),
    Column("reason", TEXT, "", "why the identity fails, is undecided, or does not apply"),
    Column("status", TEXT, "", "ok, rejected (the file) or failed (the computation)"),
    Column("error", TEXT, "", "what went wrong with the checkpoint, in one line"),
)

EXPANSION_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("epsilon", REAL, "", "length of the step ε relative to that of the parameters"),
    Column("deviation_single", REAL, "", "KL(q_θ ‖ q_θ+ε) over ½ εᵀFε, less one"),
    Column("slope_single", REAL, "", "d log |deviation_single| / d log ‖ε‖, expected 1"),
    Column("deviation_averaged", REAL, "", "the same averaged over +ε and −ε"),
    Column("slope_averaged", REAL, "", "d log |deviation_averaged| / d log ‖ε‖, expected 2; empty where units switch"),
)

EXAMPLE_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("index", INTEGER, "", "the example's place within the split, from 0"),
    Column("label", INTEGER, "", "the example's class, of the dataset or of the file of labels"),
    Column("label_name", TEXT, "", "the name of that class"),
    Column("predicted", INTEGER, "", "the most probable class"),
    Column("predicted_name", TEXT, "", "the name of that class"),
    Column("correct", REAL, "", "1 if predicted is label, else 0; of yes-or-no labels the fraction that is right"),
    Column("noisy", INTEGER, "", "1 if the file of labels marks the example as noisy, else 0"),
    Column("loss", REAL, "nats", "−log p(label)"),
    Column("probability", REAL, "", "p(label)"),
    Column("entropy", REAL, "nats", "entropy of the predicted distribution"),
    Column("trace_true", REAL, CURVATURE, "Σ_c p_c ‖∇ log p_c‖²: the example's term of the true trace"),
    Column("trace_empirical", REAL, CURVATURE, "‖∇ log p(label)‖²: its term of the empirical trace"),
    Column("share", REAL, "", "its trace_true over the sum of all examples"),
    Column("rank", INTEGER, "", "its place by trace_true, the largest first, from 1"),
    Column("trace_estimator", TEXT, "", "how trace_true was computed: exact, deflated or sampled"),
    Column("status", TEXT, "", "ok, not-converged, rejected (the file) or failed (the computation)"),
    Column("error", TEXT, "", "what went wrong, in one line"),
)

GROUP_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("grouping", TEXT, "", "what the examples are grouped by: label, or noise as the file of labels marks it"),
    Column("group", TEXT, "", "the group's name"),
    Column("examples", INTEGER, "", "number of its examples"),
    Column("trace_true", REAL, CURVATURE, "mean of trace_true over the group"),
    Column("trace_true_se", REAL, CURVATURE, "standard error of trace_true over the group's examples"),
    Column("trace_empirical", REAL, CURVATURE, "mean of trace_empirical over the group"),
    Column("trace_empirical_se", REAL, CURVATURE, "standard error of trace_empirical over the group's examples"),
    Column("loss", REAL, "nats", "mean of −log p(label) over the group"),
    Column("loss_se", REAL, "nats", "standard error of loss over the group's examples"),
    Column("accuracy", REAL, "", "fraction of the group whose most probable class is the label"),
    Column("accuracy_se", REAL, "", "standard error of accuracy over the group's examples"),
    Column("share", REAL, "", "the group's part of the sum of trace_true over all examples"),
)

TASK2VEC_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("layer", TEXT, "", "name of the weight tensor"),
    Column("filter", INTEGER, "", "the filter's place in the tensor, from 0"),
    Column("task2vec", REAL, CURVATURE, "mean of the diagonal of the true Fisher over the filter's weights"),
)

MAIN = {column.name: column for column in COLUMNS}

# One row per checkpoint and quantity: the main table and that of layers, melted.
LONG_COLUMNS: tuple[Column, ...] = (
    *(MAIN[name] for name in ("checkpoint", "order", "step")),
    Column("layer", TEXT, "", "name of the parameter tensor that the row is about; empty: the whole network"),
    Column("quantity", TEXT, "", "name of the wide table's column, without the number of an eigenvalue"),
    Column("index", INTEGER, "", "the eigenvalue's place in descending order, from 1"),
    Column("value", REAL, "", "the quantity as a number, in the unit of this row; empty where it is text"),
    Column("value_se", REAL, "", "standard error of value over examples"),
    Column("value_estimator_se", REAL, "", "what sampled labels, signs or random probes add to its error"),
    Column("value_residual", REAL, "", "residual ‖Fv − θv‖ of an eigenvalue, recomputed"),
    Column("value_low", REAL, "", "lower end of the interval of value"),
    Column("value_high", REAL, "", "upper end of the interval of value"),
    Column("value_null", REAL, "", "mean of value if the labels came from the model"),
    Column("value_null_sd", REAL, "", "standard deviation of value if the labels came from the model"),
    Column("value_text", TEXT, "", "the quantity where it is text, such as a method or a phase"),
    Column("unit", TEXT, "", "unit of value and of its errors; empty for pure numbers and text"),
    *(MAIN[name] for name in ("status", "error")),
)

INSPECTION_COLUMNS: tuple[Column, ...] = (
    *(MAIN[name] for name in ("checkpoint", "order", "step", "epoch")),
    Column(
        "format", TEXT, "", "container: torch zip, torch legacy, safetensors (and shards of these), torch distributed"
    ),
    Column("integrity", TEXT, "", "whether the container has checksums, and that they hold"),
    Column("weights_key", TEXT, "", "where in the file the weights are, as for --state-key"),
    MAIN["weights"],
    Column("tensors", INTEGER, "", "number of named tensors among the weights"),
    MAIN["architecture"],
    Column(
        "architecture_source",
        TEXT,
        "",
        "who chose the architecture: the file, the option --model, or names and shapes",
    ),
    Column("parameters", INTEGER, "", "number of trainable weights of the network; tied ones count once"),
    Column("notes", TEXT, "", "what was changed or left out in reading, and why this architecture"),
    Column("sha256", TEXT, "", "hash of the content: of the file, or of the names and hashes of a folder's files"),
    *(MAIN[name] for name in ("status", "error")),
    Column("step_source", TEXT, "", "who tells step and epoch: entries of the file, its name, or only the order"),
)

LEDGER_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", TEXT, "", "checkpoint whose measurement is described"),
    Column("layer", TEXT, "", "name of the parameter tensor"),
    Column("parameters", INTEGER, "", "number of weights in the tensor"),
    Column("method", TEXT, "", "the rule that computed the tensor's gradient norms"),
    Column("work", REAL, "", "the tensor's share of the operations; the rest are the backward passes of all"),
)


def eigenvalue_columns(count: int) -> tuple[Column, ...]:
    """The columns of the `count` largest eigenvalues of both Fishers, each with its residual."""
    columns: list[Column] = []
    for i in range(1, count + 1):
        for kind in ("true", "empirical"):
            name = f"eig_{kind}_{i}"
            text = f"eigenvalue {i} of the {kind} Fisher, in descending order"
            columns.append(Column(name, REAL, CURVATURE, text))
            text = f"residual ‖Fv − θv‖ of {name}, explicitly recomputed"
            columns.append(Column(f"{name}_residual", REAL, CURVATURE, text))
    return tuple(columns)


def main_columns(eigenvalues: int) -> tuple[Column, ...]:
    """All columns of the main table when `eigenvalues` of them were asked for."""
    return COLUMNS + eigenvalue_columns(eigenvalues) + LATER_COLUMNS


_FISHER_STEP = "½ΔᵀFΔ of the step from a to b, with the true Fisher of"
CHECKPOINT_COMPARISON_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint_a", TEXT, "", "path of checkpoint a relative to both checkpoints' common folder"),
    Column("checkpoint_b", TEXT, "", "path of checkpoint b relative to both checkpoints' common folder"),
    Column("step_a", INTEGER, "steps", "training step that checkpoint a or its name states"),
    Column("step_b", INTEGER, "steps", "training step that checkpoint b or its name states"),
    *(MAIN[name] for name in ("architecture", "parameters", "examples", "classes")),
    Column("kl_ab", REAL, "nats", "mean KL divergence from the predictions of a to those of b"),
    Column("kl_ab_se", REAL, "nats", "standard error of kl_ab over examples"),
    Column("kl_ba", REAL, "nats", "mean KL divergence from the predictions of b to those of a"),
    Column("kl_ba_se", REAL, "nats", "standard error of kl_ba over examples"),
    Column("kl_ab_parameters", REAL, "nats", "kl_ab if only the analysed parameters differed"),
    Column("kl_ab_parameters_se", REAL, "nats", "standard error of kl_ab_parameters over examples"),
    Column("quadratic_a", REAL, "nats", f"{_FISHER_STEP} a: the second-order view of kl_ab_parameters"),
    Column("quadratic_a_se", REAL, "nats", "standard error of quadratic_a over examples"),
    Column("quadratic_b", REAL, "nats", f"{_FISHER_STEP} b: the second-order view of kl_ba"),
    Column("quadratic_b_se", REAL, "nats", "standard error of quadratic_b over examples"),
    Column("cross_terms_a", REAL, "nats", "quadratic_a minus the sum of its parts by parameter tensor"),
    Column("cross_terms_b", REAL, "nats", "quadratic_b minus the sum of its parts by parameter tensor"),
    Column("agreement", REAL, "", "fraction of examples for which both predict the same"),
    Column("agreement_se", REAL, "", "standard error of agreement over examples"),
    Column("loss_a", REAL, "nats", "mean of −log p(label) of a"),
    Column("loss_a_se", REAL, "nats", "standard error of loss_a over examples"),
    Column("loss_b", REAL, "nats", "mean of −log p(label) of b"),
    Column("loss_b_se", REAL, "nats", "standard error of loss_b over examples"),
    Column("accuracy_a", REAL, "", "fraction of examples whose label a predicts"),
    Column("accuracy_a_se", REAL, "", "standard error of accuracy_a over examples"),
    Column("accuracy_b", REAL, "", "fraction of examples whose label b predicts"),
    Column("accuracy_b_se", REAL, "", "standard error of accuracy_b over examples"),
    Column("distance", REAL, "weight", "norm of the step Δ between the analysed parameters"),
    Column("relative_distance", REAL, "", "distance over the norm of the analysed parameters of a"),
    Column("cosine", REAL, "", "cosine of the angle between the analysed parameters of a and those of b"),
)

LAYER_STEP_COLUMNS: tuple[Column, ...] = (
    Column("layer", TEXT, "", "name of the parameter tensor"),
    Column("parameters", INTEGER, "", "number of weights in the tensor"),
    Column("distance", REAL, "weight", "norm of the tensor's step from a to b"),
    Column("relative_distance", REAL, "", "distance over the norm of the tensor in a"),
    Column("cosine", REAL, "", "cosine of the angle between the tensor in a and in b"),
    Column("quadratic_a", REAL, "nats", f"{_FISHER_STEP} a, of this tensor alone"),
    Column("quadratic_a_se", REAL, "nats", "standard error of quadratic_a over examples"),
    Column("quadratic_b", REAL, "nats", f"{_FISHER_STEP} b, of this tensor alone"),
    Column("quadratic_b_se", REAL, "nats", "standard error of quadratic_b over examples"),
)

_NULL = "if the labels came from the model"

COMPARISON_COLUMNS: tuple[Column, ...] = (
    *(MAIN[name] for name in ("checkpoint", "order", "step", "epoch", "architecture", "parameters", "examples")),
    *(MAIN[name] for name in ("classes", "loss", "accuracy", "trace_true", "trace_true_se")),
    *(MAIN[name] for name in ("trace_true_estimator_se", "trace_estimator", "trace_empirical", "trace_empirical_se")),
    Column("trace_difference", REAL, CURVATURE, "trace_empirical minus trace_true, paired"),
    Column("trace_difference_se", REAL, CURVATURE, "standard error of trace_difference over examples"),
    Column("trace_difference_low", REAL, CURVATURE, "lower end of its interval by the studentised bootstrap"),
    Column("trace_difference_high", REAL, CURVATURE, "upper end of its interval"),
    MAIN["trace_ratio"],
    Column("trace_ratio_se", REAL, "", "standard error of trace_ratio over examples, by the delta method"),
    Column("trace_ratio_low", REAL, "", "lower end of its interval by the studentised bootstrap"),
    Column("trace_ratio_high", REAL, "", "upper end of its interval"),
    Column("intervals", TEXT, "", "95 %, or nominal: too few examples carry the values for that coverage"),
    Column("trace_ratio_null_sd", REAL, "", f"standard deviation of trace_ratio {_NULL}; its mean is one"),
    Column("null_method", TEXT, "", "how that was computed: exact over all labels, or sampled labels"),
    Column("null_carriers", REAL, "", "number of equal examples that would give trace_empirical that deviation"),
    Column("trace_z", REAL, "", "trace_difference over its standard deviation under that null"),
    Column("matrix_method", TEXT, "", "how the matrices were compared: gram (exact) or products (random probes)"),
    Column("norm_true", REAL, CURVATURE, "Frobenius norm ‖F‖ of the true Fisher"),
    Column("norm_true_estimator_se", REAL, CURVATURE, "its error from random probes; 0 if exact"),
    Column("norm_empirical", REAL, CURVATURE, "Frobenius norm ‖F̂‖ of the empirical Fisher"),
    Column("norm_empirical_estimator_se", REAL, CURVATURE, "its error from random probes; 0 if exact"),
    Column("norm_empirical_null", REAL, CURVATURE, f"root of the mean of ‖F̂‖² {_NULL}"),
    Column("inner_product", REAL, "1/weight⁴", f"⟨F, F̂⟩ = tr F F̂; {_NULL} its mean is norm_true²"),
    Column("inner_product_estimator_se", REAL, "1/weight⁴", "its error from random probes; 0 if exact"),
    Column("matrix_difference", REAL, "", "‖F̂ − F‖/‖F‖ in the Frobenius norm"),
    Column("matrix_difference_estimator_se", REAL, "", "its error from random probes; 0 if exact"),
    Column("matrix_difference_null", REAL, "", f"root of the mean of its square {_NULL}"),
    Column("matrix_difference_null_sd", REAL, "", "its standard deviation over sets of labels drawn"),
    Column("matrix_cosine", REAL, "", "⟨F, F̂⟩/(‖F‖ ‖F̂‖)"),
    Column("matrix_cosine_estimator_se", REAL, "", "its error from random probes; 0 if exact"),
    Column("matrix_cosine_null", REAL, "", f"the cosine of the mean norms and product {_NULL}"),
    Column("matrix_cosine_null_sd", REAL, "", "its standard deviation over sets of labels drawn"),
    Column("damping", REAL, CURVATURE, "α of the natural gradients (F + αI)⁻¹ḡ and (F̂ + αI)⁻¹ḡ"),
    Column("natural_gradient_cosine", REAL, "", "cosine of the angle between the two natural gradients"),
    Column("natural_gradient_cosine_null", REAL, "", f"its mean {_NULL}, the gradient ḡ staying as it is"),
    Column("natural_gradient_cosine_null_sd", REAL, "", "its standard deviation over sets of labels drawn"),
    Column("natural_gradient_residual", REAL, "", "larger relative residual of the two linear systems, recomputed"),
    Column("gradient_cosine_true", REAL, "", "cosine of (F + αI)⁻¹ḡ and ḡ"),
    Column("gradient_cosine_empirical", REAL, "", "cosine of (F̂ + αI)⁻¹ḡ and ḡ"),
    Column("inverse_product", REAL, "", "tr (F + αI)⁻¹F̂, where all eigenvalues of F are known"),
    Column("inverse_product_null", REAL, "", f"tr (F + αI)⁻¹F: its mean {_NULL}"),
    Column("eigenspace_overlap", REAL, "", "overlap of the leading eigenspaces of F and F̂"),
    Column("eigenspace_overlap_null", REAL, "", f"its mean {_NULL}"),
    Column("eigenspace_overlap_null_sd", REAL, "", "its standard deviation over sets of labels drawn"),
    Column("null_draws", INTEGER, "", "sets of labels drawn from the model for the nulls without a closed form"),
    Column("finding", TEXT, "", "fitted, surprised, shifted, indistinguishable, undecided or zero"),
    Column("verdict", TEXT, "", "the finding in words, with the figure behind it"),
    *(MAIN[name] for name in ("status", "error")),
)

COMPARISON_LAYER_COLUMNS: tuple[Column, ...] = (
    *(MAIN[name] for name in ("checkpoint", "order", "step")),
    Column("layer", TEXT, "", "name of the parameter tensor"),
    Column("parameters", INTEGER, "", "number of weights in the tensor"),
    Column("trace_true", REAL, CURVATURE, "the tensor's part of the trace of the true Fisher"),
    Column("trace_true_se", REAL, CURVATURE, "standard error of trace_true over examples"),
    Column("trace_empirical", REAL, CURVATURE, "the tensor's part of the trace of the empirical Fisher"),
    Column("trace_empirical_se", REAL, CURVATURE, "standard error of trace_empirical over examples"),
    Column("trace_ratio", REAL, "", "trace_empirical / trace_true"),
    Column("trace_ratio_null_sd", REAL, "", f"standard deviation of trace_ratio {_NULL}; its mean is one"),
    Column("trace_z", REAL, "", "trace_empirical − trace_true over its standard deviation under that null"),
)


def comparison_columns(eigenvalues: int) -> tuple[Column, ...]:
    """All columns of the comparison when `eigenvalues` of both matrices were asked for."""
    return COMPARISON_COLUMNS + eigenvalue_columns(eigenvalues)


# Where tables share a name, the later one's words are taken; the kind is the same.
KNOWN: dict[str, Column] = {
    column.name: column
    for columns in (
        LONG_COLUMNS,
        *(EXPANSION_COLUMNS, IDENTITY_COLUMNS, TASK2VEC_COLUMNS, GROUP_COLUMNS, EXAMPLE_COLUMNS),
        *(DENSITY_COLUMNS, SPECTRUM_COLUMNS),
        *(LAYER_STEP_COLUMNS, CHECKPOINT_COMPARISON_COLUMNS, COMPARISON_LAYER_COLUMNS, COMPARISON_COLUMNS),
        *(LEDGER_COLUMNS, INSPECTION_COLUMNS, LAYER_COLUMNS, COLUMNS, LATER_COLUMNS),
    )
    for column in columns
}
INTEGER_TEXT = re.compile(r"-?[0-9]+")
_EIGENVALUE = re.compile(r"eig_(?:true|empirical)_([1-9][0-9]{0,3})(?:_residual)?")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?")


def column_named(name: str, values: Iterable[Any]) -> Column:
    """What the glossary says about a column; else a column of the narrowest kind that holds all values."""
    if name in KNOWN:
        return KNOWN[name]
    if match := _EIGENVALUE.fullmatch(name):
        return next(column for column in eigenvalue_columns(int(match[1])) if column.name == name)
    texts = [str(value) for value in values if value not in (None, "")]
    for kind, pattern in ((Kind.INTEGER, INTEGER_TEXT), (Kind.REAL, _NUMBER)):
        if texts and all(pattern.fullmatch(text) for text in texts):
            return Column(name, kind, "", "")
    return Column(name, Kind.TEXT, "", "")
