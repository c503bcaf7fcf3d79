"""Exact Fisher traces on a GPU: ours beside its peers, and the share of the card's matrix rate that ours reaches.

    python -m benchmarks.gpu [--quick] [--only NAME …] [--rounds 3] [--write]

Without a GPU it ends with one line.
"""

import argparse
import contextlib
import copy
import gc
import math
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from benchmarks.engine import TraceRow, section
from benchmarks.harness import (
    NotApplicableError,
    Report,
    number,
    parsed,
    parser,
    provenance,
    say,
    table,
)
from benchmarks.methods import FORWARD, METHODS, Answer, Method, autograd_loop
from benchmarks.networks import CLASSES, Case, Setting, case_named, cifar_resnet18
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.torch_backend.backend_flags import full_precision, make_deterministic, tf32_products
from fisher_cli.curvature.traces.traces import sweep

Made = TypeVar("Made")

# The truth is a loop over examples and classes; it and every method are held against each other on so many examples.
CHECKED_EXAMPLES = 8
REPEATS, REPEATED_SECONDS = 3, 1.0
LATE_BATCH, LATE_EXAMPLES = 256, 2048
GOAL = 0.5
MATRIX = 8192
LOOP_EXAMPLES = 32
ABOUT = (
    "Rounds: {rounds}. Within a round all methods take turns in one process, each on a network of its own that is on "
    "the card already, inputs as well for all but ours, with TF32 off; the median of up to "
    f"{REPEATS} runs, after one on {CHECKED_EXAMPLES} examples, counts; after {REPEATED_SECONDS:.0f} s none is begun "
    f"anew. The loop is run on {LOOP_EXAMPLES} examples, and its seconds are scaled to all. A forward pass is one "
    "over all examples without gradients at the batch that the peers are given. Memory is what torch's allocator holds "
    f"at most beyond what it held before. The error is that of the {CHECKED_EXAMPLES} examples, relative to a loop in "
    f"float64. Matrix rate: a product of two {MATRIX:,} × {MATRIX:,} matrices in float32."
)


def cifar_resnet50() -> nn.Module:
    """torchvision's, with a stem for 32 × 32 images."""
    model: nn.Module = resnet50(num_classes=CLASSES)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


# Examples enough to fill a card, and the batch that every method but ours is given; ours takes its own.
GPU_CASES = (
    replace(case_named("mlp"), examples=4096, batch=1024),
    replace(case_named("digits-cnn"), examples=4096, batch=1024),
    replace(case_named("resnet20"), examples=2048, batch=256),
    replace(case_named("resnet18"), examples=1024, batch=128),
    Case("resnet50", cifar_resnet50, (3, 32, 32), examples=512, batch=64),
    replace(case_named("vit"), examples=1024, batch=256),
)


@dataclass
class Late:
    """The last stage of a network on what comes into it, swept exactly: `flops` of products in `seconds`."""

    network: str
    seconds: list[float] = field(default_factory=list)
    flops: float = math.nan
    rate: float = math.nan

    def share(self) -> float:
        """Of the card's measured matrix rate."""
        return self.flops / statistics.median(self.seconds) / self.rate

    def verdict(self) -> str:
        """Beside the goal."""
        return "reached" if self.share() >= GOAL else f"below {GOAL:.0%}"


