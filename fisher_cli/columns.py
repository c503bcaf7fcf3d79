"""The glossary: every column of the reports, with its kind, its unit and what it means.

The order is the order in the files. Columns are only ever appended, so that old spreadsheets keep working.
"""

from dataclasses import dataclass
from enum import StrEnum


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


_TEXT, _INTEGER, _REAL = Kind.TEXT, Kind.INTEGER, Kind.REAL
_CURVATURE = "1/weight²"  # a trace or an eigenvalue: nats per squared unit of the weights

COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", _TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", _INTEGER, "", "position in the sequence, from 0"),
    Column("step", _INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("epoch", _REAL, "epochs", "training epoch; may be a fraction"),
    Column("architecture", _TEXT, "", "the network that the weights were loaded into"),
    Column("weights", _TEXT, "", "which weights were analysed: raw, ema or averaged"),
    Column("parameters", _INTEGER, "", "number of weights analysed; tied ones count once"),
    Column("examples", _INTEGER, "", "number of examples that the means run over"),
    Column("classes", _INTEGER, "", "number of outputs of the network"),
    Column("loss", _REAL, "nats", "mean of −log p(label)"),
    Column("loss_se", _REAL, "nats", "standard error of loss over examples"),
    Column("accuracy", _REAL, "", "fraction of examples whose most probable class is the label"),
    Column("accuracy_se", _REAL, "", "standard error of accuracy over examples"),
    Column("entropy", _REAL, "nats", "mean entropy of the predicted distribution"),
    Column("trace_true", _REAL, _CURVATURE, "trace of the true Fisher: labels follow the model"),
    Column("trace_true_se", _REAL, _CURVATURE, "standard error of trace_true over examples"),
    Column("trace_true_estimator_se", _REAL, _CURVATURE, "error from sampled labels or signs; 0 if exact"),
    Column("trace_estimator", _TEXT, "", "how trace_true was computed: exact, deflated or sampled"),
    Column("trace_empirical", _REAL, _CURVATURE, "trace of the empirical Fisher: labels of the dataset"),
    Column("trace_empirical_se", _REAL, _CURVATURE, "standard error of trace_empirical over examples"),
    Column("trace_ratio", _REAL, "", "trace_empirical / trace_true"),
    Column("trace_ratio_se", _REAL, "", "standard error of trace_ratio over examples"),
    Column("trace_true_change", _REAL, _CURVATURE, "trace_true minus that of the row before, paired"),
    Column("trace_true_change_se", _REAL, _CURVATURE, "standard error of trace_true_change over examples"),
    Column("trace_covariance", _REAL, _CURVATURE, "trace_empirical minus gradient_norm_squared"),
    Column("gradient_norm_squared", _REAL, _CURVATURE, "squared norm of the mean gradient of the loss"),
    Column("gradient_snr", _REAL, "", "signal-to-noise ratio of one example's gradient; empty unless above 0"),
    Column("gradient_snr_se", _REAL, "", "standard error of gradient_snr"),
    Column("eig_true_method", _TEXT, "", "how the eigenvalues of the true Fisher were found"),
    Column("eig_empirical_method", _TEXT, "", "how the eigenvalues of the empirical Fisher were found"),
    Column("effective_rank", _REAL, "", "squared trace over squared Frobenius norm of the true Fisher"),
    Column("effective_dimension", _REAL, "", "Σ λ/(λ + 1/N) of the true Fisher: directions that the data determine"),
    Column(
        "subspace_overlap", _REAL, "", "overlap of the true Fisher's leading eigenspace with that of the row before"
    ),
    Column("kl_step", _REAL, "nats", "mean KL divergence from the row before to this row's predictions"),
    Column("kl_step_quadratic", _REAL, "nats", "½ΔᵀFΔ of the step from the row before, with its true Fisher"),
    Column("path_length", _REAL, "√nats", "√(ΔᵀFΔ) summed over the steps so far"),
    Column("phase", _TEXT, "", "phase of the run that the row belongs to"),
    Column("status", _TEXT, "", "ok, not-converged, rejected (the file) or failed (the computation)"),
    Column("error", _TEXT, "", "what went wrong, in one line"),
)

