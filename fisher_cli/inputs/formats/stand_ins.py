"""What stands in for the classes and functions that a pickle names: inert, and never imported or called."""

import builtins
from typing import Final

from fisher_cli.errors import CheckpointError, UnsafeCheckpointError
from fisher_cli.text import clipped

# That these stay unread is no protection (nothing named in a file is ever imported) but a clear answer: who asks for
# them wants to run something.
_HOSTILE_ROOTS: Final = frozenset(
    {
        *(
            "os",
            "posix",
            "nt",
            "ntpath",
            "posixpath",
            "sys",
            "subprocess",
            "importlib",
            "imp",
            "runpy",
            "pty",
            "socket",
        ),
        *("shutil", "ctypes", "cffi", "pickle", "_pickle", "marshal", "code", "codeop", "webbrowser", "io", "tempfile"),
        *("multiprocessing", "threading", "_thread", "asyncio", "signal", "urllib", "http", "requests", "httpx"),
        *("ftplib", "smtplib", "commands", "popen2", "timeit", "trace", "profile", "cProfile", "pdb", "bdb", "doctest"),
        *("pydoc", "ensurepip", "pip", "venv", "zipimport", "pkgutil", "site", "cloudpickle", "dill", "joblib"),
    }
)
_HOSTILE: Final = frozenset(
    {
        *("torch.load", "torch.save", "torch.hub", "torch.serialization", "torch.jit", "torch.utils.cpp_extension"),
        *("torch.utils.collect_env", "torch.utils.bottleneck", "torch.utils._config_module", "torch._inductor"),
        *("torch.fx", "torch.storage._load_from_bytes", "torch.multiprocessing", "concurrent.futures"),
        *("numpy.load", "numpy.save", "numpy.fromfile", "numpy.memmap", "numpy.f2py", "numpy.testing"),
        *("numpy.distutils", "numpy.lib.npyio", "pandas.read_pickle", "pandas.eval", "logging.config"),
        *("types.FunctionType", "types.CodeType", "operator.methodcaller"),
    }
)
_MOST_PARTS: Final = max(path.count(".") + 1 for path in _HOSTILE)
_HOSTILE_BUILTINS: Final = frozenset(
    {
        *("eval", "exec", "compile", "open", "__import__", "input", "breakpoint", "exit", "quit", "help", "globals"),
        *("locals", "vars", "setattr", "delattr"),
    }
)
_RECONSTRUCTORS: Final = {"copyreg._reconstructor", "copyreg.__newobj__"}


class Named:
    """A class or function that the file names; only its name is known."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<{clipped(self.path, 100)}, not imported>"


class StandIn:
    """What the file wants made by calling `function`; it was not called, its arguments and state are kept."""

    __slots__ = ("arguments", "entries", "function", "items", "state")

    def __init__(self, function: object, arguments: tuple[object, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.state: object = None
        self.items: list[object] = []
        self.entries: dict[object, object] = {}

    @property
    def path(self) -> str:
        """The name of the class or function, or what else should have been called."""
        return self.function.path if isinstance(self.function, Named) else ""

    def __repr__(self) -> str:
        return f"<stand-in for {clipped(self.path or 'a call', 100)}>"


def named(module: str, name: str) -> Named:
    """Return a stand-in for a class or function.

    Raises:
        UnsafeCheckpointError: Its name says that it would run something.
    """
    path = f"{module}.{name}"
    parts = path.split(".", _MOST_PARTS)
    prefixes = [path, *(".".join(parts[:count]) for count in range(1, min(len(parts), _MOST_PARTS) + 1))]
    is_hostile = module.partition(".")[0] in _HOSTILE_ROOTS or not _HOSTILE.isdisjoint(prefixes)
    if module == "builtins":
        is_hostile = name in _HOSTILE_BUILTINS or not hasattr(builtins, name)  # execfile and its kind are of Python 2
    if is_hostile:
        msg = f"asks to run {clipped(path)}, which is never done"
        raise UnsafeCheckpointError(msg)
    return Named(path)


def called(function: object, arguments: tuple[object, ...]) -> StandIn:
    """Return a stand-in for what a call would have made.

    Raises:
        CheckpointError: What is called is no name from the file.
    """
    if not isinstance(function, Named | StandIn):
        msg = f"damaged: it calls a {type(function).__name__}"
        raise CheckpointError(msg)
    if isinstance(function, Named) and function.path in _RECONSTRUCTORS and arguments:
        return called(arguments[0], ())
    return StandIn(function, arguments)