def synchronized(run: Callable[[], object]) -> float:
    """Seconds until the card is done."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def repeated(run: Callable[[Made], object], prepare: Callable[[], Made]) -> float:
    """The median of some runs, each on something made for it; a single one where that is slow."""
    times: list[float] = []
    while not times or (len(times) < REPEATS and sum(times) < REPEATED_SECONDS):
        made = prepare()
        times.append(synchronized(lambda made=made: run(made)))  # type: ignore[misc]
    return statistics.median(times)


def matrix_rate() -> float:
    """Floating-point operations per second of a large product in float32."""
    a, b = torch.randn(2, MATRIX, MATRIX, device="cuda")
    with full_precision():
        torch.matmul(a, b)
        return 2 * MATRIX**3 / repeated(lambda a: torch.matmul(a, b), lambda: a)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Give up what takes longer, in the main thread.

    Raises:
        TimeoutError: it did.
    """

    def give_up(_number: int, _frame: object) -> None:
        msg = f"no answer within {seconds:.0f} s"
        raise TimeoutError(msg)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measured(
    method: Method, network: nn.Module, data: tuple[Tensor, Tensor], batch: int, limit: float
) -> tuple[Answer, float, int]:
    """What it finds of a few examples, its seconds with all of them, and the bytes that it adds."""
    few = (each[:CHECKED_EXAMPLES] for each in data)
    with at_most(limit):
        found = method.run(copy.deepcopy(network), *few, batch)
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds = repeated(lambda model: method.run(model, *data, batch), lambda: copy.deepcopy(network))
    return found, seconds, torch.cuda.max_memory_allocated() - before


def turn(row: TraceRow, method: Method, case: Case, forward: float | None, limit: float) -> float | None:
    """One method's turn; its seconds. What it raises is its verdict."""
    inputs, labels = case.data(Setting(), case.examples)
    ours = method.distribution == "fisher-cli"
    x, y = (inputs, labels) if ours else (inputs.cuda(), labels.cuda())
    scale = 1.0
    if method.run is autograd_loop:
        scale = max(1.0, len(x) / LOOP_EXAMPLES)
        x, y = x[:LOOP_EXAMPLES], y[:LOOP_EXAMPLES]
    network = case.network(Setting()).cuda()
    try:
        found, seconds, peak = measured(method, network, (x, y), case.batch, limit)
    except NotApplicableError as reason:
        row.failure = f"n/a: {reason}"
    except ModuleNotFoundError as error:
        row.failure = f"not installed: {error.name}"
    except Exception as error:
        row.failure = f"fails: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
    else:
        row.take(
            {"seconds": scale * seconds, "mebibytes": peak / 2**20, "trace": found.trace, "error": found.error},
            {} if forward is None else {FORWARD.name: forward},
        )
        return scale * seconds
    return None


def measure(case: Case, rounds: int, limit: float) -> list[TraceRow]:
    """All methods on one network, in turns."""
    inputs, labels = case.data(Setting(), CHECKED_EXAMPLES)
    truth = autograd_loop(case.network(Setting()).double().cuda(), inputs.double().cuda(), labels.cuda(), 1).trace
    rows = [TraceRow(case.name, method.name, FORWARD.name, weights=Setting().words, truth=truth) for method in METHODS]
    for number_of_round in range(rounds):
        forward = None
        for row, method in zip(rows, METHODS, strict=True):
            if row.failure is None:
                say(f"{case.name}, round {number_of_round + 1}: {method.name}")
                seconds = turn(row, method, case, forward, limit)
                forward = seconds if method is FORWARD else forward
            gc.collect()
            torch.cuda.empty_cache()
    return rows


@dataclass
class Rounded:
    """An exact sweep in float32 and with the network's products in TF32."""

    network: str
    precise: float
    rounded: float
    difference: float

    def verdict(self) -> str:
        """How many times as fast."""
        return f"{self.precise / self.rounded:.1f} times as fast"


def in_tf32(case: Case) -> Rounded:
    """Seconds of both, and |tr − tr₃₂|/tr₃₂ of the true trace of all examples."""
    inputs, labels = case.data(Setting(), case.examples)
    problem = pose(case.network(Setting()).cuda(), TensorData(inputs, labels))
    seconds, traces = [], []
    for wanted in (False, True):
        with tf32_products(wanted=wanted):
            traces.append(sweep(problem, estimator="exact", verify=False).trace.true.value)
            seconds.append(repeated(lambda each: sweep(each, estimator="exact", verify=False), lambda: problem))
    return Rounded(case.name, *seconds, abs(traces[1] - traces[0]) / traces[0])


