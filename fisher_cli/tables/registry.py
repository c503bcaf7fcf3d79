"""The registry of tables: what every table is called, its columns, what its rows are about, and who writes it.

Everything that lists tables or columns asks here: commands, shards and their merging, reports, the glossary. A new
column is a line in its table; a new table is an entry of `TABLES`, and its command writes it.
Columns are only ever appended to a table, so that old spreadsheets keep working; `run` came first with version 3.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

from fisher_cli.tables import rows
from fisher_cli.tables.columns import (
    CURVATURE,
    INTEGER_TEXT,
    NATS,
    NUMBER_TEXT,
    Column,
    Kind,
    columns_of_eigenvalue,
    eigenvalue_columns,
    estimate,
    follow,
    integer,
    real,
    text,
)

# Rows that are made, written and forgotten together, and a row group of Parquet.
CHUNK_ROWS: Final = 20_000


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the reports.

    Attributes:
        name: what Python calls it, `analysis.frame(name)`.
        word: what stands in its file's name, `NAME.word.csv`; "" for `NAME.csv`. In a workbook it names the sheet.
        title: its heading in the glossary.
        row: what it has a row per.
        commands: those that write it, with the options that ask for it.
        report: the name of the main table of the report that it belongs to; its own, if it is one. Its command writes
            the tables of its report in the order of TABLES.
        columns: in the order of the files.
        items: a measurement → an object or a mapping per row, in which the columns' sources begin.
        has_eigenvalues: whether the columns of as many eigenvalues as were asked for stand after the column `error`.
        is_long: it has a row per example, too many to hold: it is written while the run goes on.
        if_any: it is left out where it would have no rows.
        is_shared: its report can be made in shards, and merged.
        is_of_run: it is about a run's measurements, and from Python a data frame of the run's Analysis.
        melts: the names of the wide tables that it is the long form of.
    """

    name: str
    word: str
    title: str
    row: str
    commands: tuple[str, ...]
    report: str
    columns: tuple[Column, ...]
    items: Callable[[Any], Iterable[Any]] = lambda measurement: [measurement]
    has_eigenvalues: bool = False
    is_long: bool = False
    if_any: bool = False
    is_shared: bool = False
    is_of_run: bool = True
    melts: tuple[str, ...] = ()

    @property
    def is_of_sequence(self) -> bool:
        """Whether some of its cells come from the run's other rows."""
        return any(column.path[0] == "sequence" for column in self.columns)

    def with_eigenvalues(self, count: int) -> "Table":
        """The same table with columns of the `count` largest eigenvalues of both Fishers, if it has such columns."""
        if not self.has_eigenvalues:
            return self
        place = 1 + [column.name for column in self.columns].index("error")
        return replace(
            self,
            columns=(*self.columns[:place], *eigenvalue_columns(count), *self.columns[place:]),
            has_eigenvalues=False,
        )

    def rows(
        self, measurement: Any, order: int = 0, sequence: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The rows of one measurement.

        Args:
            measurement: a Measurement, or what else the table is about.
            order: its place in its run, from 0.
            sequence: what the run's other rows say about it, by the names of columns; None for nothing.

        Yields:
            Column name → value, in the order of the columns.

        Raises:
            ValueError: an item has a key from which no column is taken.
        """
        roots = {"measurement": measurement, "order": order, "sequence": sequence or {}}
        paths = [(column.name, column.path) for column in self.columns]
        known = {path[0] for _, path in paths}
        for item in self.items(measurement):
            if isinstance(item, Mapping):
                check_keys(item, known)
            yield {name: follow(roots if path[0] in roots else item, path) for name, path in paths}


def check_keys(row: Iterable[str], known: set[str]) -> None:
    """Refuse a cell that no column would show.

    Raises:
        ValueError: there is one.
    """
    if unknown := set(row) - known:
        msg = f"a row has {min(unknown)}, which is no column of its table: add it in the registry, or mend its name"
        raise ValueError(msg)


_NULL = "if the labels came from the model"
_STATUS = "ok, not-converged, rejected (the file) or failed (the computation)"
_ERROR = "what went wrong, in one line"
_FISHER_STEP = "½ΔᵀFΔ of the step from a to b, with the true Fisher of"

# Which checkpoint the rows of a table are about that has more than one of each.
PLACE: Final = (
    text("run", "name of the run: its folder, relative to the runs' common folder", "measurement.run"),
    text("checkpoint", "path relative to the checkpoints' common folder", "measurement.checkpoint"),
    integer("order", "", "position of the checkpoint in its run, from 0"),
    integer("step", "steps", "training step that the checkpoint or its name states", "measurement.step"),
)
ENDING: Final = (
    text("status", _STATUS, "measurement.status"),
    text("error", _ERROR, "measurement.error"),
)
TENSOR: Final = (
    text("layer", "name of the parameter tensor", "layer.name"),
    integer("parameters", "", "number of weights in the tensor", "layer.parameters"),
)
TENSOR_TRACES: Final = (
    *estimate("trace_true", CURVATURE, "the tensor's part of the trace of the true Fisher", "layer.true"),
    *estimate(
        "trace_empirical", CURVATURE, "the tensor's part of the trace of the empirical Fisher", "layer.empirical"
    ),
)

MAIN: Final = Table(
    name="main",
    word="",
    title="The main table",
    row="checkpoint",
    commands=("analyze",),
    report="main",
    has_eigenvalues=True,
    is_shared=True,
    columns=(
        text("run", "name of the run: its folder, relative to the runs' common folder"),
        text("checkpoint", "path relative to the checkpoints' common folder"),
        integer("order", "", "position in its run, from 0"),
        integer("step", "steps", "training step that the checkpoint or its name states"),
        real("epoch", "epochs", "training epoch; may be a fraction"),
        text("architecture", "the network that the weights were loaded into"),
        text("weights", "which weights were analysed: raw, ema or averaged"),
        integer("parameters", "", "number of weights analysed; tied ones count once"),
        integer("examples", "", "number of examples that the means run over"),
        integer("classes", "", "number of outputs of the network"),
        *estimate("loss", NATS, "mean of −log p(label)", "predictions.loss"),
        *estimate(
            "accuracy", "", "fraction of examples whose most probable class is the label", "predictions.accuracy"
        ),
        real("entropy", NATS, "mean entropy of the predicted distribution", "predictions.entropy.value"),
        *estimate("trace_true", CURVATURE, "trace of the true Fisher: labels follow the model", "trace.true"),
        real(
            "trace_true_estimator_se",
            CURVATURE,
            "error from sampled labels or signs; 0 if exact, empty if unknown",
            "trace.true.estimator_error",
        ),
        text("trace_estimator", "how trace_true was computed: exact, deflated or sampled", "trace.estimator"),
        *estimate(
            "trace_empirical", CURVATURE, "trace of the empirical Fisher: labels of the dataset", "trace.empirical"
        ),
        *estimate("trace_ratio", "", "trace_empirical / trace_true", "trace.ratio"),
        *estimate(
            "trace_true_change", CURVATURE, "trace_true minus that of the previous row, paired", "movement.trace_change"
        ),
        real("trace_covariance", CURVATURE, "trace_empirical minus gradient_norm_squared", "gradient.covariance"),
        real(
            "gradient_norm_squared", CURVATURE, "squared norm of the mean gradient of the loss", "gradient.norm_squared"
        ),
        real(
            "gradient_snr",
            "",
            "signal-to-noise ratio of one example's gradient; empty unless above 0",
            "gradient.signal_to_noise.value",
        ),
        real("gradient_snr_se", "", "standard error of gradient_snr", "gradient.signal_to_noise.standard_error"),
        text("eig_true_method", "how the eigenvalues of the true Fisher were found", "eigenvalues_true.method"),
        text(
            "eig_empirical_method",
            "how the eigenvalues of the empirical Fisher were found",
            "eigenvalues_empirical.method",
        ),
        real(
            "effective_rank",
            "",
            "squared trace over squared Frobenius norm of the true Fisher",
            "true_spectrum.effective_rank.value",
        ),
        real(
            "effective_dimension",
            "",
            "Σ λ/(λ + 1/N) of the true Fisher: directions that the data determine",
            "true_spectrum.effective_dimension.value",
        ),
        real(
            "subspace_overlap",
            "",
            "overlap of the true Fisher's leading eigenspace with that of the previous row",
            "true_spectrum.overlap",
        ),
        real(
            "kl_step", NATS, "mean KL divergence from the previous row to this row's predictions", "movement.kl.value"
        ),
        real(
            "kl_step_quadratic",
            NATS,
            "½ΔᵀFΔ of the step from the previous row, with the true Fisher of that row",
            "movement.kl_quadratic.value",
        ),
        real("path_length", "√nats", "√(ΔᵀFΔ) summed over the steps so far", "sequence.path_length"),
        text(
            "phase",
            "low early, rising, high (fitting or memorising), falling, low, or low, converged",
            "sequence.phase",
        ),
        text("status", _STATUS),
        text("error", _ERROR),
        # The eigenvalues stand here, where files of earlier versions end.
        real(
            "effective_rank_estimator_se",
            "",
            "error of effective_rank from random probes; 0 if exact",
            "true_spectrum.effective_rank.estimator_error",
        ),
        real("kl_step_se", NATS, "standard error of kl_step over examples", "movement.kl.standard_error"),
        real(
            "kl_step_quadratic_se",
            NATS,
            "standard error of kl_step_quadratic over examples",
            "movement.kl_quadratic.standard_error",
        ),
        *estimate(
            "kl_step_parameters", NATS, "kl_step if only the analysed parameters had moved", "movement.kl_of_parameters"
        ),
        real(
            "noise_scale",
            "examples",
            "gradient noise scale B_simple, tr Σ/|G|²; empty unless |G|² is above 0",
            "gradient.noise_scale.value",
        ),
        real("noise_scale_se", "examples", "standard error of noise_scale", "gradient.noise_scale.standard_error"),
        text("doubt", "why the row enters no peak, phase or sentence about the run; empty if it does"),
    ),
)


def _of_main(*names: str) -> list[Column]:
    """Columns of the main table that another one has too."""
    found = {column.name: column for column in MAIN.columns}
    return [found[name] for name in names]


LAYERS: Final = Table(
    name="layers",
    word="layers",
    title="Layers",
    row="checkpoint and parameter tensor",
    commands=("analyze",),
    report="main",
    items=rows.layers,
    columns=(
        *PLACE,
        *TENSOR,
        text("method", "the rule that computed the tensor's gradient norms", "layer.method"),
        *TENSOR_TRACES,
        real("share", "", "the tensor's trace_true over that of the whole network"),
    ),
)

TASK2VEC: Final = Table(
    name="task2vec",
    word="task2vec",
    title="Task2Vec",
    row="checkpoint, weight tensor and filter",
    commands=("analyze --preset task2vec",),
    report="main",
    items=rows.filters,
    columns=(
        *PLACE,
        text("layer", "name of the weight tensor"),
        integer("filter", "", "the filter's place in the tensor, from 0"),
        real("task2vec", CURVATURE, "mean of the diagonal of the true Fisher over the filter's weights"),
    ),
)

# One row per checkpoint and quantity: the main table and that of layers, melted.
LONG: Final = Table(
    name="long",
    word="long",
    title="The long form",
    row="checkpoint, layer and quantity",
    commands=("analyze --long",),
    report="main",
    melts=("main", "layers"),
    columns=(
        *PLACE,
        text("layer", "name of the parameter tensor that the row is about; empty: the whole network"),
        text("quantity", "name of the wide table's column, without the number of an eigenvalue"),
        integer("index", "", "the eigenvalue's place in descending order, from 1"),
        real("value", "", "the quantity as a number, in the unit of this row; empty where it is text"),
        real("value_se", "", "standard error of value over examples"),
        real("value_estimator_se", "", "what sampled labels, signs or random probes add to its error"),
        real("value_residual", "", "residual ‖Fv − θv‖ of an eigenvalue, recomputed"),
        real("value_low", "", "lower end of the interval of value"),
        real("value_high", "", "upper end of the interval of value"),
        real("value_null", "", "mean of value if the labels came from the model"),
        real("value_null_sd", "", "standard deviation of value if the labels came from the model"),
        text("value_text", "the quantity where it is text, such as a method or a phase"),
        text("unit", "unit of value and of its errors; empty for pure numbers and text"),
        *ENDING,
    ),
)

# Made of all runs together: one row per comparison, as `run_differences` finds them.
RUNS: Final = Table(
    name="runs",
    word="runs",
    title="Differences between runs",
    row="pair of runs and place: each equal step, the peaks, the ends",
    commands=("analyze",),
    report="main",
    if_any=True,
    columns=(
        text("run_a", "name of the first run"),
        text("run_b", "name of the other run"),
        text("at", "where the two are compared: step (the same in both), peak or end"),
        integer("step_a", "steps", "training step of the first run's row"),
        integer("step_b", "steps", "training step of the other run's row"),
        *estimate("trace_a", CURVATURE, "trace of the true Fisher in the first run"),
        *estimate("trace_b", CURVATURE, "trace of the true Fisher in the other run"),
        *estimate("difference", CURVATURE, "trace_a minus trace_b"),
        text("pairing", "paired by example, or independent: then difference_se is that of two samples"),
        integer("examples", "", "number of examples that both means run over"),
        real("p", "", "two-sided p-value of the difference"),
        real("p_holm", "", "p corrected for all comparisons of the table by Holm's method"),
    ),
)

SPECTRUM: Final = Table(
    name="spectrum",
    word="spectrum",
    title="Eigenvalues",
    row="checkpoint, matrix and eigenvalue",
    commands=("spectrum",),
    report="spectrum",
    is_shared=True,
    items=rows.eigenvalues,
    columns=(
        *PLACE,
        text("matrix", "whose eigenvalue it is: true Fisher or empirical Fisher"),
        integer("index", "", "the eigenvalue's place in descending order, from 1"),
        real("eigenvalue", CURVATURE, "the eigenvalue; those left out are zero to rounding, or not known"),
        real("eigenvalue_residual", CURVATURE, "residual ‖Fv − θv‖ of a leading eigenvalue, recomputed"),
        real("eigenvalue_se", CURVATURE, "standard error of a leading eigenvalue over examples, by bootstrap"),
        real("trace_share", "", "sum of the eigenvalues down to this one over the trace"),
        text("eig_method", "how the eigenvalues were found"),
        text("status", _STATUS),
        text("error", _ERROR),
    ),
)

DENSITY: Final = Table(
    name="density",
    word="density",
    title="Density of eigenvalues",
    row="checkpoint, matrix and value of λ, where not all eigenvalues are known one by one",
    commands=("spectrum",),
    report="spectrum",
    items=rows.densities,
    if_any=True,
    columns=(
        *PLACE,
        text("matrix", "whose eigenvalues: true Fisher or empirical Fisher"),
        real("lambda", CURVATURE, "a value that an eigenvalue can have"),
        real("density", "1/decade", "share of the eigenvalues per decade there, each a Gaussian of 0.1 decades"),
        real("cumulative", "", "share of the eigenvalues that are at most lambda, not broadened"),
        real("cumulative_estimator_se", "", "error of cumulative from random probes"),
        real("cumulative_least", "", "what cumulative is at least, given these probes"),
        real("cumulative_most", "", "what cumulative is at most, given these probes"),
    ),
)


def _probed(name: str, unit: str, description: str, source: str) -> tuple[Column, Column]:
    """An Estimate with the error that random probes leave."""
    error = "its error from random probes; 0 if exact"
    return (
        real(name, unit, description, f"{source}.value"),
        real(f"{name}_estimator_se", unit, error, f"{source}.estimator_error"),
    )


def _interval(name: str, unit: str, source: str) -> tuple[Column, Column]:
    """The ends of an interval."""
    low = "lower end of its interval by the studentised bootstrap"
    return (
        real(f"{name}_low", unit, low, f"{source}.low"),
        real(f"{name}_high", unit, "upper end of its interval", f"{source}.high"),
    )


def _null(name: str, unit: str, description: str, source: str) -> Column:
    """What a figure would be on average if the labels came from the model."""
    return real(f"{name}_null", unit, description, f"comparison.{source}.null")


def _null_sd(name: str, source: str) -> Column:
    """How far it would then scatter."""
    meaning = "its standard deviation over sets of labels drawn"
    return real(f"{name}_null_sd", "", meaning, f"comparison.{source}.null_deviation")


COMPARISON: Final = Table(
    name="comparison",
    word="compare",
    title="True against empirical",
    row="checkpoint",
    commands=("compare true-vs-empirical",),
    report="comparison",
    has_eigenvalues=True,
    columns=(
        *_of_main("run", "checkpoint", "order", "step", "epoch", "architecture", "parameters", "examples"),
        *_of_main("classes", "loss", "accuracy", "trace_true", "trace_true_se"),
        *_of_main("trace_true_estimator_se", "trace_estimator", "trace_empirical", "trace_empirical_se"),
        *estimate("trace_difference", CURVATURE, "trace_empirical minus trace_true, paired", "comparison.difference"),
        *_interval("trace_difference", CURVATURE, "comparison.difference_interval"),
        *estimate("trace_ratio", "", "trace_empirical / trace_true", "trace.ratio", "examples, by the delta method"),
        *_interval("trace_ratio", "", "comparison.ratio_interval"),
        text(
            "intervals", "95 %, or nominal: too few examples carry the values for that coverage", "comparison.coverage"
        ),
        real(
            "trace_ratio_null_sd",
            "",
            f"standard deviation of trace_ratio {_NULL}; its mean is one",
            "comparison.null_deviation",
        ),
        text(
            "null_method", "how that was computed: exact over all labels, or sampled labels", "comparison.null_method"
        ),
        real(
            "null_carriers",
            "",
            "number of equal examples that would give trace_empirical that deviation",
            "comparison.carriers",
        ),
        real("trace_z", "", "trace_difference over its standard deviation under that null", "comparison.z"),
        text(
            "matrix_method",
            "how the matrices were compared: gram (exact) or products (random probes)",
            "comparison.method",
        ),
        *_probed("norm_true", CURVATURE, "Frobenius norm ‖F‖ of the true Fisher", "comparison.norm_true"),
        *_probed(
            "norm_empirical", CURVATURE, "Frobenius norm ‖F̂‖ of the empirical Fisher", "comparison.norm_empirical.value"
        ),
        _null("norm_empirical", CURVATURE, f"root of the mean of ‖F̂‖² {_NULL}", "norm_empirical"),
        *_probed(
            "inner_product",
            "1/weight⁴",
            f"⟨F, F̂⟩ = tr F F̂; {_NULL} its mean is norm_true²",
            "comparison.inner_product.value",
        ),
        *_probed("matrix_difference", "", "‖F̂ − F‖/‖F‖ in the Frobenius norm", "comparison.difference_norm.value"),
        _null("matrix_difference", "", f"root of the mean of its square {_NULL}", "difference_norm"),
        _null_sd("matrix_difference", "difference_norm"),
        *_probed("matrix_cosine", "", "⟨F, F̂⟩/(‖F‖ ‖F̂‖)", "comparison.cosine.value"),
        _null("matrix_cosine", "", f"the cosine of the mean norms and product {_NULL}", "cosine"),
        _null_sd("matrix_cosine", "cosine"),
        real("damping", CURVATURE, "α of the natural gradients (F + αI)⁻¹ḡ and (F̂ + αI)⁻¹ḡ", "comparison.damping"),
        real(
            "natural_gradient_cosine",
            "",
            "cosine of the angle between the two natural gradients",
            "comparison.natural_gradient.value.value",
        ),
        _null("natural_gradient_cosine", "", f"its mean {_NULL}, the gradient ḡ staying as it is", "natural_gradient"),
        _null_sd("natural_gradient_cosine", "natural_gradient"),
        real(
            "natural_gradient_residual",
            "",
            "larger relative residual of the two linear systems, recomputed",
            "comparison.residual",
        ),
        real("gradient_cosine_true", "", "cosine of (F + αI)⁻¹ḡ and ḡ", "comparison.gradient_true"),
        real("gradient_cosine_empirical", "", "cosine of (F̂ + αI)⁻¹ḡ and ḡ", "comparison.gradient_empirical"),
        real(
            "inverse_product",
            "",
            "tr (F + αI)⁻¹F̂, where all eigenvalues of F are known",
            "comparison.inverse_product.value.value",
        ),
        _null("inverse_product", "", f"tr (F + αI)⁻¹F: its mean {_NULL}", "inverse_product"),
        real(
            "eigenspace_overlap", "", "overlap of the leading eigenspaces of F and F̂", "comparison.overlap.value.value"
        ),
        _null("eigenspace_overlap", "", f"its mean {_NULL}", "overlap"),
        _null_sd("eigenspace_overlap", "overlap"),
        integer(
            "null_draws",
            "",
            "sets of labels drawn from the model for the nulls without a closed form",
            "comparison.draws",
        ),
        text(
            "finding", "fitted, surprised, shifted, indistinguishable, undecided or zero", "comparison.verdict.finding"
        ),
        text("verdict", "the finding in words, with the figure behind it", "comparison.verdict.text"),
        *_of_main("status", "error"),
    ),
)

COMPARISON_LAYERS: Final = Table(
    name="comparison_layers",
    word="compare.layers",
    title="True against empirical, by parameter",
    row="checkpoint and parameter tensor",
    commands=("compare true-vs-empirical",),
    report="comparison",
    items=rows.compared_layers,
    columns=(
        *PLACE,
        *TENSOR,
        *TENSOR_TRACES,
        real("trace_ratio", "", "trace_empirical / trace_true", "layer.ratio"),
        real(
            "trace_ratio_null_sd",
            "",
            f"standard deviation of trace_ratio {_NULL}; its mean is one",
            "layer.null_deviation",
        ),
        real("trace_z", "", "trace_empirical − trace_true over its standard deviation under that null", "layer.z"),
    ),
)

COMPARISON_LONG: Final = replace(
    LONG,
    name="comparison_long",
    word="compare.long",
    title="True against empirical, the long form",
    commands=("compare true-vs-empirical --long",),
    report="comparison",
    melts=("comparison", "comparison_layers"),
)

CHECKPOINTS: Final = Table(
    name="checkpoints",
    word="checkpoints",
    title="Two checkpoints",
    row="pair of checkpoints",
    commands=("compare checkpoints",),
    report="checkpoints",
    is_of_run=False,
    columns=(
        text("checkpoint_a", "path of checkpoint a relative to both checkpoints' common folder"),
        text("checkpoint_b", "path of checkpoint b relative to both checkpoints' common folder"),
        integer("step_a", "steps", "training step that checkpoint a or its name states"),
        integer("step_b", "steps", "training step that checkpoint b or its name states"),
        *_of_main("architecture", "parameters", "examples", "classes"),
        *estimate("kl_ab", NATS, "mean KL divergence from the predictions of a to those of b"),
        *estimate("kl_ba", NATS, "mean KL divergence from the predictions of b to those of a"),
        *estimate("kl_ab_parameters", NATS, "kl_ab if only the analysed parameters differed", "kl_ab_of_parameters"),
        *estimate(
            "quadratic_a", NATS, f"{_FISHER_STEP} a: the second-order view of kl_ab_parameters", "whole.quadratic_a"
        ),
        *estimate("quadratic_b", NATS, f"{_FISHER_STEP} b: the second-order view of kl_ba", "whole.quadratic_b"),
        real("cross_terms_a", NATS, "quadratic_a minus the sum of its parts by parameter tensor"),
        real("cross_terms_b", NATS, "quadratic_b minus the sum of its parts by parameter tensor"),
        *estimate("agreement", "", "fraction of examples for which both predict the same"),
        *estimate("loss_a", NATS, "mean of −log p(label) of a"),
        *estimate("loss_b", NATS, "mean of −log p(label) of b"),
        *estimate("accuracy_a", "", "fraction of examples whose label a predicts"),
        *estimate("accuracy_b", "", "fraction of examples whose label b predicts"),
        real("distance", "weight", "norm of the step Δ between the analysed parameters", "whole.distance"),
        real(
            "relative_distance", "", "distance over the norm of the analysed parameters of a", "whole.relative_distance"
        ),
        real("cosine", "", "cosine of the angle between the analysed parameters of a and those of b", "whole.cosine"),
    ),
)

CHECKPOINT_LAYERS: Final = Table(
    name="checkpoint_layers",
    word="checkpoints.layers",
    title="Two checkpoints, by parameter",
    row="parameter tensor",
    commands=("compare checkpoints",),
    report="checkpoints",
    is_of_run=False,
    items=rows.layer_steps,
    columns=(
        *TENSOR,
        real("distance", "weight", "norm of the tensor's step from a to b", "layer.distance"),
        real("relative_distance", "", "distance over the norm of the tensor in a", "layer.relative_distance"),
        real("cosine", "", "cosine of the angle between the tensor in a and in b", "layer.cosine"),
        *estimate("quadratic_a", NATS, f"{_FISHER_STEP} a, of this tensor alone", "layer.quadratic_a"),
        *estimate("quadratic_b", NATS, f"{_FISHER_STEP} b, of this tensor alone", "layer.quadratic_b"),
    ),
)

EXAMPLES: Final = Table(
    name="examples",
    word="examples",
    title="Examples",
    row="checkpoint and example",
    commands=("examples", "analyze --per-example"),
    report="examples",
    items=rows.examples,
    is_long=True,
    columns=(
        *PLACE,
        integer("index", "", "the example's place within the split, from 0"),
        integer("label", "", "the example's class, of the dataset or of the file of labels"),
        text("label_name", "the name of that class"),
        integer("predicted", "", "the most probable class"),
        text("predicted_name", "the name of that class"),
        real("correct", "", "1 if predicted is label, else 0; of yes-or-no labels the fraction that is right"),
        integer("noisy", "", "1 if the file of labels marks the example as noisy, else 0"),
        real("loss", NATS, "−log p(label)"),
        real("probability", "", "p(label)"),
        real("entropy", NATS, "entropy of the predicted distribution"),
        real("trace_true", CURVATURE, "Σ_c p_c ‖∇ log p_c‖²: the example's term of the true trace"),
        real("trace_empirical", CURVATURE, "‖∇ log p(label)‖²: its term of the empirical trace"),
        real("share", "", "its trace_true over the sum of all examples"),
        integer("rank", "", "its place by trace_true, the largest first, from 1"),
        text(
            "trace_estimator", "how trace_true was computed: exact, deflated or sampled", "measurement.trace.estimator"
        ),
        *ENDING,
    ),
)

GROUPS: Final = Table(
    name="groups",
    word="groups",
    title="Groups of examples",
    row="checkpoint and group of examples: the classes, the clean and the noisy ones",
    commands=("examples",),
    report="examples",
    items=rows.groups,
    if_any=True,
    columns=(
        *PLACE,
        text("grouping", "what the examples are grouped by: label, or noise as the file of labels marks it"),
        text("group", "the group's name", "group.name"),
        integer("examples", "", "number of its examples", "group.examples"),
        *estimate(
            "trace_true", CURVATURE, "mean of trace_true over the group", "group.trace_true", "the group's examples"
        ),
        *estimate(
            "trace_empirical",
            CURVATURE,
            "mean of trace_empirical over the group",
            "group.trace_empirical",
            "the group's examples",
        ),
        *estimate("loss", NATS, "mean of −log p(label) over the group", "group.loss", "the group's examples"),
        *estimate(
            "accuracy",
            "",
            "fraction of the group whose most probable class is the label",
            "group.accuracy",
            "the group's examples",
        ),
        real("share", "", "the group's part of the sum of trace_true over all examples", "group.share"),
    ),
)

IDENTITIES: Final = Table(
    name="identities",
    word="verify",
    title="Identities",
    row="checkpoint and identity",
    commands=("verify",),
    report="identities",
    items=rows.identities,
    columns=(
        *PLACE,
        text("identity", "name of the identity", "name"),
        text("formula", "what must hold"),
        text("source", "where the identity comes from"),
        text("verdict", "pass, fail, undecided or not applicable"),
        real("ours", "", "the side that fisher computes; of many numbers the worst"),
        real("independent", "", "the other side, by a way that shares as little code as possible", "theirs"),
        real("identity_error", "", "difference of the sides relative to the scale", "error"),
        real("tolerance", "", "largest identity_error that passes"),
        text("scale", "what identity_error is relative to"),
        text("sides", "how ours and the independent side are computed, in this order"),
        text("why", "why the tolerance is what it is, and what was looked at"),
        text("reason", "why the identity fails, is undecided, or does not apply"),
        text("status", "ok, rejected (the file) or failed (the computation)", "measurement.status"),
        text("error", "what went wrong with the checkpoint, in one line", "measurement.error"),
    ),
)

EXPANSION: Final = Table(
    name="expansion",
    word="expansion",
    title="Expansion of KL",
    row="checkpoint and length of the step",
    commands=("verify",),
    report="identities",
    items=rows.expansion,
    columns=(
        *PLACE,
        real("epsilon", "", "length of the step ε relative to that of the parameters", "step"),
        real("deviation_single", "", "KL(q_θ ‖ q_θ+ε) over ½ εᵀFε, less one", "single"),
        real("slope_single", "", "d log |deviation_single| / d log ‖ε‖, expected 1"),
        real("deviation_averaged", "", "the same averaged over +ε and −ε", "averaged"),
        real("slope_averaged", "", "d log |deviation_averaged| / d log ‖ε‖, expected 2; empty where units switch"),
    ),
)

FILES: Final = Table(
    name="files",
    word="",
    title="Files",
    row="checkpoint file",
    commands=("inspect",),
    report="files",
    is_of_run=False,
    items=rows.inspection,
    columns=(
        *_of_main("run", "checkpoint", "order", "step", "epoch"),
        text("format", "container: torch zip, torch legacy, safetensors (and shards of these), torch distributed"),
        text("integrity", "whether the container has checksums, and that they hold"),
        text("weights_key", "where in the file the weights are, as for --state-key"),
        *_of_main("weights"),
        integer("tensors", "", "number of named tensors among the weights"),
        *_of_main("architecture"),
        text("architecture_source", "who chose the architecture: the file, the option --model, or names and shapes"),
        integer("parameters", "", "number of trainable weights of the network; tied ones count once"),
        text("notes", "what was changed or left out in reading, and why this architecture"),
        text("sha256", "hash of the content: of the file, or of the names and hashes of a folder's files"),
        *_of_main("status", "error"),
        text("step_source", "who tells step and epoch: entries of the file, its name, or only the order"),
    ),
)

COVERAGE: Final = Table(
    name="coverage",
    word="layers",
    title="Coverage of parameters",
    row="parameter tensor",
    commands=("inspect --data",),
    report="files",
    items=rows.coverage,
    columns=(
        text("checkpoint", "checkpoint whose measurement is described", "measurement.checkpoint"),
        text("layer", "name of the parameter tensor", "name"),
        integer("parameters", "", "number of weights in the tensor", "values"),
        text("method", "the rule that computed the tensor's gradient norms"),
        real("work", "", "the tensor's share of the operations; the rest are the backward passes of all"),
    ),
)

TENSORS: Final = Table(
    name="tensors",
    word="tensors",
    title="Tensors of files",
    row="tensor of a checkpoint file",
    commands=("inspect --tensors",),
    report="files",
    is_of_run=False,
    items=rows.tensors,
    columns=(
        *PLACE,
        text("tensor", "name of the tensor, without what DataParallel and its like put before it", "name"),
        text("shape", "its sizes, separated by ×", "sizes"),
        text("dtype", "type of its numbers in the file"),
        integer("values", "", "number of its values"),
        real("mean", "", "mean of its values; empty where one of them is not finite"),
        real("std", "", "standard deviation of its values, by their number"),
        real("minimum", "", "smallest value"),
        real("maximum", "", "largest value"),
        real("zeros", "", "share of the values that are exactly zero"),
        text("looks_like", "layer that names and shapes suggest; a guess that nothing builds on"),
    ),
)

# By name, in the order of the glossary. Where tables share the name of a column, the first one's words explain it.
TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        *(MAIN, LAYERS, TASK2VEC, LONG, RUNS, SPECTRUM, DENSITY, COMPARISON, COMPARISON_LAYERS, COMPARISON_LONG),
        *(CHECKPOINTS, CHECKPOINT_LAYERS, EXAMPLES, GROUPS, IDENTITIES, EXPANSION, FILES, COVERAGE, TENSORS),
    )
}


def tables_of(report: str, **asked: bool) -> tuple[Table, ...]:
    """The tables of a report, the main one first, without those that were not asked for.

    Args:
        report: the name of its main table.
        **asked: for tables that an option asks for, by their names, whether it does; other tables are there always.
    """
    return tuple(table for table in TABLES.values() if table.report == report and asked.get(table.name, True))


def main_table_of(table: Table) -> Table:
    """The main table of the report that a table belongs to."""
    return TABLES[table.report]


def table_of(word: str) -> Table:
    """The table with that word in its file's name, which has to be one of the registry.

    Args:
        word: such as `layers`; "" for the main table of `fisher analyze`.
    """
    return next(table for table in TABLES.values() if table.word == word)


_EIGENVALUE = re.compile(r"eig_(?:true|empirical)_([1-9][0-9]{0,3})(?:_residual)?")


def column_named(name: str, values: Iterable[Any]) -> Column:
    """What the glossary says about a column; else a column of the narrowest kind that holds all values.

    Args:
        name: of the column, in whichever table it is; that of an eigenvalue may have any number.
        values: the column's cells, which count only where the glossary does not know the name.
    """
    for column in chain.from_iterable(table.columns for table in TABLES.values()):
        if column.name == name:
            return column
    if match := _EIGENVALUE.fullmatch(name):
        return next(column for column in columns_of_eigenvalue(int(match[1])) if column.name == name)
    texts = [str(value) for value in values if value not in (None, "")]
    for kind, pattern in ((Kind.INTEGER, INTEGER_TEXT), (Kind.REAL, NUMBER_TEXT)):
        if texts and all(pattern.fullmatch(text) for text in texts):
            return Column(name, kind, "", "")
    return Column(name, Kind.TEXT, "", "")