LAYER_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", _TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", _INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", _INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("layer", _TEXT, "", "name of the parameter tensor"),
    Column("parameters", _INTEGER, "", "number of weights in the tensor"),
    Column("method", _TEXT, "", "the rule that computed the tensor's gradient norms"),
    Column("trace_true", _REAL, _CURVATURE, "the tensor's part of the trace of the true Fisher"),
    Column("trace_true_se", _REAL, _CURVATURE, "standard error of trace_true over examples"),
    Column("trace_empirical", _REAL, _CURVATURE, "the tensor's part of the trace of the empirical Fisher"),
    Column("trace_empirical_se", _REAL, _CURVATURE, "standard error of trace_empirical over examples"),
    Column("share", _REAL, "", "the tensor's trace_true over that of the whole network"),
)

# Appended after the eigenvalues, where files of earlier versions end.
LATER_COLUMNS: tuple[Column, ...] = (
    Column("effective_rank_estimator_se", _REAL, "", "error of effective_rank from random probes; 0 if exact"),
    Column("noise_scale", _REAL, "examples", "gradient noise scale B_simple, tr Σ/|G|²; empty unless |G|² is above 0"),
    Column("noise_scale_se", _REAL, "examples", "standard error of noise_scale"),
)

SPECTRUM_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", _TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", _INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", _INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("matrix", _TEXT, "", "whose eigenvalue it is: true Fisher or empirical Fisher"),
    Column("index", _INTEGER, "", "the eigenvalue's place in descending order, from 1"),
    Column("eigenvalue", _REAL, _CURVATURE, "the eigenvalue; those left out are zero to rounding, or not known"),
    Column("eigenvalue_residual", _REAL, _CURVATURE, "residual ‖Fv − θv‖ of a leading eigenvalue, recomputed"),
    Column("eigenvalue_se", _REAL, _CURVATURE, "standard error of a leading eigenvalue over examples, by bootstrap"),
    Column("trace_share", _REAL, "", "sum of the eigenvalues down to this one over the trace"),
    Column("eig_method", _TEXT, "", "how the eigenvalues were found"),
    Column("status", _TEXT, "", "ok, not-converged, rejected (the file) or failed (the computation)"),
    Column("error", _TEXT, "", "what went wrong, in one line"),
)

DENSITY_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", _TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", _INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", _INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("matrix", _TEXT, "", "whose eigenvalues: true Fisher or empirical Fisher"),
    Column("lambda", _REAL, _CURVATURE, "a value that an eigenvalue can have"),
    Column("density", _REAL, "1/decade", "share of the eigenvalues per decade there, each a Gaussian of 0.1 decades"),
    Column("cumulative", _REAL, "", "share of the eigenvalues that are at most lambda, not broadened"),
    Column("cumulative_estimator_se", _REAL, "", "error of cumulative from random probes"),
    Column("cumulative_least", _REAL, "", "what cumulative is at least, given these probes"),
    Column("cumulative_most", _REAL, "", "what cumulative is at most, given these probes"),
)

EXAMPLE_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", _TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", _INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", _INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("index", _INTEGER, "", "the example's place within the split, from 0"),
    Column("label", _INTEGER, "", "the example's class, of the dataset or of the file of labels"),
    Column("label_name", _TEXT, "", "the name of that class"),
    Column("predicted", _INTEGER, "", "the most probable class"),
    Column("predicted_name", _TEXT, "", "the name of that class"),
    Column("correct", _REAL, "", "1 if predicted is label, else 0; of yes-or-no labels the fraction that is right"),
    Column("noisy", _INTEGER, "", "1 if the file of labels marks the example as noisy, else 0"),
    Column("loss", _REAL, "nats", "−log p(label)"),
    Column("probability", _REAL, "", "p(label)"),
    Column("entropy", _REAL, "nats", "entropy of the predicted distribution"),
    Column("trace_true", _REAL, _CURVATURE, "Σ_c p_c ‖∇ log p_c‖²: the example's term of the true trace"),
    Column("trace_empirical", _REAL, _CURVATURE, "‖∇ log p(label)‖²: its term of the empirical trace"),
    Column("share", _REAL, "", "its trace_true over the sum of all examples"),
    Column("rank", _INTEGER, "", "its place by trace_true, the largest first, from 1"),
    Column("trace_estimator", _TEXT, "", "how trace_true was computed: exact, deflated or sampled"),
    Column("status", _TEXT, "", "ok, not-converged, rejected (the file) or failed (the computation)"),
    Column("error", _TEXT, "", "what went wrong, in one line"),
)

