"""What the benchmarks share: a fresh process for every measurement, turns, medians, the machine's name, tables.

Every measurement is a fresh process: it imports, builds the network, tries the method on two examples, and only
then measures it. All methods take their turn in each round; one that took longer than a minute, or failed, is not
asked again.
"""

import argparse
import contextlib
import ctypes
import datetime
import gc
import importlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from fisher_cli.settings import last_part

SLOW_SECONDS = 60
WARM_UP_EXAMPLES = 2
# Within its process a method is repeated until one of these is reached; the median counts.
REPEATS, REPEATED_SECONDS = 5, 1
HERE = Path(__file__).parent
TURNS = (
    f"Within a round all methods take turns, each in a process of its own, after a run on {WARM_UP_EXAMPLES} "
    f"examples; the medians are shown. Slower than {SLOW_SECONDS} s: once. A forward pass is one over all examples "
    "without gradients, in the same round. Memory is the growth of the peak resident size during the call."
)

Answer = dict[str, Any]
"""What comes back from a process: `seconds`, `mebibytes` and more, or `failure`."""

Result = TypeVar("Result")


class NotApplicableError(Exception):
    """A method cannot, or need not, do this."""


@dataclass
class Row:
    """What is known of one method on one network; lists have one entry per round it took part in.

    `multiples` are of the seconds that the method called `unit` took in the same round.
    """

    network: str
    method: str
    unit: str
    seconds: list[float] = field(default_factory=list)
    multiples: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    failure: str | None = None

    def take(self, answer: Answer, in_this_round: dict[str, float]) -> None:
        """Add what came back; `in_this_round` are the seconds of the methods that had their turn before."""
        if "failure" in answer:
            self.failure = str(answer["failure"])
            return
        self.seconds.append(answer["seconds"])
        self.mebibytes.append(answer["mebibytes"])
        in_this_round[self.method] = answer["seconds"]
        if self.unit in in_this_round:
            self.multiples.append(answer["seconds"] / in_this_round[self.unit])
        self.learn(answer)

    def learn(self, answer: Answer) -> None:
        """Keep what is not time or memory."""

    def verdict(self) -> str:
        """The last column of the table."""
        return self.failure or ""

    @property
    def is_asked_again(self) -> bool:
        """Whether it takes part in the next round."""
        return self.failure is None and (not self.seconds or self.seconds[0] <= SLOW_SECONDS)


AnyRow = TypeVar("AnyRow", bound=Row)


# --- in the process of one measurement ---


def package(name: str) -> Any:
    """A module of another package: one that is missing or broken is a row of the table."""
    return importlib.import_module(name)


def measured(build: Callable[[], nn.Module], run: Callable[[nn.Module], Result]) -> tuple[Answer, Result]:
    """Median seconds and the first repeat's memory; each repeat has a network that no method has touched."""
    times: list[float] = []
    mebibytes = 0.0
    while not times or (len(times) < REPEATS and sum(times) < REPEATED_SECONDS):
        model = build()
        _give_back_freed_memory()
        _forget_peak()
        before = _resident_bytes()
        start = time.perf_counter()
        result = run(model)
        times.append(time.perf_counter() - start)
        if len(times) == 1:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            mebibytes = max(0, peak - before) / 2**20
    return {"seconds": statistics.median(times), "mebibytes": mebibytes}, result


def _give_back_freed_memory() -> None:
    """Else what the warm-up freed counts as resident before the call, and what the call takes of it as no growth."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _child(work: Callable[..., Answer], arguments: tuple[Any, ...], pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    with contextlib.suppress(OSError):  # should memory run out, this process goes and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            answer = work(*arguments)
        except NotApplicableError as reason:
            answer = {"failure": f"n/a: {reason}"}
        except ModuleNotFoundError as error:
            answer = {"failure": f"not installed: {error.name}"}
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            answer = {"failure": f"fails: {type(error).__name__}: {lines[0][:100]}".rstrip(": ")}
    pipe.send(answer)


# --- in the process that asks ---


def ask(work: Callable[..., Answer], *arguments: Any, limit: float | None = None) -> Answer:
    """What a function of a module answers in a fresh process, also when that dies or does not come back."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torchvision", "benchmarks.methods", "benchmarks.networks"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, arguments, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return {"failure": f"fails: no answer within {limit:.0f} s"}
        answer: Answer = receiver.recv()
    except EOFError:
        process.join()
        return {"failure": f"fails: the process ended with code {process.exitcode}"}
    else:
        return answer
    finally:
        process.kill()
        process.join()