def tf32_table(rows: Sequence[Rounded]) -> str:
    columns = ["network", "float32, seconds", "TF32, seconds", "relative difference of the trace", "verdict:"]
    return table(
        "The exact sweep with the network's products in TF32 (`--dtype tf32`), random weights",
        columns,
        [
            [
                each.network,
                number([each.precise], 3),
                number([each.rounded], 3),
                f"{each.difference:.0e}",
                each.verdict(),
            ]
            for each in rows
        ],
    )


def stages(build: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """A ResNet up to its third stage, and from there."""
    torch.manual_seed(0)
    model = build().eval()
    early = nn.Sequential(model.conv1, model.bn1, model.relu, model.layer1, model.layer2, model.layer3)  # type: ignore[arg-type]
    late = nn.Sequential(model.layer4, model.avgpool, nn.Flatten(), model.fc)  # type: ignore[arg-type]
    return early, late


def late_layers(name: str, build: Callable[[], nn.Module], rate: float, rounds: int) -> Late:
    """The exact sweep of the last stage, verdicts of rules and all statistics included, at a batch of 256."""
    early, late = stages(build)
    inputs = torch.randn(LATE_EXAMPLES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(CLASSES, (LATE_EXAMPLES,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        features = torch.cat([early.cuda()(part.cuda()) for part in inputs.split(64)])
    problem = pose(late, TensorData(features, labels), batch_size=LATE_BATCH, device="cuda")
    with FlopCounterMode(display=False) as counter:
        sweep(problem, verify=False)
    found = Late(name, flops=float(counter.get_total_flops()), rate=rate)
    for _ in range(rounds):
        found.seconds.append(repeated(lambda each: sweep(each, verify=False), lambda: problem))
    return found


def late_table(rows: Sequence[Late]) -> str:
    columns = ["network", "milliseconds", "TFLOP of products", "TFLOP/s", "share of the matrix rate", "verdict:"]
    return table(
        f"The last stage of ResNets, {LATE_EXAMPLES:,} examples at a batch of {LATE_BATCH}, exact, {CLASSES} classes",
        columns,
        [
            [
                row.network,
                number([1e3 * each for each in row.seconds], 3),
                number([row.flops / 1e12], 3),
                number([row.flops / statistics.median(row.seconds) / 1e12], 3),
                f"{row.share():.0%}",
                row.verdict(),
            ]
            for row in rows
        ],
    )


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    made = parser(
        "benchmarks.gpu", __doc__, [*(case.name for case in GPU_CASES), "tf32", "late"], "an eighth of the examples"
    )
    return parsed(made, arguments)


def main(arguments: Sequence[str]) -> None:
    """Measure, show, and write where asked to."""
    options = options_of(arguments)
    if not torch.cuda.is_available():
        say("no CUDA device is here: nothing was measured")
        return
    make_deterministic()
    warnings.simplefilter("ignore")
    packages = [method.distribution for method in METHODS if method.distribution]
    source = provenance("benchmarks.gpu", arguments, packages)
    rate = matrix_rate()
    source["cpu"] = f"{torch.cuda.get_device_name()} ({rate / 1e12:.1f} TFLOP/s of float32 products), {source['cpu']}"
    report = Report("Exact Fisher traces on a GPU", ("GPU.md", "gpu.json"), source, ABOUT.format(rounds=options.rounds))
    for case in GPU_CASES:
        if case.name in options.only:
            chosen = replace(case, examples=case.examples // 8) if options.quick else case
            with full_precision():
                rows = measure(chosen, options.rounds, options.limit)
            report.add(section(chosen, Setting(), chosen.examples, rows), rows)
    if "tf32" in options.only:
        compared = [in_tf32(case) for case in GPU_CASES if case.name in {"resnet18", "resnet50", "vit"}]
        report.add(tf32_table(compared), compared)
    if "late" in options.only:
        late = [
            late_layers(name, build, rate, options.rounds)
            for name, build in (("ResNet-18", cifar_resnet18), ("ResNet-50", cifar_resnet50))
        ]
        report.add(late_table(late), late)
    if options.write:
        report.write()


if __name__ == "__main__":
    main(sys.argv[1:])
