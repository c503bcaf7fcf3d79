"""The words that many commands share → their Settings and Resources, by one decorator for all of them."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import typer

from fisher_cli.cli import options
from fisher_cli.cli.run_command import DATA_IS_DEFAULT, WORDS
from fisher_cli.cli.sharing import read_devices
from fisher_cli.errors import UsageError
from fisher_cli.settings import (
    PRESETS,
    Activations,
    Estimator,
    LikelihoodName,
    Precision,
    Resources,
    Settings,
    Shard,
    listing,
    read_precision,
    settings_of,
)


def positive(text: str, option: str, word: str) -> int | None:
    """The number that an option's text says; None for its word.

    Args:
        text: as typed.
        option: its name, for the message.
        word: what stands for no number, such as `all`.

    Raises:
        UsageError: it is neither.
    """
    if text == word:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        msg = f"{option} {text}: type a positive whole number, or {word}"
        raise UsageError(msg)
    return int(text)


def count(number: int, option: str) -> int:
    """The number of an option that may be zero.

    Raises:
        UsageError: it is negative.
    """
    if number < 0:
        msg = f"{option} {number}: type a positive whole number, or 0 for none"
        raise UsageError(msg)
    return number


def positive_number(text: str | None, option: str, example: str) -> float | None:
    """The positive number that an option's text says; None without a text.

    Args:
        text: as typed.
        option: its name, for the message.
        example: of a number, for the message.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        msg = f"{option} {text}: type a positive number, such as {example}"
        raise UsageError(msg)
    return value


def precision(name: str) -> Precision:
    """The precision of this name.

    Raises:
        UsageError: there is none.
    """
    try:
        return read_precision(name)
    except ValueError as error:
        msg = f"--dtype {error}; type float32, float64, bfloat16 or tf32"
        raise UsageError(msg) from error


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class SharedOption:
    """One shared option: a command's parameter, as Typer reads it, and what becomes of it.

    Attributes:
        name: of the parameter, and of the field that it sets.
        option: its annotation for Typer.
        default: what Typer takes where nothing is typed.
        read: turns what was typed into the value of the field.
        of: whose field it is; None for an option that acts by itself.
    """

    name: str
    option: Any
    default: Any = None
    read: Callable[[Any], Any] = _as_it_is
    of: type[Settings] | type[Resources] | None = Settings


DATA = (
    SharedOption("data", options.Data, "digits"),
    SharedOption("data_dir", options.DataDir, read=_text, of=Resources),
    SharedOption("split", options.Split),
    SharedOption("limit", options.Limit, "1000", partial(positive, option="--limit", word="all")),
    SharedOption("labels", options.Labels, read=_text),
    SharedOption("normalize", options.Normalize),
    SharedOption("resize", options.Resize),
    SharedOption("crop", options.Crop),
    SharedOption("grayscale", options.Grayscale, False),
    SharedOption(
        "data_arguments",
        options.DataArguments,
        [],
        lambda texts: tuple(options.key_value(text, "--data-arg") for text in texts),
    ),
    SharedOption("download", options.Download, False, of=Resources),
)
MODEL = (
    SharedOption("model", options.Model),
    SharedOption("model_arguments", options.ModelArguments, [], lambda texts: tuple(map(options.key_value, texts))),
    SharedOption("state_key", options.StateKey),
    SharedOption("use_ema", options.UseEma, False),
    SharedOption("trust_pickle", options.TrustPickle, False, of=Resources),
)
ESTIMATOR = (SharedOption("estimator", options.EstimatorOption, Estimator.AUTO),)
SAMPLING = (
    SharedOption("samples", options.Samples, 5),
    SharedOption(
        "target_error",
        options.TargetError,
        read=partial(positive_number, option="--target-error", example="0.01 for one percent of the trace"),
    ),
)
EIGENVALUES = (SharedOption("eigenvalues", options.EigenvalueCount, 5, partial(count, option="--eigenvalues")),)
NETWORK = (
    SharedOption("include", options.Include, ["*"], tuple),
    SharedOption("exclude", options.Exclude, [], tuple),
    SharedOption("likelihood", options.LikelihoodOption, LikelihoodName.AUTO),
    SharedOption("recalibrate_bn", options.RecalibrateBatchNorm, False),
    SharedOption("precision", options.PrecisionOption, "float32", precision),
)
PRESET = (
    SharedOption("preset", options.Preset),
    SharedOption("weights_only", options.WeightsOnly, False),
    SharedOption("without_head", options.WithoutHead, False),
)
SEED = (SharedOption("seed", options.Seed, 0),)
BATCH_SIZE = (
    SharedOption(
        "batch_size", options.BatchSize, "auto", partial(positive, option="--batch-size", word="auto"), Resources
    ),
)
DEVICE = (SharedOption("device", options.Device, "auto", of=Resources),)
DEBUG = (SharedOption("debug", options.Debug, False, of=None),)
HELP_ALL = SharedOption("help_all", options.HelpAll, False, of=None)
RUNNING = (*BATCH_SIZE, *DEVICE, *DEBUG)
ACTIVATIONS = (SharedOption("activations", options.ActivationsOption, Activations.KEEP, of=Resources),)
SHARING = (
    SharedOption("devices", options.Devices, read=read_devices, of=Resources),
    SharedOption("shard", options.ShardOption, read=Shard.read, of=Resources),
)


def without(asked: tuple[SharedOption, ...], *names: str) -> tuple[SharedOption, ...]:
    """The options less those of these names."""
    return tuple(each for each in asked if each.name not in names)


def changed(asked: tuple[SharedOption, ...], name: str, option: Any, default: Any) -> tuple[SharedOption, ...]:
    """The options, the one of this name with another annotation and default."""
    return tuple(replace(each, option=option, default=default) if each.name == name else each for each in asked)


def asks(*asked: SharedOption) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options besides its own; it is called with `settings` and `resources` made of them.

    What Typer sees is one function of all: the command's arguments first, then the shared options, then its own. Errors
    of reading them are UsageErrors.

    Args:
        *asked: the shared options, in the order of the help.
    """
    asked = (*asked, HELP_ALL)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[2:]
        arguments = [each for each in own if each.default is each.empty]
        options_of_its_own = [each for each in own if each.default is not each.empty]
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *arguments, *map(_parameter, asked), *options_of_its_own]

        @functools.wraps(command)
        def run(context: typer.Context, **given: Any) -> None:
            DATA_IS_DEFAULT.set(not _was_typed(context, "data"))
            WORDS.set(repr((context.command_path, sorted(context.params.items()))))
            typed = [(each, given.pop(each.name)) for each in asked]
            words, resources = (
                {each.name: each.read(value) for each, value in typed if each.of is kind}
                for kind in (Settings, Resources)
            )
            command(_settings(context, words), Resources(**resources), **given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _settings(context: typer.Context, words: dict[str, Any]) -> Settings:
    """The settings of a command's words; those that were typed win over a preset, and it over the defaults.

    Raises:
        UsageError: there is no preset of that name; all there are have been listed.
    """
    preset = words.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        from fisher_cli.reports.console import Console

        for line in listing():
            Console().message(line)
    typed = {name: value for name, value in words.items() if _was_typed(context, name)}
    return settings_of(preset, typed, **words)


def _was_typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given, on the command line or in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and not source.name.startswith("DEFAULT")


def _parameter(asked: SharedOption) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(asked.name, kind, default=asked.default, annotation=asked.option)
