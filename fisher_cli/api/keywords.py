"""The keywords that the functions share, and messages that speak of them: rooms below speak of a command's options."""

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, ParamSpec, TypedDict, TypeVar, get_args

from torch import nn

from fisher_cli.errors import FisherError
from fisher_cli.settings import Resources, Settings

P = ParamSpec("P")
T = TypeVar("T")


class Keywords(TypedDict, total=False):
    """The settings and resources that every function takes, under the names of the command's options.

    Attributes:
        batch_size: examples at once; None for the automatic rule.
        device: auto, cpu, cuda or cuda:N.
        data_dir: where named datasets lie; None for the usual folder.
        download: whether a missing dataset may be downloaded.
        trust_pickle: whether files may run their own code while they are read.
        activations: keep or recompute those of a batch.
        preset: settings of a published paper; those given beside it win.
        split: the part of a named dataset.
        limit: how many examples; None for all.
        labels: a CSV file that replaces the labels.
        normalize: the constants of pixels, by a name or as numbers; None for the dataset's own.
        resize: N or HxW, in pixels.
        crop: the same of the part that is cut out.
        grayscale: whether images of three channels are converted to one.
        data_arguments: of the function that `data` names.
        model: of checkpoint files: a name of `fisher models`, a module of this kind, or a function that makes one.
        model_arguments: of the function.
        state_key: the dotted key of the weights in a file.
        use_ema: whether a file's moving average of the weights is taken.
        estimator: auto, exact, deflated or sampled.
        samples: labels per example of the sampled estimator.
        target_error: of the deflated estimator, relative to the trace.
        eigenvalues: how many leading ones; 0 for none.
        likelihood: auto, softmax, sigmoid or gaussian.
        recalibrate_bn: whether the running statistics of batch norms are computed anew.
        include: shell patterns of parameter names.
        exclude: patterns of those to leave out.
        dtype: float32, float64, bfloat16 or tf32.
        seed: of the selected examples, drawn labels, signs and probes.
        weights_only: analyses the weights of linear and convolutional layers alone.
        without_head: leaves out the last of these layers.
    """

    batch_size: int | None
    device: str
    data_dir: str | Path | None
    download: bool
    trust_pickle: bool
    activations: Literal["keep", "recompute"]
    preset: str | None
    split: str | None
    limit: int | None
    labels: str | Path | None
    normalize: str | None
    resize: str | None
    crop: str | None
    grayscale: bool
    data_arguments: Mapping[str, Any]
    model: str | nn.Module | Callable[..., nn.Module] | None
    model_arguments: Mapping[str, Any]
    state_key: str | None
    use_ema: bool
    estimator: Literal["auto", "exact", "deflated", "sampled"]
    samples: int
    target_error: float | None
    eigenvalues: int
    likelihood: Literal["auto", "softmax", "sigmoid", "gaussian"]
    recalibrate_bn: bool
    include: str | Iterable[str]
    exclude: str | Iterable[str]
    dtype: Literal["float32", "float64", "bfloat16", "tf32"]
    seed: int
    weights_only: bool
    without_head: bool


# Besides them: what single functions take.
_OTHERS: Final = frozenset(
    {"data", "output", "force", "resume", "matrix", "method", "damping", "probes", "steps", "draws", "tensors"}
)
_OPTION: Final = re.compile(r"(?<![\w-])(?:--([a-z][a-z-]*)|-(o))(?:[ =](?=[^\s-])([^\s,;()]+))?")
_LONG: Final = {"o": "output", "model-arg": "model_arguments", "data-arg": "data_arguments"}
_FLAGS: Final = frozenset(
    {
        "force",
        "tensors",
        "grayscale",
        "download",
        "trust_pickle",
        "use_ema",
        "recalibrate_bn",
        "weights_only",
        "without_head",
    }
)
_NOTHING: Final = frozenset({("limit", "all"), ("batch_size", "auto")})


def in_keywords(text: str, output: str = "output") -> str:
    """A message about options as one about keywords: `--limit all` is `limit=None`, `--force` is `force=True`.

    Args:
        text: of an error.
        output: the keyword for `-o`.
    """
    said = re.sub(r"\b([Tt])ype (?=-)", lambda match: "Pass " if match[1] == "T" else "pass ", text)
    return _OPTION.sub(lambda match: _keyword(match, output), said)


def _keyword(match: re.Match[str], output: str) -> str:
    option, given = match[1] or match[2], match[3] or ""
    if option == "with-head":
        return f"without_head=False{match[0].removeprefix('--with-head')}"
    name = _LONG.get(option, option.replace("-", "_"))
    if name not in _OTHERS and name not in Keywords.__annotations__:
        return match[0]  # of another command
    name = output if name == "output" else name
    value = given.rstrip(":.")
    end = given[len(value) :]
    if name in _FLAGS:
        return f"{name}=True" + match[0].removeprefix(f"--{option}")
    is_word = given.rstrip(".").isalpha() and not value.isupper()
    if not value or (is_word and value not in _values_in_letters()):  # the sentence goes on
        return f"{name}=" + match[0].removeprefix(f"--{option}").removeprefix("-o")
    if option.endswith("-arg"):
        key, _, text = value.partition("=")
        return f"{name}={{{key!r}: {_literal(text)}}}{end}"
    return f"{name}={'None' if (name, value) in _NOTHING else _literal(value)}{end}"


@functools.cache
def _values_in_letters() -> frozenset[str]:
    """The values that are written as words, unlike paths, numbers and what stands for a value in capitals."""
    from fisher_cli.inputs.data.catalogue import known_datasets, splits_of
    from fisher_cli.inputs.data.normalization import NAMED
    from fisher_cli.inputs.networks.architectures import known_models

    literals = {each for kind in Keywords.__annotations__.values() for each in get_args(kind) if isinstance(each, str)}
    data = known_datasets()
    return frozenset(
        {"all", "auto", "none", "cpu", "cuda"}.union(known_models(), NAMED, data, *map(splits_of, data), literals)
    )


def _literal(text: str) -> str:
    """A value as Python writes it; what stands for one, in capitals, as it is."""
    if text.isupper() or text[:1] in {"'", '"'} or text in {"None", "True", "False"}:
        return text
    try:
        return repr(json.loads(text))
    except ValueError:
        return repr(text)


def speaks_of_keywords(**defaults: object) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let the errors of a function say which keyword to give; the rooms below say which option to type.

    Its signature lists the shared keywords one by one, for help and completion.

    Args:
        **defaults: those of the function that are not the settings' own.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        output = "path" if "path" in signature.parameters else "output"

        @functools.wraps(function)
        def asked(*args: P.args, **words: P.kwargs) -> T:
            try:
                return function(*args, **words)
            except FisherError as error:
                error.args = tuple(in_keywords(each, output) if isinstance(each, str) else each for each in error.args)
                raise

        asked.__signature__ = _spelled_out(signature, defaults)  # type: ignore[attr-defined]
        return asked

    return decorate


def _spelled_out(signature: inspect.Signature, own: Mapping[str, object]) -> inspect.Signature:
    """The signature with the shared keywords one by one."""
    parameters = list(signature.parameters.values())
    if parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return signature
    defaults = {**Settings().as_dict(), **Resources().as_dict(), "dtype": "float32", **own}
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=kind)
        for name, kind in Keywords.__annotations__.items()
    ]
    return signature.replace(parameters=[*parameters[:-1], *shared])
