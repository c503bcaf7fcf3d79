"""Fisher information of saved classifier checkpoints.

    from fisher_cli import analyze, compare
    analysis = analyze("ckpts/", data="cifar10", model="resnet18")
    analysis.table, analysis.layers     # pandas DataFrames

Everything the command does can be had from here; `analyze` also takes modules and tensors.
"""

from typing import TYPE_CHECKING, Any

from fisher_cli._version import __version__ as __version__

__all__ = ["Analysis", "FisherError", "Settings", "analyze", "compare", "verify"]

if TYPE_CHECKING:
    from fisher_cli.api.functions import analyze, compare, verify
    from fisher_cli.errors import FisherError
    from fisher_cli.run.analysis import Analysis
    from fisher_cli.settings import Settings

_HOMES = {
    "Analysis": "fisher_cli.run.analysis",
    "FisherError": "fisher_cli.errors",
    "Settings": "fisher_cli.settings",
    "analyze": "fisher_cli.api.functions",
    "compare": "fisher_cli.api.functions",
    "verify": "fisher_cli.api.functions",
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
