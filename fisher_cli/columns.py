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
    Column("phase", _TEXT, "", "low early, rising, high (fitting or memorising), falling, or low, converged"),
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
    Column("kl_step_se", _REAL, "nats", "standard error of kl_step over examples"),
    Column("kl_step_quadratic_se", _REAL, "nats", "standard error of kl_step_quadratic over examples"),
    Column("kl_step_parameters", _REAL, "nats", "kl_step if only the analysed parameters had moved"),
    Column("kl_step_parameters_se", _REAL, "nats", "standard error of kl_step_parameters over examples"),
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

_MAIN = {column.name: column for column in COLUMNS}

INSPECTION_COLUMNS: tuple[Column, ...] = (
    *(_MAIN[name] for name in ("checkpoint", "order", "step", "epoch")),
    Column(
        "format", _TEXT, "", "container: torch zip, torch legacy, safetensors (and shards of these), torch distributed"
    ),
    Column("integrity", _TEXT, "", "whether the container has checksums, and that they hold"),
    Column("weights_key", _TEXT, "", "where in the file the weights are, as for --state-key"),
    _MAIN["weights"],
    Column("tensors", _INTEGER, "", "number of named tensors among the weights"),
    _MAIN["architecture"],
    Column(
        "architecture_source",
        _TEXT,
        "",
        "who chose the architecture: the file, the option --model, or names and shapes",
    ),
    Column("parameters", _INTEGER, "", "number of trainable weights of the network; tied ones count once"),
    Column("notes", _TEXT, "", "what was changed or left out in reading, and why this architecture"),
    Column("sha256", _TEXT, "", "hash of the content: of the file, or of the names and hashes of a folder's files"),
    *(_MAIN[name] for name in ("status", "error")),
    Column("step_source", _TEXT, "", "who tells step and epoch: entries of the file, its name, or only the order"),
)

_FISHER_STEP = "½ΔᵀFΔ of the step from a to b, with the true Fisher of"
COMPARISON_COLUMNS: tuple[Column, ...] = (
    Column("checkpoint_a", _TEXT, "", "path of checkpoint a relative to both checkpoints' common folder"),
    Column("checkpoint_b", _TEXT, "", "path of checkpoint b relative to both checkpoints' common folder"),
    Column("step_a", _INTEGER, "steps", "training step that checkpoint a or its name states"),
    Column("step_b", _INTEGER, "steps", "training step that checkpoint b or its name states"),
    *(_MAIN[name] for name in ("architecture", "parameters", "examples", "classes")),
    Column("kl_ab", _REAL, "nats", "mean KL divergence from the predictions of a to those of b"),
    Column("kl_ab_se", _REAL, "nats", "standard error of kl_ab over examples"),
    Column("kl_ba", _REAL, "nats", "mean KL divergence from the predictions of b to those of a"),
    Column("kl_ba_se", _REAL, "nats", "standard error of kl_ba over examples"),
    Column("kl_ab_parameters", _REAL, "nats", "kl_ab if only the analysed parameters differed"),
    Column("kl_ab_parameters_se", _REAL, "nats", "standard error of kl_ab_parameters over examples"),
    Column("quadratic_a", _REAL, "nats", f"{_FISHER_STEP} a: the second-order view of kl_ab_parameters"),
    Column("quadratic_a_se", _REAL, "nats", "standard error of quadratic_a over examples"),
    Column("quadratic_b", _REAL, "nats", f"{_FISHER_STEP} b: the second-order view of kl_ba"),
    Column("quadratic_b_se", _REAL, "nats", "standard error of quadratic_b over examples"),
    Column("cross_terms_a", _REAL, "nats", "quadratic_a minus the sum of its parts by parameter tensor"),
    Column("cross_terms_b", _REAL, "nats", "quadratic_b minus the sum of its parts by parameter tensor"),
    Column("agreement", _REAL, "", "fraction of examples for which both predict the same"),
    Column("agreement_se", _REAL, "", "standard error of agreement over examples"),
    Column("loss_a", _REAL, "nats", "mean of −log p(label) of a"),
    Column("loss_a_se", _REAL, "nats", "standard error of loss_a over examples"),
    Column("loss_b", _REAL, "nats", "mean of −log p(label) of b"),
    Column("loss_b_se", _REAL, "nats", "standard error of loss_b over examples"),
    Column("accuracy_a", _REAL, "", "fraction of examples whose label a predicts"),
    Column("accuracy_a_se", _REAL, "", "standard error of accuracy_a over examples"),
    Column("accuracy_b", _REAL, "", "fraction of examples whose label b predicts"),
    Column("accuracy_b_se", _REAL, "", "standard error of accuracy_b over examples"),
    Column("distance", _REAL, "weight", "norm of the step Δ between the analysed parameters"),
    Column("relative_distance", _REAL, "", "distance over the norm of the analysed parameters of a"),
    Column("cosine", _REAL, "", "cosine of the angle between the analysed parameters of a and those of b"),
)

LAYER_STEP_COLUMNS: tuple[Column, ...] = (
    Column("layer", _TEXT, "", "name of the parameter tensor"),
    Column("parameters", _INTEGER, "", "number of weights in the tensor"),
    Column("distance", _REAL, "weight", "norm of the tensor's step from a to b"),
    Column("relative_distance", _REAL, "", "distance over the norm of the tensor in a"),
    Column("cosine", _REAL, "", "cosine of the angle between the tensor in a and in b"),
    Column("quadratic_a", _REAL, "nats", f"{_FISHER_STEP} a, of this tensor alone"),
    Column("quadratic_a_se", _REAL, "nats", "standard error of quadratic_a over examples"),
    Column("quadratic_b", _REAL, "nats", f"{_FISHER_STEP} b, of this tensor alone"),
    Column("quadratic_b_se", _REAL, "nats", "standard error of quadratic_b over examples"),
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
