"""Time, memory and error of exact Fisher traces: ours beside its peers, on one machine, in turns.

    python -m benchmarks.engine [--quick] [--only NAME …] [--rounds 3] [--weights FILE] [--write]

Every measurement is a fresh process: it imports, builds the network, runs the method on two examples, and only
then measures it on all. All methods take their turn in each round, a forward pass among them; a method that took
longer than a minute, or failed, is not asked again. The truth is a loop over examples and classes in float64.
"""

import argparse
import contextlib
import datetime
import gc
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn

from benchmarks.methods import FORWARD, METHODS, Answer, Method, NotApplicableError, autograd_loop
from benchmarks.networks import CASES, Case

SLOW_SECONDS = 60
WARM_UP_EXAMPLES = 2
QUICK_EXAMPLES = 4
# Relative errors above this are not rounding in float32.
WRONG = 1e-3
# An estimate further from the truth than so many of its own standard errors is wrong.
STANDARD_ERRORS = 4
# Within its process a method is repeated until one of these is reached; the median counts.
REPEATS, REPEATED_SECONDS = 5, 1
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    """What one process is asked."""

    case: str
    method: str
    examples: int
    weights: Path | None


@dataclass
class Row:
    """What is known of one method on one network; lists have one entry per round it took part in."""

    network: str
    method: str
    seconds: list[float] = field(default_factory=list)
    forwards: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    trace: float = math.nan
    stated_error: float = 0.0
    relative_error: float = math.nan
    failure: str | None = None

    def verdict(self) -> str:
        """The last column of the table."""
        if self.failure is not None:
            return self.failure
        if self.method == FORWARD.name:
            return "—"
        if math.isnan(self.relative_error):
            return "wrong: NaN"
        if self.stated_error > 0:
            stated = self.stated_error / abs(self.trace)
            good = self.relative_error <= WRONG + STANDARD_ERRORS * stated
            return f"{'' if good else 'wrong by '}{self.relative_error:.0e} (states ± {stated:.0e})"
        return f"{'' if self.relative_error <= WRONG else 'wrong by '}{self.relative_error:.0e}"


# --- in the process of one measurement ---


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _measured(build: Callable[[], nn.Module], run: Callable[[nn.Module], Answer]) -> dict[str, object]:
    """Each repeat has a network that no method has touched; memory is the first's."""
    times: list[float] = []
    mebibytes = 0.0
    while not times or (len(times) < REPEATS and sum(times) < REPEATED_SECONDS):
        model = build()
        gc.collect()
        _forget_peak()
        before = _resident_bytes()
        start = time.perf_counter()
        answer = run(model)
        times.append(time.perf_counter() - start)
        if len(times) == 1:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            mebibytes = max(0, peak - before) / 2**20
    return {
        "seconds": statistics.median(times),
        "mebibytes": mebibytes,
        "trace": answer.trace,
        "error": answer.error,
    }


def _truth(task: Task, case: Case) -> dict[str, object]:
    model = case.network(task.weights).double()
    inputs, labels = case.data(task.examples)
    return {"trace": autograd_loop(model, inputs.double(), labels, 1).trace}


def _work(task: Task) -> dict[str, object]:
    case = next(case for case in CASES if case.name == task.case)
    if task.method == "truth":
        return _truth(task, case)
    method = _method(task.method)
    inputs, labels = case.data(task.examples)
    if method.warm_up:
        method.run(case.network(task.weights), inputs[:WARM_UP_EXAMPLES], labels[:WARM_UP_EXAMPLES], case.batch)
    return _measured(lambda: case.network(task.weights), lambda model: method.run(model, inputs, labels, case.batch))


