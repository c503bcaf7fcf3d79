"""Fisher information of saved classifier checkpoints.

    from fisher_cli import analyze, compare
    analysis = analyze("ckpts/", data="cifar10", model="resnet18")
    analysis.table, analysis.layers     # pandas DataFrames

Everything the command does can be had from here; the functions also take modules, tensors, datasets and loaders.
"""

from typing import TYPE_CHECKING, Any

from fisher_cli._version import __version__ as __version__

__all__ = [
    "Analysis",
    "FisherError",
    "Result",
    "Settings",
    "analyze",
    "compare",
    "examples",
    "inspect",
    "spectrum",
    "verify",
]

if TYPE_CHECKING:
    from fisher_cli.api.functions import analyze, compare, examples, inspect, spectrum, verify
    from fisher_cli.api.result import Result
    from fisher_cli.errors import FisherError
    from fisher_cli.run.analysis import Analysis
    from fisher_cli.settings import Settings

_HOMES = {
    "Analysis": "fisher_cli.run.analysis",
    "FisherError": "fisher_cli.errors",
    "Result": "fisher_cli.api.result",
    "Settings": "fisher_cli.settings",
    **dict.fromkeys(("analyze", "compare", "examples", "inspect", "spectrum", "verify"), "fisher_cli.api.functions"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: torch takes seconds, and `fisher --help` needs none of it.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
