"""What it costs, batch by batch, that ranks share out the mean gradient of a large network.

    torchrun --nproc-per-node=2 -m benchmarks.shared_gradient

Twenty million parameters in six tensors; their sums are added, and the mean is read, as in a batch of a sweep, without
the passes through the network. Of the slowest rank the least of ten rounds is shown, since others are at work as well.
"""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import nn

from fisher_cli.curvature.problem.problem import Batch, Problem, TensorData, pose
from fisher_cli.curvature.problem.process_group import ProcessGroup
from fisher_cli.curvature.traces.mean_gradient import MeanGradient, SharedMeanGradient
from fisher_cli.parallel.launch import launched
from fisher_cli.parallel.ranks import joined_ranks

WIDTHS = (768, 4096, 4096, 10)
ROUNDS = 10


def problem_of(process_group: ProcessGroup) -> Problem:
    """A network whose tensors have 16.8 million values and fewer."""
    torch.manual_seed(0)
    first, second, third = (nn.Linear(before, after) for before, after in pairwise(WIDTHS))
    network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
    return pose(
        network, TensorData(torch.randn(4, WIDTHS[0]), torch.arange(4)), batch_size=1, process_group=process_group
    )


def seconds(mean: MeanGradient, problem: Problem) -> tuple[float, float]:
    """The least seconds of a batch whose sums are added, and of one in which all parts are read."""
    batch = problem.slice(0, 1)
    gradients = {name: torch.randn_like(each, requires_grad=False) for name, each in problem.parameters.items()}
    taken: list[list[float]] = [[], []]

    def timed(batches: Iterator[Batch], work: Callable[[str], object], into: list[float]) -> None:
        for _ in batches:
            begun = time.perf_counter()
            for name in reversed(gradients):
                work(name)
            into.append(time.perf_counter() - begun)

    timed(mean.adding([batch] * ROUNDS), lambda name: mean.add(name, gradients[name]), taken[0])
    mean.complete()
    timed(mean.reading([batch] * ROUNDS), mean.part, taken[1])
    return min(taken[0]), min(taken[1])


def main() -> None:
    """Print the seconds of a batch with the gradient whole and shared out."""
    launch = launched()
    with joined_ranks(launch, "cpu", lambda _: None) as process_group:
        problem = problem_of(process_group)
        for kind in (MeanGradient, SharedMeanGradient):
            added, read = seconds(kind(problem), problem)
            told = process_group.exchange([added, read])
            if launch.speaks:
                name = "whole on every rank" if kind is MeanGradient else f"shared among {process_group.size}"
                slowest = [f"{max(each):.4f} s" for each in zip(*told, strict=True)]
                print(f"{problem.size:,} parameters, {name}: {slowest[0]} to add a batch, {slowest[1]} to read all")


if __name__ == "__main__":
    main()
