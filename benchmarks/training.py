"""Weights to measure on: random, loaded, or of a short seeded training on the digits that come with fisher."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import cross_entropy

from benchmarks.harness import Answer, ask, required, say
from benchmarks.networks import LOADABLE, Case, Setting, fitted
from fisher_cli.inputs.data.datasets import load_examples
from fisher_cli.settings import Resources, Settings

LEARNING_RATE, BATCH_SIZE = 1e-3, 32
QUICK_STEPS = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """What weights to take."""
    parser.add_argument("--trained", action="store_true", help="also after a short training on the digits, on these")
    parser.add_argument("--weights", type=Path, help=f"state dict for the {LOADABLE}, in place of a training")
    parser.add_argument("--data", help="images for --weights, as for fisher's --data; default: normal inputs")
    parser.add_argument("--normalize", help="of these images, as for fisher's --normalize")


@contextmanager
def settings(case: Case, options: argparse.Namespace) -> Iterator[list[Setting]]:
    """What to measure a network with; trained weights lie in a file as long as they are needed."""
    is_loaded = options.weights is not None and case.name == LOADABLE
    chosen = [] if is_loaded and not options.trained else [Setting()]
    if is_loaded:
        images = f"images of {Path(options.data).name}" if options.data else "standard normal inputs"
        chosen.append(Setting(f"loaded weights, {images}", options.weights, options.data, options.normalize))
    with TemporaryDirectory() as folder:
        if options.trained and not is_loaded and case.steps:
            file = Path(folder) / "weights.pt"
            steps = min(case.steps, QUICK_STEPS) if options.quick else case.steps
            say(f"{case.name}: {steps} training steps")
            answer = required(ask(train, case, steps, file), f"{case.name} cannot be trained")
            words = f"{steps} training steps on the digits (accuracy {answer['accuracy']:.0%}), measured on these"
            chosen.append(Setting(words, file, "digits"))
        yield chosen


def train(case: Case, steps: int, file: Path) -> Answer:
    """Adam on the digits' training split; the accuracy is that on its other examples, the test split."""
    model = case.network(Setting())
    inputs, labels = _digits(case, "train")
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(labels), (BATCH_SIZE,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(model(inputs[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    inputs, labels = _digits(case, "test")
    with torch.no_grad():
        correct = [model(part).argmax(1) for part in torch.split(inputs, BATCH_SIZE)]
    torch.save(model.state_dict(), file)
    return {"accuracy": float((torch.cat(correct) == labels).double().mean())}


def _digits(case: Case, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    examples = load_examples(Settings(split=split, limit=None), Resources())
    images, labels = examples.batch(0, len(examples))
    return fitted(images, case.shape), labels
