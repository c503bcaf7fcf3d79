"""Trains three small networks on the handwritten digits and saves what the tests and the tutorial look at.

    python sample_checkpoints/make.py

digits-clean   the perceptron on the true labels: the Fisher trace rises, peaks and falls
digits-noisy   the same initial weights, 30 % wrong labels: the trace keeps rising while they are memorised
digits-cnn     a small convolutional network with batch norm on the true labels

Plain SGD without momentum or weight decay, pixels/16, batch norm as PyTorch has it; one thread and seeded: a second
run gives the same bytes on the same machine, in about ten seconds. A wrong label is drawn uniformly from the other
nine classes.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fisher_cli.inputs.data.datasets import load_examples
from fisher_cli.inputs.networks.digits_networks import digits_cnn, digits_mlp
from fisher_cli.settings import Resources, Settings

HERE = Path(__file__).parent
BATCH_SIZE = 32
LEARNING_RATE = 0.1
# Of the seeds 0 to 5 this one starts the perceptron with the shallowest dip: with the others the trace falls
# by up to a quarter within the first eleven steps before it rises.
INITIAL_SEED, ORDER_SEED, NOISE_SEED = 3, 1, 2


@dataclass(frozen=True)
class Run:
    """One training run: after which SGD steps its weights are saved, and which share of labels is wrong."""

    name: str
    architecture: str
    network: Callable[[], nn.Module]
    steps: tuple[int, ...]
    wrong_labels: float = 0.0


# 44 steps are one epoch. Dense at the start, where the trace moves fastest.
UNTIL_EPOCH_40 = (0, 5, 11, 22, 44, 66, 88, 132, 176, 264, 440, 704, 1100, 1760)
UNTIL_EPOCH_120 = (0, 11, 22, 44, 88, 176, 352, 704, 1100, 1760, 2640, 3520, 4400, 5280)
RUNS = (
    Run("digits-clean", "digits-mlp", digits_mlp, UNTIL_EPOCH_40),
    Run("digits-noisy", "digits-mlp", digits_mlp, UNTIL_EPOCH_120, wrong_labels=0.3),
    Run("digits-cnn", "digits-cnn", digits_cnn, UNTIL_EPOCH_40),
)


def train(run: Run, folder: Path, last_step: int | None = None) -> list[Path]:
    """Train, save the checkpoints up to `last_step` into the folder, and return their paths."""
    torch.set_num_threads(1)  # the order of floating-point sums depends on the number of threads
    folder.mkdir(parents=True, exist_ok=True)
    examples = load_examples(Settings(split="train", limit=None), Resources())
    inputs, labels = examples.batch(0, len(examples))
    if run.wrong_labels:
        labels, noisy = with_wrong_labels(labels, run.wrong_labels)
        write_labels(folder / "labels.csv", labels, noisy)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INITIAL_SEED)  # the same initial weights for both perceptrons
        network = run.network()
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    order = torch.Generator().manual_seed(ORDER_SEED)
    batches = -(-len(labels) // BATCH_SIZE)
    queue: list[Tensor] = []

    saved = []
    end = max(run.steps) if last_step is None else last_step
    for step in range(end + 1):
        if step > 0:
            if not queue:
                shuffled = torch.randperm(len(labels), generator=order)
                queue = [shuffled[row : row + BATCH_SIZE] for row in range(0, len(labels), BATCH_SIZE)]
            rows = queue.pop(0)
            network.train()
            optimizer.zero_grad()
            cross_entropy(network(inputs[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if step in run.steps:
            path = folder / f"step_{step:05d}.pt"
            checkpoint = {
                "state_dict": network.state_dict(),
                "step": step,
                "epoch": step / batches,
                "arch": run.architecture,
            }
            torch.save(checkpoint, path)
            saved.append(path)
    return saved


def with_wrong_labels(labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return labels of which exactly this share is wrong, uniform over the other classes, and which are."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    shift = torch.randint(1, 10, (len(chosen),), generator=generator)
    changed, noisy = labels.clone(), torch.zeros(len(labels), dtype=torch.bool)
    changed[chosen] = (labels[chosen] + shift) % 10
    noisy[chosen] = True
    return changed, noisy


def write_labels(path: Path, labels: Tensor, noisy: Tensor) -> None:
    """Write the file that `--labels` reads."""
    with path.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("index", "label", "noisy"))
        writer.writerows(zip(range(len(labels)), labels.tolist(), noisy.int().tolist(), strict=True))


if __name__ == "__main__":
    for run in RUNS:
        files = train(run, HERE / run.name)
        print(f"{run.name}: {len(files)} checkpoints, {sum(file.stat().st_size for file in files):,} bytes")
