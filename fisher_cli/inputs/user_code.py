"""The user's own words → a function that builds a network or a dataset: the only place that imports code by name."""

import difflib
import hashlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from fisher_cli.errors import ArchitectureError, FisherError
from fisher_cli.text import clipped, digest

Factory = Callable[..., object]


def import_factory(model: str) -> tuple[str, Factory]:
    """Import the function that `--model` names: `package.module:function` or `./file.py:function`.

    Only ever called with words that the user typed: importing runs code.

    Returns:
        Its name for the report, without folders, and the function.

    Raises:
        ArchitectureError: The module cannot be imported, or there is no such function in it.
    """
    return import_function(model, "--model", ArchitectureError, "the network")


def import_function(words: str, option: str, kind: type[FisherError], gives: str) -> tuple[str, Factory]:
    """Import the function that the user's words name: `package.module:function` or `./file.py:function`.

    A module that cannot be imported already is looked for in the working directory. It and a file find what lies beside
    them; no other code does, see `_Beside`. Never to be called with words found in a file: importing runs code.

    Args:
        words: What the user typed.
        option: Where, for messages.
        kind: The error to raise.
        gives: What the function is to return, for messages.

    Returns:
        Its name for the report, without folders, and the function.

    Raises:
        FisherError: The module cannot be imported, or there is no such function in it; of the given kind.
        SystemExit: A signal stopped this process meanwhile.
    """
    place, _, attribute = words.rpartition(":")
    is_file = place.endswith(".py")
    try:
        module = _file_module(Path(place)) if is_file else _named_module(place)
    except (Exception, SystemExit) as error:
        raise_if_stopped(error)
        msg = f"{option} {clipped(words)}: importing it failed ({call_reason(error)}); {_import_remedy(words, error)}"
        raise kind(msg) from error
    factory = getattr(module, attribute, None)
    if not callable(factory) or isinstance(factory, nn.Module):
        what = "is no function" if hasattr(module, attribute) else "is not in it"
        near = difflib.get_close_matches(attribute, [name for name in vars(module) if name[:1] != "_"], n=1)
        guess = f"did you mean {near[0]}?" if near else f"name a function that returns {gives}"
        msg = f"{option} {clipped(words)}: {clipped(attribute) or 'the function'} {what}; {guess}"
        raise kind(msg)
    return f"{Path(place).name if is_file else place}:{attribute}", factory


class _Beside(MetaPathFinder):
    """Finds the modules of a folder for code that was itself found there, and for nobody else.

    On the import path the folder would supply modules to every library that tries whether an optional one is there.

    Args:
        folder: where it looks, after all other finders.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._found: dict[str, ModuleSpec] = {}
        self._asked: set[str] = set()

    def ask(self, name: str) -> None:
        """Let this module be found whoever imports it."""
        self._asked.add(name)

    def add(self, spec: ModuleSpec) -> None:
        """Let this module's code find what lies in the folder."""
        self._found[spec.name] = spec

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The module of this name in the folder; None for a part of a package, which its package finds."""
        del target
        if path is not None or not (fullname in self._asked or self._is_own(_importing())):
            return None
        spec = PathFinder.find_spec(fullname, [self._folder])
        if spec is not None:
            self.add(spec)
        return spec

    def _is_own(self, module: str) -> bool:
        name = module.partition(".")[0]
        return name in self._found and getattr(sys.modules.get(name), "__spec__", None) is self._found[name]


# By folder, for as long as the process lives.
_finders: dict[str, _Beside] = {}


def _beside(folder: str) -> _Beside:
    """The finder of a folder; it stays, because functions import while they run."""
    if folder not in _finders:
        importlib.invalidate_caches()
        _finders[folder] = _Beside(folder)
    if _finders[folder] not in sys.meta_path:
        sys.meta_path.append(_finders[folder])
    return _finders[folder]


def _importing() -> str:
    """The name of the module whose code is importing: the first above the import system itself."""
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name != __name__ and name.partition(".")[0] not in {"importlib", "_frozen_importlib"}:
            return name
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _named_module(name: str) -> ModuleType:
    """Import a module; of the working directory only if there is none of that name on the import path."""
    first = name.partition(".")[0]
    if first not in sys.modules and importlib.util.find_spec(first) is None:
        _beside(os.getcwd()).ask(first)
    return importlib.import_module(name)


def _import_remedy(words: str, error: BaseException) -> str:
    """What to type where a module cannot be imported."""
    place = words.rpartition(":")[0]
    if not place.endswith(".py"):
        return "a file is named with its suffix .py" if "/" in place else "check it"
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing and PathFinder.find_spec(missing, [os.getcwd()]) is not None:
        module = words.removeprefix("./").replace(".py:", ":").replace("/", ".")
        return f"a file finds only what lies beside it: name it as a module, {clipped(module)}"
    return "check it"


def code_digest(model: str) -> str | None:
    """The SHA-256 of the file from which `import_factory` took the function, as `sha256:<hex>`.

    What that file imports is not looked at.

    Args:
        model: What `--model` says, once it has been imported.

    Returns:
        None where there is no such file, or it cannot be read.
    """
    place = model.rpartition(":")[0]
    file = place if place.endswith(".py") else getattr(sys.modules.get(place), "__file__", None)
    if file is None:
        return None
    try:
        return digest(Path(file).read_bytes())
    except OSError:
        return None


def parsed_arguments(arguments: Mapping[str, str]) -> dict[str, object]:
    """The arguments with values read as JSON where they can be, else as text."""
    return {key: _parsed(value) for key, value in arguments.items()}


def _parsed(value: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def built(factory: Factory, arguments: Mapping[str, object], name: str) -> nn.Module:
    """Build the network that the factory makes; torch's random state on the CPU is left as it was.

    Args:
        factory: The user's function, or that of a known network.
        arguments: Of the factory.
        name: Of the network, for messages.

    Raises:
        ArchitectureError: The factory raises, or what it returns is no network.
        SystemExit: A signal stopped this process meanwhile.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: their draw leaves no trace
            network = factory(**arguments)
    except (Exception, SystemExit) as error:
        raise_if_stopped(error)
        msg = f"{name}: building the network failed ({call_reason(error)}); check the factory and --model-arg"
        raise ArchitectureError(msg) from error
    if not isinstance(network, nn.Module):
        msg = f"{name}: returned {type(network).__name__}, no torch.nn.Module; name a function that returns one"
        raise ArchitectureError(msg)
    return network


def raise_if_stopped(error: BaseException) -> None:
    """Pass on what a signal to this process raised while code of the user's was running: it is not that code's error.

    Raises:
        SystemExit: 128 and the signal's number.
    """
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        raise error


def _file_module(path: Path) -> ModuleType:
    """Return the file as a module under a private name, so that it hides no other; each file runs once.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: Python has no loader for it.
    """
    if not path.is_file():
        msg = f"there is no file {clipped(path)}"
        raise FileNotFoundError(msg)
    place = str(path.resolve())
    name = f"_fisher_model_{path.stem}_{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        msg = "Python has no loader for it"
        raise ImportError(msg)
    module = importlib.util.module_from_spec(spec)
    _beside(os.path.dirname(place)).add(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def call_reason(error: BaseException) -> str:
    """What a function of the user's raised, in one line: the type of the error and its text."""
    text = clipped(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
