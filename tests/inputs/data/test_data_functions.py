"""`--data file.py:function`: the user's own code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fisher_cli
from fisher_cli.errors import DataError, UsageError
from tests.data_files import refusal
from tests.loading import load_examples

HEAD = "import random, numpy as np, torch\nfrom torch.utils.data import DataLoader, Dataset, TensorDataset\n"
STEADY = "X = np.random.RandomState(0).randint(0, 256, (20, 6, 5, 3)).astype(np.uint8)\nY = np.arange(20) % 3\n"


def source(folder: Path, body: str) -> str:
    path = folder / "data.py"
    path.write_text(HEAD + STEADY + body)
    return f"{path}:make"


def pixels() -> torch.Tensor:
    images = np.random.RandomState(0).randint(0, 256, (20, 6, 5, 3)).astype(np.uint8)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "returned",
    [
        "X, Y",
        "[torch.from_numpy(X), torch.from_numpy(Y)]",
        "{'inputs': X, 'labels': Y}",
        "TensorDataset(torch.from_numpy(X).permute(0, 3, 1, 2), torch.from_numpy(Y))",
        "[(x, y) for x, y in zip(X, Y)]",
        "[(torch.from_numpy(x), int(y)) for x, y in zip(X, Y)]",
        "[(__import__('PIL.Image').Image.fromarray(x), torch.tensor(y)) for x, y in zip(X, Y)]",
    ],
)
def test_images_may_be_returned_as_pairs_or_datasets(returned: str, tmp_path: Path) -> None:
    examples = load_examples(source(tmp_path, f"def make():\n    return {returned}\n"), normalize="half", limit=7)
    assert torch.equal(examples.inputs, pixels()[examples.indices])
    assert torch.equal(examples.labels, examples.indices % 3)
    assert (examples.name, examples.total, examples.split) == ("data.py:make", 20, None)


def test_arguments_are_read_as_json_and_the_working_directory_is_on_the_path(workdir: Path) -> None:
    source(workdir, "def make(count, name):\n    assert name == 'abc'\n    return X[:count], Y[:count]\n")
    (workdir / "data.py").rename(workdir / "own_examples_module.py")
    examples = load_examples("own_examples_module:make", data_arguments={"count": "5", "name": "abc"}, normalize="none")
    assert examples.total == 5
    assert "--data-arg count" in refusal(UsageError, "digits", data_arguments={"count": "5"})
    assert "--data-arg split=test" in refusal(UsageError, "own_examples_module:make", split="test")


def test_text_as_numbers_of_words_reaches_the_network(tmp_path: Path) -> None:
    body = "def make():\n    return torch.arange(60).reshape(20, 3) % 11, torch.from_numpy(Y)\n"

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(11, 4), nn.Linear(4, 3)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(words).mean(1))

    given, _ = load_examples(source(tmp_path, body)).batch(0, 20)
    assert given.dtype == torch.int64
    table = fisher_cli.analyze([Bag()], source(tmp_path, body), eigenvalues=0).table
    assert table.loc[0, "examples"] == 20
    assert table.loc[0, "trace_true"] > 0


RANDOM = {
    "augmentation by torch": "class D(Dataset):\n    def __len__(self): return 20\n"
    "    def __getitem__(self, i): return torch.rand(3), int(Y[i])\ndef make(): return D()\n",
    "augmentation by numpy": "class D:\n    def __len__(self): return 20\n"
    "    def __getitem__(self, i): return X[i, ::np.random.choice([-1, 1])], int(Y[i])\ndef make(): return D()\n",
    "augmentation by torchvision": "def make():\n    from torchvision import datasets, transforms as t\n"
    "    return datasets.FakeData(20, (3, 16, 16), transform=t.Compose([t.RandomCrop(16, 4), t.ToTensor()]))\n",
    "random labels": "class D:\n    def __len__(self): return 20\n"
    "    def __getitem__(self, i): return X[i], random.randrange(1000)\ndef make(): return D()\n",
}
SHUFFLED = {
    "by torch": "def make():\n    order = torch.randperm(20)\n    return X[order.numpy()], Y[order.numpy()]\n",
    "by numpy": "def make():\n    order = np.random.permutation(20)\n    return X[order], Y[order]\n",
    "by python": "def make():\n    pairs = list(zip(X, Y)); random.shuffle(pairs)\n    return pairs\n",
    "by the system": "import os\ndef make():\n    order = np.frombuffer(os.urandom(20), 'u1').argsort()\n"
    "    return X[order], Y[order]\n",
    "of another length": "def make():\n    n = random.randrange(2, 20)\n    return X[:n], Y[:n]\n",
}


@pytest.mark.parametrize("body", RANDOM.values(), ids=RANDOM)
def test_what_is_random_when_it_is_read_is_refused(body: str, tmp_path: Path) -> None:
    message = refusal(DataError, source(tmp_path, body), normalize="none")
    assert message.startswith("data.py:make: example ")
    assert "is another each time it is read" in message
    assert "random augmentation" in message


@pytest.mark.parametrize("body", SHUFFLED.values(), ids=SHUFFLED)
def test_what_is_shuffled_when_it_is_made_is_refused(body: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    message = refusal(DataError, source(tmp_path, body), normalize="none")
    assert "returns other examples each time it is called" in message


def test_a_seeded_shuffle_is_an_order_and_the_random_state_stays(tmp_path: Path) -> None:
    body = "def make():\n    g = torch.Generator().manual_seed(1)\n    order = torch.randperm(20, generator=g)\n"
    body += "    torch.rand(3); np.random.rand(3); random.random()\n    return X[order], Y[order]\n"
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert load_examples(source(tmp_path, body), normalize="none").total == 20
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def make():\n    return DataLoader(TensorDataset(torch.zeros(3, 2)), shuffle=True)\n", "return its dataset"),
        ("def make():\n    return 7\n", "returned int; return a pair"),
        ("def make():\n    return None\n", "returned NoneType"),
        ("def make():\n    return X, list(Y)\n", "return a pair"),
        ("def make():\n    return X, Y[:3]\n", "20 examples and labels 3"),
        ("def make():\n    return []\n", "without examples"),
        ("def make():\n    return X[:0], Y[:0]\n", "no examples"),
        ("def make():\n    return [1, 2, 3]\n", "example 0 is int"),
        ("def make():\n    return [({'ids': 1}, 0), ({'ids': 1}, 0), ({'ids': 1}, 0)]\n", "input of dict"),
        ("def make():\n    return [(X[0], 0.5)] * 3\n", "has the label 0.5"),
        ("def make():\n    return [(X[0], -1)] * 3\n", "has the label -1"),
        ("def make():\n    return [(X[0].astype(np.float32) * np.nan, 1)] * 3\n", "NaN or infinite"),
        ("def make():\n    raise KeyError('gone\\nfor ever')\n", "(KeyError: 'gone\\nfor ever')"),
        ("def make():\n    raise SystemExit(3)\n", "SystemExit: 3"),
        ("def make(path):\n    return X, Y\n", "check the function and --data-arg"),
        ("make = 3\n", "is no function"),
        ("def mako():\n    return X, Y\n", "did you mean mako?"),
        ("import nothing_of_that_name\n", "importing it failed"),
    ],
)
def test_what_is_no_dataset_is_refused_in_words(body: str, says: str, tmp_path: Path) -> None:
    assert says in refusal(DataError, source(tmp_path, body), normalize="none")


def test_a_dataset_that_fails_late_says_at_which_example(tmp_path: Path) -> None:
    body = "class D:\n    def __len__(self): return 20\n"
    body += (
        "    def __getitem__(self, i):\n        if i == 13: raise OSError('no disk')\n        return X[i], int(Y[i])\n"
    )
    message = refusal(DataError, source(tmp_path, body + "def make(): return D()\n"), normalize="none")
    assert message == "data.py:make: example 13 failed (OSError: no disk); correct the dataset"