GROUP_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", _TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", _INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", _INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("grouping", _TEXT, "", "what the examples are grouped by: label, or noise as the file of labels marks it"),
    Column("group", _TEXT, "", "the group's name"),
    Column("examples", _INTEGER, "", "number of its examples"),
    Column("trace_true", _REAL, _CURVATURE, "mean of trace_true over the group"),
    Column("trace_true_se", _REAL, _CURVATURE, "standard error of trace_true over the group's examples"),
    Column("trace_empirical", _REAL, _CURVATURE, "mean of trace_empirical over the group"),
    Column("trace_empirical_se", _REAL, _CURVATURE, "standard error of trace_empirical over the group's examples"),
    Column("loss", _REAL, "nats", "mean of −log p(label) over the group"),
    Column("loss_se", _REAL, "nats", "standard error of loss over the group's examples"),
    Column("accuracy", _REAL, "", "fraction of the group whose most probable class is the label"),
    Column("accuracy_se", _REAL, "", "standard error of accuracy over the group's examples"),
    Column("share", _REAL, "", "the group's part of the sum of trace_true over all examples"),
)

TASK2VEC_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", _TEXT, "", "path relative to the checkpoints' common folder"),
    Column("order", _INTEGER, "", "position of the checkpoint in the sequence, from 0"),
    Column("step", _INTEGER, "steps", "training step that the checkpoint or its name states"),
    Column("layer", _TEXT, "", "name of the weight tensor"),
    Column("filter", _INTEGER, "", "the filter's place in the tensor, from 0"),
    Column("task2vec", _REAL, _CURVATURE, "mean of the diagonal of the true Fisher over the filter's weights"),
)

_MAIN = {column.name: column for column in COLUMNS}

INSPECTION_COLUMNS: tuple[Column, ...] = (
    *(_MAIN[name] for name in ("checkpoint", "order", "step", "epoch")),
    Column("format", _TEXT, "", "container of the file: torch zip, torch legacy or safetensors"),
    Column("integrity", _TEXT, "", "whether the container has checksums, and that they hold"),
    Column("weights_key", _TEXT, "", "where in the file the weights are, as for --state-key"),
    _MAIN["weights"],
    Column("tensors", _INTEGER, "", "number of named tensors among the weights"),
    _MAIN["architecture"],
    Column("architecture_source", _TEXT, "", "who chose the architecture: the file or the option --model"),
    Column("parameters", _INTEGER, "", "number of trainable weights of the network; tied ones count once"),
    Column("notes", _TEXT, "", "what was changed or left out in reading"),
    Column("sha256", _TEXT, "", "hash of the file's content"),
    *(_MAIN[name] for name in ("status", "error")),
)

LEDGER_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint", _TEXT, "", "checkpoint whose measurement is described"),
    Column("layer", _TEXT, "", "name of the parameter tensor"),
    Column("parameters", _INTEGER, "", "number of weights in the tensor"),
    Column("method", _TEXT, "", "the rule that computed the tensor's gradient norms"),
    Column("work", _REAL, "", "the tensor's share of the operations; the rest are the backward passes of all"),
)


def eigenvalue_columns(count: int) -> tuple[Column, ...]:
    """The columns of the `count` largest eigenvalues of both Fishers, each with its residual."""
    columns: list[Column] = []
    for i in range(1, count + 1):
        for kind in ("true", "empirical"):
            name = f"eig_{kind}_{i}"
            text = f"eigenvalue {i} of the {kind} Fisher, in descending order"
            columns.append(Column(name, _REAL, _CURVATURE, text))
            text = f"residual ‖Fv − θv‖ of {name}, explicitly recomputed"
            columns.append(Column(f"{name}_residual", _REAL, _CURVATURE, text))
    return tuple(columns)


def main_columns(eigenvalues: int) -> tuple[Column, ...]:
    """All columns of the main table when `eigenvalues` of them were asked for."""
    return COLUMNS + eigenvalue_columns(eigenvalues) + LATER_COLUMNS