def required(answer: Answer, what: str) -> Answer:
    """The answer, which nothing can go on without.

    Raises:
        RuntimeError: it is a failure.
    """
    if "failure" in answer:
        msg = f"{what}: {answer['failure']}"
        raise RuntimeError(msg)
    return answer


def take_turns(rows: Sequence[AnyRow], ask_for: Callable[[AnyRow], Answer], rounds: int) -> None:
    """All rows in every round, in their order."""
    for number in range(1, rounds + 1):
        in_this_round: dict[str, float] = {}
        for row in rows:
            if row.is_asked_again:
                say(f"{row.network}, round {number}: {row.method}")
                row.take(ask_for(row), in_this_round)


def say(text: str) -> None:
    """Tell who waits."""
    print(text, file=sys.stderr, flush=True)


# --- what is written ---


def number(values: Iterable[float], digits: int) -> str:
    """Their median with so many significant digits, without an exponent."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "—"
    value = statistics.median(known)
    if math.isinf(value):
        return "∞"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(places, 4)}f}"


def costs(row: Row) -> list[str]:
    """The cells of seconds, multiples and memory."""
    once = " (once)" if row.seconds and row.seconds[0] > SLOW_SECONDS else ""
    return [number(row.seconds, 3) + once, number(row.multiples, 3), number(row.mebibytes, 2)]


def table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown section; a column whose name ends in a colon is aligned to the left, as the first is."""
    left = [index == 0 or name.endswith(":") for index, name in enumerate(columns)]
    names = [name.removesuffix(":") for name in columns]
    lines = [f"### {heading}", "", _line(names), "|" + "|".join("---" if each else "---:" for each in left) + "|"]
    return "\n".join([*lines, *map(_line, rows)])


def _line(cells: Iterable[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


@dataclass
class Report:
    """A benchmark's Markdown and JSON as they grow: every part is shown at once."""

    title: str
    files: tuple[str, str]
    provenance: Answer
    about: str
    parts: list[str] = field(default_factory=list)
    records: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        versions = ", ".join(f"{name} {version}" for name, version in self.provenance["versions"].items())
        machine = (
            f"{self.provenance['cpu']}, {self.provenance['cores']} cores, {self.provenance['threads']} threads; "
            f"Python {self.provenance['python']}; {versions}; {self.provenance['date']}."
        )
        self.add("\n\n".join([f"# {self.title}", machine, f"    {self.provenance['command']}", self.about]))

    def add(self, part: str, rows: Iterable[Any] = ()) -> None:
        """A section and the rows behind it."""
        self.parts.append(part)
        self.records += [record(row) for row in rows]
        print(f"{part}\n", flush=True)

    def write(self) -> None:
        """Into the two files beside this one; what is not a number has no place in JSON and becomes null."""
        markdown, data = (HERE / name for name in self.files)
        markdown.write_text("\n\n".join(self.parts) + "\n")
        data.write_text(json.dumps(_plain(self.provenance | {"rows": self.records}), indent=2) + "\n")


def record(row: Any) -> Answer:
    """A row's fields and its verdict."""
    return asdict(row) | {"verdict": row.verdict()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance(module: str, arguments: Sequence[str], packages: Iterable[str]) -> Answer:
    """Which command on which machine with which versions; folders of the machine are left out."""
    shown = [last_part(word if word.startswith("folder:") else Path(word).name) for word in arguments]
    return {
        "command": shlex.join(["python", "-m", module, *shown]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in sorted({*packages, "torch", "torchvision"})},
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# --- what is asked for ---


def parser(module: str, about: str | None, parts: Sequence[str], quick: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=(about or "").partition("\n")[0])
    made.add_argument("--only", nargs="+", choices=parts, default=list(parts), help="only these parts")
    made.add_argument("--rounds", type=_positive, default=3)
    made.add_argument("--quick", action="store_true", help=f"one round, {quick}")
    made.add_argument("--limit", type=float, default=1800.0, help="seconds after which a method is given up")
    made.add_argument("--write", action="store_true", help="write the Markdown and the JSON beside the benchmarks")
    return made


def parsed(made: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options; `--quick` is one round."""
    options = made.parse_args(arguments)
    if options.quick:
        options.rounds = 1
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        msg = f"{value} is not positive"
        raise argparse.ArgumentTypeError(msg)
    return value
