"""Examples of a dataset by a few words, as tests ask for them."""

from typing import Any

from fisher_cli.inputs.data import datasets
from fisher_cli.settings import Resources, Settings


def load_examples(
    data: str, *, data_dir: str | None = None, download: bool = False, **settings: Any
) -> datasets.Examples:
    """Those that `Settings` of these words select."""
    return datasets.load_examples(Settings(data=data, **settings), Resources(data_dir=data_dir, download=download))
