"""What the system says that a command takes: resident memory beside the tensors counted by the tests, and time.

    python -m benchmarks.resident [--only reader forecast factor checkpoints large] [--quick]

The tests count live bytes, calls and rows, which are the same everywhere; these figures are not, and have room to
spare.
Each line ends in the room that it is held to. Every command runs in a process of its own, with one thread.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.harness import say
from fisher_cli.curvature.torch_backend import machine_memory

ROOT = Path(__file__).parents[1]
MEBIBYTE, GIBIBYTE = 2**20, 2**30
# The command, which says in the end how much it has had resident.
CHILD = """
import sys
from fisher_cli.curvature.torch_backend import machine_memory
from fisher_cli.cli.app import app
code = app(sys.argv[1:], prog_name="fisher", standalone_mode=False)
print(f"peak {machine_memory.peak_memory()}", file=sys.stderr)
sys.exit(code)
"""
NETWORKS = """
import torch
from torch import nn


class Transformer(nn.Module):
    def __init__(self, width, heads, layers):
        super().__init__()
        self.inner = nn.Linear(16, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, inputs):
        return self.head(self.encoder(self.inner(inputs)).mean(1))


def small(): return Transformer(192, 4, 3)
def hundred_million(): return Transformer(960, 15, 9)
def billion(): return Transformer(2048, 16, 20)
def perceptron(): return nn.Sequential(nn.Flatten(), nn.Linear(256, 4), nn.Tanh(), nn.Linear(4, 10))


def examples():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 16, 16, generator=generator) + 0.1 * torch.randn(32, 16, 16, generator=generator)
    return torch.utils.data.TensorDataset(inputs, torch.arange(32) % 10)
