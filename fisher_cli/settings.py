"""What a run is asked to do: `Settings` change its numbers, `Resources` change only its speed and place."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final

from fisher_cli.errors import UsageError
from fisher_cli.text import digest

_FORM: Final = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Share `index` of `of` shares of a run's checkpoints.

    Attributes:
        index: from 1 to `of`.
        of: how many shares there are.
    """

    index: int
    of: int

    @classmethod
    def read(cls, text: str | None) -> "Shard | None":
        """Read the text of `--shard`, such as `1/3`.

        Returns:
            The shard; None without a text.

        Raises:
            UsageError: the text is no pair of numbers, or the first is not from 1 to the second.
        """
        if text is None:
            return None
        found = _FORM.fullmatch(text)
        index, of = map(int, found.groups()) if found else (0, 0)
        if not found:
            msg = f"--shard {text}: type the share's number and how many there are, as in --shard 1/3"
            raise UsageError(msg)
        last = max(of, 1)
        if not 1 <= index <= of:
            msg = f"--shard {text}: shares are counted from 1: type --shard 1/{last} to {last}/{last}"
            raise UsageError(msg)
        return cls(index, of)

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def share(self, count: int) -> range:
        """The places, from 0, of this share among `count` checkpoints in order of training.

        The shares are contiguous, cover all places once, and differ in length by at most one.
        """
        return range(count * (self.index - 1) // self.of, count * self.index // self.of)


@dataclass(frozen=True)
class ShardPart:
    """What a report of a shard is a part of.

    Attributes:
        shard: which share it is.
        checkpoints: how many checkpoints the whole run has.
        sequence: SHA-256 over the names and hashes of all of them, in order of training, as `sha256:<hex>`.
    """

    shard: Shard
    checkpoints: int
    sequence: str

    @classmethod
    def of(cls, shard: Shard, files: Iterable[tuple[str, str, str | None]]) -> "ShardPart":
        """The part that a shard is of a run over these files.

        Args:
            shard: which share it is.
            files: (run, name, hash of the content) of all checkpoints, run by run in order of training; the hash is
                None where a file could not be read.
        """
        listed = list(files)
        return cls(shard, len(listed), digest(json.dumps(listed).encode()))

    @classmethod
    def recorded(cls, value: Any) -> "ShardPart":
        """Read the part that `as_dict` wrote into a record.

        Args:
            value: what the record says, any JSON value.

        Raises:
            ValueError: it says no part of a run.
        """
        try:
            shard = Shard.read(value["shard"])
            found = None if shard is None else cls(shard, int(value["checkpoints"]), str(value["sequence"]))
        except (KeyError, TypeError, UsageError) as error:
            raise ValueError(str(value)) from error
        if found is None or not 0 <= found.checkpoints < 2**31:
            raise ValueError(str(value))
        return found

    def as_dict(self) -> dict[str, Any]:
        """The part as JSON values for the record; `recorded` reads them."""
        return {"shard": str(self.shard), "checkpoints": self.checkpoints, "sequence": self.sequence}

    @property
    def share(self) -> range:
        """The places of this part's rows in the whole run, from 0."""
        return self.shard.share(self.checkpoints)


class Estimator(StrEnum):
    """How the true Fisher's scores are made; `auto` is exact up to 32 classes and deflated above."""

    AUTO = "auto"
    EXACT = "exact"
    DEFLATED = "deflated"
    SAMPLED = "sampled"


class LikelihoodName(StrEnum):
    """The predictive distribution that the outputs parameterise; `auto` is sigmoid for one output, else softmax."""

    AUTO = "auto"
    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    GAUSSIAN = "gaussian"


class Precision(StrEnum):
    """The number format in which the network is evaluated; sums are float32 and float64 in all of them.

    TF32 holds everything in float32, and a GPU multiplies it with ten bits of the mantissa.
    """

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BFLOAT16 = "bfloat16"
    TF32 = "tf32"

    @property
    def storage(self) -> str:
        """The name of torch's type of the network's tensors: float32 for TF32."""
        return "float32" if self is Precision.TF32 else self.value

    @property
    def is_rounded(self) -> bool:
        """Whether the network's products have fewer digits than float32, enough for traces alone."""
        return self in {Precision.BFLOAT16, Precision.TF32}


class Activations(StrEnum):
    """What becomes of what layers save for the backward pass: it is kept, or computed anew block by block."""

    KEEP = "keep"
    RECOMPUTE = "recompute"


class MatrixName(StrEnum):
    """Whose eigenvalues `fisher spectrum` finds."""

    TRUE = "true"
    EMPIRICAL = "empirical"
    BOTH = "both"


class SpectrumMethod(StrEnum):
    """How `fisher spectrum` goes beyond the leading eigenvalues; `auto` is whole up to some thousands, else density."""

    AUTO = "auto"
    WHOLE = "whole"
    DENSITY = "density"


@dataclass(frozen=True, kw_only=True)
class SpectrumSettings:
    """What `fisher spectrum` asks for beyond the leading eigenvalues.

    Attributes:
        matrix: whose eigenvalues are found.
        method: how far beyond the leading ones.
        damping: α of the effective dimension, in 1/weight² on the scale of the mean over examples; None for 1/N.
        probes: random vectors of the density.
        steps: of Lanczos for each probe.
    """

    matrix: MatrixName = MatrixName.BOTH
    method: SpectrumMethod = SpectrumMethod.AUTO
    damping: float | None = None
    probes: int = 5
    steps: int = 40


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """What `fisher compare true-vs-empirical` asks for beyond the traces.

    Attributes:
        damping: α of the natural gradients, in 1/weight²; None for a thousandth of the true Fisher's largest
            eigenvalue.
        draws: how many sets of labels are drawn from the model for the nulls that have no closed form; 0 for none.
    """

    damping: float | None = None
    draws: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: a number is out of its range.
        """
        if self.damping is not None and not 0 < self.damping < math.inf:
            msg = f"damping {self.damping}: give a positive number, such as 0.001"
            raise ValueError(msg)
        if not self.draws >= 0:
            msg = f"draws {self.draws}: give a positive whole number, or 0 for none"
            raise ValueError(msg)


def _one_of(names: type[StrEnum], value: str) -> StrEnum:
    if value not in list(names):
        msg = f"{value!r} is none of {', '.join(names)}"
        raise ValueError(msg)
    return names(value)


def read_precision(name: str) -> Precision:
    """Find the precision of this name.

    Raises:
        ValueError: there is none; of float16 the text says why not.
    """
    if name in {"float16", "half", "fp16"}:
        msg = f"{name}: gradients of confident examples lie below its smallest number, 6e-8, and would vanish: bfloat16"
        raise ValueError(msg)
    return Precision(_one_of(Precision, name))


def _patterns(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _pairs(value: Mapping[str, Any] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        return tuple((str(key), text) for key, text in value)
    texts = {key: each if isinstance(each, str) else json.dumps(each) for key, each in value.items()}
    return tuple((str(key), text) for key, text in texts.items())


def last_part(text: str) -> str:
    """Take the folders off a path: `folder:/a/b` is `folder:b`, and `/a/net.py:make` is `net.py:make`.

    Names are as they are, also `hf:owner/name`.
    """
    prefix = next((each for each in ("folder:", "hf:") if text.startswith(each)), "")
    if prefix == "hf:" and text[3:4] not in {"/", ".", "~"}:
        return text
    return prefix + text.removeprefix(prefix).rstrip("/").rsplit("/", 1)[-1]


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that changes a number of the report.

    A caller may write names for enumerations, a single pattern for a tuple of them, paths for texts, and dicts for
    pairs; the fields hold the one form below.

    Attributes:
        data: the dataset, as `--data` names it.
        split: the part of it; None for its usual one.
        limit: how many examples; None for all.
        labels: a file of labels in place of the dataset's own.
        normalize: as typed for `--normalize`; None for the dataset's own constants.
        resize: the text of the option, `N` or `HxW`, in pixels.
        crop: the same of the part that is cut out.
        grayscale: whether images of three channels are converted to one.
        data_arguments: (name, text) pairs for the function that `data` names; a text is JSON where it can be.
        model: as typed for `--model`; None for the architecture that the checkpoint names, or that fits.
        model_arguments: (name, text) pairs for the network.
        state_key: the dotted key of the weights in a file; None for the usual places.
        use_ema: whether a file's moving average of the weights is taken in their place.
        estimator: how the true Fisher's scores are made.
        samples: labels per example of the sampled estimator.
        target_error: of the deflated estimator, relative to the trace; None for a tenth of the standard error over
            examples.
        eigenvalues: how many leading ones; 0 for none.
        eigenvalue_tolerance: the largest residual of a converged eigenvalue, relative to the largest eigenvalue.
        likelihood: the distribution that the outputs parameterise.
        recalibrate_bn: whether the running statistics of batch norms are computed anew on the analysed examples.
        include: shell patterns; a parameter is analysed when its name matches one of these …
        exclude: … and none of these.
        precision: in which the network is evaluated.
        seed: of the selected examples, drawn labels, signs and probes.
        spectrum: what is asked beyond the leading eigenvalues; None for nothing.
        comparison: compares the two Fishers, which finds their leading eigenvalues as well; None for no comparison.
        verify: asks for the identities of `fisher verify` in place of everything else.
        movement: holds every row against the one before, unless `spectrum`, `comparison` or `verify` is asked.
        weights_only: analyses the weights of linear and convolutional layers alone.
        without_head: leaves out the last of these layers.
        task2vec: asks for the mean of the diagonal over each filter.
        preset: the name that some of the values came from; by itself it changes none.
    """

    data: str = "digits"
    split: str | None = None
    limit: int | None = 1000
    labels: str | None = None
    normalize: str | None = None
    resize: str | None = None
    crop: str | None = None
    grayscale: bool = False
    data_arguments: tuple[tuple[str, str], ...] = ()
    model: str | None = None
    model_arguments: tuple[tuple[str, str], ...] = ()
    state_key: str | None = None
    use_ema: bool = False
    estimator: Estimator = Estimator.AUTO
    samples: int = 5
    target_error: float | None = None
    eigenvalues: int = 5
    eigenvalue_tolerance: float = 1e-3
    likelihood: LikelihoodName = LikelihoodName.AUTO
    recalibrate_bn: bool = False
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    precision: Precision = Precision.FLOAT32
    seed: int = 0
    spectrum: SpectrumSettings | None = None
    comparison: ComparisonSettings | None = None
    verify: bool = False
    movement: bool = True
    weights_only: bool = False
    without_head: bool = False
    task2vec: bool = False
    preset: str | None = None

    def __post_init__(self) -> None:
        """Bring what a caller may write more simply into its one form: names, paths, single patterns, dicts.

        Raises:
            ValueError: a value is none of those that are possible.
        """
        forms: dict[str, Callable[[Any], Any]] = {
            "data": str,
            "labels": _text_or_none,
            "data_arguments": _pairs,
            "model_arguments": _pairs,
            "estimator": lambda name: _one_of(Estimator, name),
            "likelihood": lambda name: _one_of(LikelihoodName, name),
            "precision": read_precision,
            "include": _patterns,
            "exclude": _patterns,
        }
        for name, form in forms.items():
            object.__setattr__(self, name, form(getattr(self, name)))
        if not self.samples >= 1:
            msg = f"samples {self.samples}: give a positive whole number"
            raise ValueError(msg)
        if self.target_error is not None and not self.target_error > 0:
            msg = f"target_error {self.target_error}: give a positive number, such as 0.01 for one percent"
            raise ValueError(msg)
        if not self.eigenvalues >= 0:
            msg = f"eigenvalues {self.eigenvalues}: give a positive whole number, or 0 for none"
            raise ValueError(msg)

    @classmethod
    def of(cls, **words: Any) -> "Settings":
        """Make settings of these names and values, as `Settings` takes them.

        Raises:
            TypeError: there is no setting of one of the names; the text has the nearest one.
            ValueError: a value is none of those that are possible.
        """
        names = [field.name for field in fields(cls)]
        for unknown in words.keys() - names:
            near = difflib.get_close_matches(unknown, names, n=1)
            guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            msg = f"unknown argument {unknown!r}; {guess}"
            raise TypeError(msg)
        return cls(**words)

    @property
    def looks_back(self) -> bool:
        """Whether a row needs the network of the row before: for its movement, or for the overlap of eigenspaces."""
        return self.spectrum is not None or (self.asks_for_rows and not self.precision.is_rounded)

    @property
    def asks_for_rows(self) -> bool:
        """Whether rows of the main table are wanted, and not what `compare`, `spectrum` and the like make instead."""
        return self.movement and self.spectrum is None and self.comparison is None and not self.verify

    def without_folders(self) -> dict[str, Any]:
        """The settings as `as_dict` has them, with paths cut to their last part.

        The record that travels with the tables names no place of a machine.
        """
        return {
            name: last_part(value) if name in {"data", "labels", "model"} and isinstance(value, str) else value
            for name, value in self.as_dict().items()
        }

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values, in declaration order."""
        return asdict(self)

    def digest(self) -> str:
        """The SHA-256 of the settings but for `preset`, as `sha256:<hex>`.

        Two runs with equal digests were asked the same question.
        """
        answered = {name: value for name, value in self.as_dict().items() if name != "preset"}
        text = json.dumps(answered, sort_keys=True)
        return digest(text.encode())


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where and how fast to compute; no number of the report depends on these beyond rounding.

    Attributes:
        batch_size: examples at once; None: chosen from the network's shapes and the machine's memory.
        device: `auto`, or a name of torch's.
        data_dir: the folder of the named datasets; None for the usual one.
        download: whether a named dataset that is missing may be fetched.
        trust_pickle: whether files may run their own code while they are read.
        shard: the share of the checkpoints to analyse; None for all of them.
        devices: those that share the checkpoints out on this machine, one process each; () for a single process on
            `device`.
        ranks: how many processes share the examples.
        activations: whether those of a batch are kept for the backward pass, or computed anew.
    """

    batch_size: int | None = None
    device: str = "auto"
    data_dir: str | None = None
    download: bool = False
    trust_pickle: bool = False
    shard: Shard | None = None
    devices: tuple[str, ...] = ()
    ranks: int = 1
    activations: Activations = Activations.KEEP

    def as_dict(self) -> dict[str, Any]:
        """The resources as plain JSON values, in declaration order."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"shard": None if self.shard is None else str(self.shard), "devices": list(self.devices)}


@dataclass(frozen=True)
class Preset:
    """The settings that a paper's definition takes, other than ours.

    Attributes:
        settings: values by their names in `Settings`.
        about: what it computes, in one line.
        source: the paper.
    """

    settings: Mapping[str, Any]
    about: str
    source: str


PRESETS: Final[Mapping[str, Preset]] = {
    "ye2022": Preset(
        {
            "estimator": Estimator.SAMPLED,
            "samples": 5,
            "limit": 1000,
            "weights_only": True,
            "eigenvalues": 0,
        },
        "tr F of linear and convolutional weights inside their pruning masks, 5 sampled labels, 1000 training examples",
        "Ye, Wang, Ding and Chen 2022, The Price of Sparsity: Generalization and Memorization (SNN workshop)",
    ),
    "achille2019": Preset(
        {"estimator": Estimator.EXACT, "limit": None, "eigenvalues": 0},
        "tr F over all training examples, exact over the model's labels; each layer's share of it in the layer table",
        "Achille, Rovere and Soatto 2019 (arXiv:1711.08856)",
    ),
    "kunstner2019": Preset(
        {"estimator": Estimator.EXACT, "limit": None, "precision": Precision.FLOAT64},
        "the exact Fisher against the uncentred empirical Fisher, both means over all examples, in float64",
        "Kunstner, Hennig and Balles 2019 (arXiv:1905.12558)",
    ),
    "task2vec": Preset(
        {
            "estimator": Estimator.EXACT,
            "weights_only": True,
            "without_head": True,
            "task2vec": True,
            "eigenvalues": 0,
        },
        "the mean of the Fisher's diagonal over each filter, without the head, as NAME.task2vec beside the table",
        "Achille et al. 2019 (arXiv:1902.03545)",
    ),
    "mccandlish2018": Preset(
        {"limit": None, "eigenvalues": 0},
        "the gradient noise scale B_simple = tr Σ/|G|², unbiased from per-example gradients, in column noise_scale",
        "McCandlish et al. 2018 (arXiv:1812.06162)",
    ),
    "jastrzebski2021": Preset(
        {"estimator": Estimator.SAMPLED, "samples": 1, "eigenvalues": 0},
        "tr F by one sampled label per example; their Fisher penalty on batches of B is tr F/B in expectation",
        "Jastrzębski et al. 2021 (arXiv:2012.14193)",
    ),
}


def settings_of(preset: str | None = None, given: Mapping[str, Any] | None = None, **defaults: Any) -> Settings:
    """Make the settings of a preset, or those of values alone.

    Args:
        preset: a name in `PRESETS`; None for no preset.
        given: values that win over the preset's, by their names in `Settings`.
        **defaults: values over which the preset's win.

    Raises:
        UsageError: there is no such preset.
        TypeError: there is no setting of one of the names.
        ValueError: a value is none of those that are possible.
    """
    if preset is None:
        return Settings.of(**{**defaults, **(given or {})})
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset.lower(), PRESETS, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        msg = f"--preset {preset!r}: unknown; {guess}there are {', '.join(PRESETS)}"
        raise UsageError(msg)
    return Settings.of(**{**defaults, **PRESETS[preset].settings, **(given or {}), "preset": preset})


def listing() -> list[str]:
    """List the presets, one line each: name, what it computes, source."""
    width = max(map(len, PRESETS))
    return [f"{name:<{width}}  {preset.about}: {preset.source}" for name, preset in PRESETS.items()]