def _child(task: Task, pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    with contextlib.suppress(OSError):  # should memory run out, this process goes and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            answer = _work(task)
        except NotApplicableError as reason:
            answer = {"failure": f"n/a: {reason}"}
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            answer = {"failure": f"fails: {type(error).__name__}: {lines[0][:100]}".rstrip(": ")}
    pipe.send(answer)


# --- in the process that asks ---


def _method(name: str) -> Method:
    return next(method for method in METHODS if method.name == name)


def _ask(task: Task, limit: float | None) -> dict[str, object]:
    """The answer of a fresh process, also when it dies or does not come back."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torchvision", "benchmarks.methods", "benchmarks.networks"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(task, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return {"failure": f"fails: no answer within {limit:.0f} s"}
        return receiver.recv()
    except EOFError:
        process.join()
        return {"failure": f"fails: the process ended with code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _take_turn(row: Row, task: Task, limit: float, forward: float, truth: float) -> None:
    """Ask once and add what comes back to the row."""
    answer = _ask(task, limit)
    if "failure" in answer:
        row.failure = str(answer["failure"])
        return
    row.seconds.append(answer["seconds"])
    row.mebibytes.append(answer["mebibytes"])
    if row.method == FORWARD.name:
        row.forwards.append(1.0)
    elif not math.isnan(forward):
        row.forwards.append(answer["seconds"] / forward)
    row.trace, row.stated_error = answer["trace"], answer["error"]
    row.relative_error = abs(row.trace - truth) / truth


def _asked_again(row: Row) -> bool:
    return row.failure is None and (not row.seconds or row.seconds[0] <= SLOW_SECONDS)


def measure(case: Case, options: argparse.Namespace) -> list[Row]:
    """All methods on one network, in turns."""
    examples = min(case.examples, QUICK_EXAMPLES) if options.quick else case.examples
    weights = options.weights
    answer = _ask(Task(case.name, "truth", examples, weights), limit=None)
    if "failure" in answer:
        msg = f"no truth for {case.name}: {answer['failure']}"
        raise RuntimeError(msg)
    rows = [Row(case.name, method.name) for method in METHODS]
    for number in range(1, options.rounds + 1):
        forward = math.nan
        for row in filter(_asked_again, rows):
            print(f"{case.name}, round {number}: {row.method}", file=sys.stderr, flush=True)
            _take_turn(row, Task(case.name, row.method, examples, weights), options.limit, forward, answer["trace"])
            if row.method == FORWARD.name and row.seconds:
                forward = row.seconds[-1]
    return rows


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in sorted({method.package for method in METHODS if method.package} | {"torch", "torchvision"}):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _provenance(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, object]:
    shown = [Path(word).name if options.weights and word == str(options.weights) else word for word in arguments]
    return {
        "command": shlex.join(["python", "-m", "benchmarks.engine", *shown]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": _versions(),
    }


def _number(values: Sequence[float], digits: int) -> str:
    """Their median with so many significant digits, without an exponent."""
    if not values:
        return "—"
    value = statistics.median(values)
    places = max(0, digits - 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{min(places, 4)}f}"


def _table(case: Case, rows: Sequence[Row], examples: int, weights: Path | None) -> str:
    size = sum(parameter.numel() for parameter in case.build().parameters())
    origin = "loaded weights" if weights is not None and case.name == "resnet20" else "random weights"
    lines = [
        f"### {case.name}: P = {size:,}, N = {examples}, {origin}",
        "",
        "| method | seconds | forward passes | peak memory growth, MiB | relative error |",
        "|---|---:|---:|---:|---|",
    ]
    for row in rows:
        once = " (once)" if row.seconds and row.seconds[0] > SLOW_SECONDS else ""
        verdict = row.verdict().replace("|", "\\|")
        lines.append(
            f"| {row.method} | {_number(row.seconds, 3)}{once} | {_number(row.forwards, 3)} "
            f"| {_number(row.mebibytes, 2)} | {verdict} |"
        )
    return "\n".join(lines)


def _preamble(provenance: dict[str, object], options: argparse.Namespace) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in provenance["versions"].items())
    return "\n".join(
        [
            "# The exact Fisher trace: time, memory, error",
            "",
            f"{provenance['cpu']}, {provenance['cores']} cores, {provenance['threads']} threads; Python "
            f"{provenance['python']}; {versions}; {provenance['date']}.",
            "",
            f"    {provenance['command']}",
            "",
            f"Rounds: {options.rounds}, in which all methods take turns, each in a process of its own, after a run on "
            f"{WARM_UP_EXAMPLES} examples; the medians are shown. Slower than {SLOW_SECONDS} s: once. "
            "A forward pass is one over all examples without gradients, in the same round. "
            "Memory is the growth of the peak resident size during the call. The error is relative to a loop "
            f"over examples and classes in float64; above {WRONG:.0e}, or for an estimate above {STANDARD_ERRORS} of "
            "its own standard errors, it is called wrong. Everything else computes in float32. “Wrong” and “fails” "
            "hold for each library as `benchmarks/methods.py` calls it, at the batch sizes of "
            "`benchmarks/networks.py`; their causes were not traced.",
        ]
    )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], help="only these networks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"one round, {QUICK_EXAMPLES} examples")
    parser.add_argument("--weights", type=Path, help="state dict for the ResNet-20")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which a method is given up")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md and results.json beside this file")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 1
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def main(arguments: Sequence[str]) -> None:
    options = _options(arguments)
    provenance = _provenance(options, arguments)
    parts, rows = [_preamble(provenance, options)], []
    print(parts[0], flush=True)
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        examples = min(case.examples, QUICK_EXAMPLES) if options.quick else case.examples
        measured = measure(case, options)
        rows += measured
        parts.append(_table(case, measured, examples, options.weights))
        print(f"\n{parts[-1]}", flush=True)
    if options.write:
        records = [asdict(row) | {"verdict": row.verdict()} for row in rows]
        (HERE / "RESULTS.md").write_text("\n\n".join(parts) + "\n")
        (HERE / "results.json").write_text(json.dumps(provenance | {"rows": records}, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