"""


@contextlib.contextmanager
def folder_of(name: str, checkpoints: int = 1) -> Iterator[Path]:
    """A folder with the networks and checkpoints of one of them, each a little further on."""
    with tempfile.TemporaryDirectory() as place:
        folder, space = Path(place), dict[str, Callable[[], nn.Module]]()
        (folder / "net.py").write_text(NETWORKS)
        (folder / "ckpts").mkdir()
        exec(NETWORKS, space)
        torch.manual_seed(0)
        network = space[name]()
        for step in range(checkpoints):
            torch.save(network.state_dict(), folder / "ckpts" / f"step_{step}.pt")
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter += 0.01 * torch.randn_like(parameter)
        yield folder


def fisher(folder: Path, name: str, *words: str) -> tuple[str, int, float]:
    """What `fisher analyze` prints about the network, its peak of resident memory in bytes, and its seconds."""
    asked = ["analyze", "ckpts", "--model", f"net.py:{name}", "--data", "net.py:examples", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *asked], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout, int(done.stderr.rpartition("peak ")[2]), time.perf_counter() - begun


def line(what: str, found: float, room: float, unit: str) -> None:
    """One figure beside the room that it has."""
    say(f"{what}: {found:,.2f} {unit} ({'within' if found <= room else 'ABOVE'} {room:,.2f})")


def forecast(quick: bool) -> None:
    """The peak that --dry-run foretells over that of the run, and the other way round."""
    for name, words in [("small", ("--eigenvalues", "0")), ("small", ("--eigenvalues", "2"))][: 1 if quick else 2]:
        with folder_of(name, 2) as folder:
            said, _, _ = fisher(folder, name, *words, "--dry-run", "--format", "json")
            foretold, (_, peak, _) = json.loads(said)["peak_bytes"], fisher(folder, name, *words, "-o", "r.csv")
        line(f"forecast, {name} {' '.join(words)}", max(foretold / peak, peak / foretold), 1.15, "times the other")


def factor(quick: bool) -> None:
    """Resident memory by which a process grows at most while the columns of a factor are made, over their size."""
    from fisher_cli.curvature.gradient_norms.engine import Engine
    from fisher_cli.curvature.problem.output_scores import true_scores
    from fisher_cli.curvature.problem.problem import TensorData, pose
    from fisher_cli.curvature.spectra.factors import collect
    from fisher_cli.curvature.torch_backend.malloc import trim

    width = 48 if quick else 96
    layers = [nn.Conv2d(width, width, 3, padding=1) for _ in range(8)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    engine = Engine(pose(network, TensorData(torch.randn(8, width, 4, 4), torch.arange(8)), batch_size=2))
    collect(engine, true_scores)  # what a batch takes, and what libraries keep, has been taken before
    trim()  # else what has been freed would serve again
    before = machine_memory.resident_memory()
    if not machine_memory.begin_peak():
        say("factor: no peak of a part of a process here")
        return
    found = collect(engine, true_scores)
    held = sum(part.columns.nbytes for part in found.parts.values())
    line(
        "factor, freed blocks that nothing fits into included",
        (machine_memory.peak_memory() - before) / held,
        1.5,
        "sizes",
    )


def checkpoints(quick: bool) -> None:
    """Time and memory of many small checkpoints, and of the same command again when all is finished."""
    count = 100 if quick else 2000
    words = ("--limit", "8", "--eigenvalues", "0", "-o", "r.csv", "-q")
    with folder_of("perceptron", count) as folder:
        _, peak, seconds = fisher(folder, "perceptron", *words)
        _, _, again = fisher(folder, "perceptron", *words)
    line(f"{count} checkpoints, each with its part of the start", 1000 * seconds / count, 500, "ms")
    line(f"{count} checkpoints, the whole process", peak / MEBIBYTE, 1500, "MiB")
    line("the same when all is finished", again, 60, "s")


def large(quick: bool) -> None:
    """The whole command on networks of a hundred million and of a billion parameters, in a batch of four."""
    for name, room in [("hundred_million", 2.5), ("billion", 15.0)][: 1 if quick else 2]:
        with folder_of(name) as folder:
            if shutil.disk_usage(folder).free < room * GIBIBYTE:
                say(f"{name}: not enough disk")
                continue
            _, peak, seconds = fisher(folder, name, "--limit", "4", "-b", "4", "--eigenvalues", "0", "-o", "r.csv")
        line(f"{name} parameters, in {seconds:.0f} s", peak / GIBIBYTE, room, "GiB")


def reader(quick: bool) -> None:
    """What the process that reads files costs: its start, a question about a small file, and the memory of a large."""
    from fisher_cli.inputs.formats.checkpoint_reader import OWNER, ask
    from fisher_cli.inputs.formats.containers import decode
    from fisher_cli.inputs.formats.contents import Content
    from fisher_cli.inputs.formats.decoders import DECODERS
    from fisher_cli.storage.reader_process import ReaderProcess

    def seconds(act: Callable[[], object]) -> float:
        found = []
        for _ in range(5 if quick else 50):
            begun = time.perf_counter()
            act()
            found.append(time.perf_counter() - begun)
        return statistics.median(found)

    with folder_of("small") as folder:
        content = Content.read(folder / "ckpts" / "step_0.pt")

    def start() -> None:
        begun = ReaderProcess(OWNER.code)
        begun.wait()
        begun.kill()

    starts = seconds(start)
    asked = seconds(lambda: ask("checkpoint", content))
    here = seconds(lambda: list(DECODERS["checkpoint"]([content.data], None)))
    line("reader, once a run", starts, 0.15, "s")
    line("reader, a checkpoint", 1000 * (asked - here), 5, "ms")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "large.pt"
        torch.save({f"w{index}": torch.ones(2**20 if quick else 2**25) for index in range(8)}, path)
        if not machine_memory.begin_peak():
            say("reader: no peak of a part of a process here")
            return
        before, size = machine_memory.resident_memory(), path.stat().st_size
        found = decode(Content.read(path), path).content
        assert isinstance(found, dict)
        total = sum(float(tensor.sum()) for tensor in found.values())  # every page is looked at
        assert total == sum(tensor.numel() for tensor in found.values())
        line("reader, a large file", (machine_memory.peak_memory() - before) / size, 1.1, "sizes")


PARTS = {"reader": reader, "forecast": forecast, "factor": factor, "checkpoints": checkpoints, "large": large}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resident", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="smaller networks and fewer checkpoints")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.only:
        PARTS[name](options.quick)


if __name__ == "__main__":
    main(sys.argv[1:])
