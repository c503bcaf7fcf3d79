"""Files that ask to run something (A01 to A08, A19): every way in which a pickle can, in every container."""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.attacks.assembly import archive, call, entries, legacy, name, pickled, tensor, text, weights_beside

Attack = tuple[str, bytes]


class Canary:
    """Where it is unpickled by a reader that runs what it reads, this folder is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def code_attacks(marker: Path) -> Iterator[Attack]:
    """Name and content of each file; if one were run, the marker would come to exist."""
    touch = text(f"touch {marker}")
    create = text(f"open({str(marker)!r}, 'w')")
    for module, function, *arguments in (
        ("os", "system", touch),
        ("posix", "system", touch),
        ("nt", "system", touch),
        ("subprocess", "check_output", b"](" + text("touch") + text(str(marker)) + b"e"),
        ("subprocess", "Popen", b"](" + text("touch") + text(str(marker)) + b"e"),
        ("builtins", "eval", create),
        ("builtins", "exec", create),
        ("builtins", "open", text(str(marker)), text("w")),
        ("builtins", "compile", create, text("x"), text("exec")),
        ("builtins", "__import__", text("this")),
        ("__builtin__", "eval", create),  # Python 2's name, which readers translate
        ("__builtin__", "execfile", text(str(marker))),
        ("runpy", "_run_code", create, entries()),
        ("importlib", "import_module", text("this")),
        ("pty", "spawn", text("true")),
        ("timeit", "timeit", create),
        ("code", "interact"),
        ("pickle", "loads", text("cos\nsystem\n.")),
        ("_pickle", "loads", text("cos\nsystem\n.")),
        ("ctypes", "CDLL", text("libc.so.6")),
        ("socket", "create_connection", b"(" + text("127.0.0.1") + b"K\x09t"),
        ("urllib.request", "urlopen", text("http://127.0.0.1:9/")),
        ("webbrowser", "open", text("http://127.0.0.1:9/")),
        ("torch", "load", text(str(marker))),
        ("torch.hub", "load", text("a/b"), text("c")),
        ("torch.serialization", "load", text(str(marker))),
        ("torch.storage", "_load_from_bytes", text("x")),
        ("torch.utils.cpp_extension", "load_inline", text("x"), text("")),
        ("numpy", "load", text(str(marker))),
        ("numpy.f2py", "compile", text("x")),
        ("pandas", "read_pickle", text(str(marker))),
        ("shutil", "copy", text("/dev/null"), text(str(marker))),
        ("multiprocessing.util", "spawnv_passfds", text("true")),
    ):
        yield f"calls {module}.{function}.pt", archive(weights_beside(call(name(module, function), *arguments)))
    run = call(name("posix", "system"), touch)
    yield "bare.pkl", pickled(run)
    yield "bare of protocol 0.pkl", b"cposix\nsystem\n(S'true'\ntR."
    yield (
        "bare of protocol 4.pkl",
        pickled(text("posix"), text("system"), b"\x93", b"(", touch, b"tR", protocol=b"\x80\x04"),
    )
    yield (
        "protocol 4 in an archive.pt",
        archive(pickled(text("posix"), text("system"), b"\x93", b"(", touch, b"tR", protocol=b"\x80\x04")),
    )
    yield "new object.pt", archive(weights_beside(name("posix", "system") + b"(" + touch + b"t\x81"))
    yield "old instance.pt", archive(weights_beside(b"(" + touch + b"iposix\nsystem\n"))
    yield "old object.pt", archive(weights_beside(b"(" + name("posix", "system") + touch + b"o"))
    yield "extension code.pt", archive(weights_beside(b"\x82\x01"))
    yield "text reference.pt", archive(weights_beside(b"Pmodule\n"))
    yield "reference that is no storage.pt", archive(weights_beside(b"(" + text("module") + run + b"tQ"))
    yield "legacy.pt", legacy(pickled(run))
    yield "legacy, in the sizes of the machine.pt", legacy(pickled(b"N"), machine=pickled(run))
    yield (
        "legacy, in the source of a module.pt",
        legacy(
            pickled(b"(", text("module"), name("posix", "system"), text("a.py"), text("x"), b"tQ", b"(", touch, b"tR")
        ),
    )
    yield "legacy, behind the content.pt", legacy(pickled(entries()), keys=[])[:-4] + pickled(run)
    yield "renamed.safetensors", archive(weights_beside(run))
    yield "renamed.bin", pickled(run)
    yield "second load.pt", archive(weights_beside(call(name("torch.serialization", "add_safe_globals"), run)))
    # Nothing else imports this module, so that the audit hook would see it; the wrong size comes behind it.
    unseen = pickled(entries(text("a"), call(name("this", "s")), text("w"), tensor(99, (99,), (1,))))
    yield "names a module that nobody imported.pt", archive(unseen)
    yield "old.tar", _tar(pickled(run))
    yield "scripted.pt", archive(pickled(b"N"), {"constants.pkl": pickled(run), "code/__torch__.py": b"import os\n"})
    yield "exported.pt2", _exported(pickled(run))


def _tar(pickle: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as written:
        for member in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(member)
            entry.size = len(pickle)
            written.addfile(entry, io.BytesIO(pickle))
    return buffer.getvalue()


def _exported(pickle: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for member in ("archive_format", "models/model.json", "data/sample_inputs/model.pt", "version"):
            written.writestr(f"exported/{member}", pickle)
    return buffer.getvalue()
