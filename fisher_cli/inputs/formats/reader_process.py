"""Foreign bytes are read in a process of their own, which is small, limited and kept for the run; this is its owner.

The process (`reader_child`) maps the memory that a file's bytes lie in, and answers with a tree of JSON values. What
ends it, or what it does not finish within its limits, is the error of that one file. Where no such process can be had
(another system than Linux, no permission to start one), the reader runs in this process, with its own budgets alone.
"""

import atexit
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.decoders import ERRORS, decoded, refusal
from fisher_cli.inputs.formats.files import COPY_AGAIN
from fisher_cli.inputs.formats.reader_limits import LONGEST_ANSWER, READY, STAYS, WORD, seconds

_ROOT: Final = Path(__file__).resolve().parents[3]
CODE: Final = (
    "import sys; sys.path.append(sys.argv[1]); from fisher_cli.inputs.formats.reader_child import main; main()"
)
# What ends a run is answered by this process; the reader ends when nobody is there to ask.
_NOT_FOR_READERS: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTSTP")
_AS_USUAL: Final = ("SIGXCPU", "SIGIO", "SIGCHLD")
_IS_POSSIBLE: Final = sys.platform == "linux" and bool(sys.executable) and not getattr(sys, "frozen", False)


def ask(decoder: str, content: Content) -> Mapping[str, Any]:
    """Return what a decoder makes of a file's bytes, as the tree that it is for.

    Args:
        decoder: its name in `decoders.DECODERS`.
        content: the file.

    Raises:
        CheckpointError: Why it cannot.
    """
    found = OWNER.ask(decoder, content)
    if "error" in found:
        kind, text = found["error"]
        raise ERRORS[kind](text)
    answered: Mapping[str, Any] = found["answer"]
    return answered


class ReaderProcess:
    """A reader that was started and has said that it is ready.

    Raises:
        OSError: It could not be started.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self.pid = _started(theirs.fileno())
        except BaseException:
            self.close()
            raise
        try:
            is_ready = self.received(1) == READY
        except (EOFError, OSError):
            is_ready = False
        except BaseException:
            self.kill()
            raise
        if not is_ready:
            msg = f"the process that should read files ended with {self.kill()}"
            raise OSError(msg)

    def ask(self, decoder: str, descriptor: int) -> tuple[bytes, bool]:
        """Return the answer, and whether the process can be asked again.

        Raises:
            EOFError: It is gone, or answers what no reader does.
            OSError: The same.
        """
        socket.send_fds(self._socket, [decoder.encode().ljust(WORD)], [descriptor])
        stays = self.received(1) == STAYS
        length = int.from_bytes(self.received(8), "little")
        if not 0 < length <= LONGEST_ANSWER:
            raise EOFError
        return self.received(length), stays

    def is_gone(self) -> bool:
        """Whether it ended while nobody asked."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def received(self, count: int) -> bytes:
        """Return so many bytes of what it sends.

        Raises:
            EOFError: It is gone.
        """
        found = bytearray(count)
        view = memoryview(found)
        while view:
            got = self._socket.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return bytes(found)

    def kill(self) -> int:
        """End it if it has not ended by itself; return its exit code, or below zero the signal that ended it."""
        self.close()
        try:
            has_ended, status = os.waitpid(self.pid, os.WNOHANG)
            if not has_ended:
                os.kill(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:  # somebody else has waited for it, and its number may be another's
            return 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Ask it nothing more: it ends by itself, unless another process can ask it."""
        self._socket.close()


def _started(connection: int) -> int:
    """Start a reader that is asked over a connection; return its number.

    Raises:
        OSError: It could not be started.
    """
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", CODE, str(_ROOT)],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, connection, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
        setsigmask=_signals(_NOT_FOR_READERS),
        setsigdef=_signals(_AS_USUAL),
    )


class ReaderOwner:
    """The one reader of this process, started when it is needed first and again after its end.

    Attributes:
        reader: the process; None before the first file, and after its end.
        is_possible: whether such a process can be had; without one, files are read in this process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reader: ReaderProcess | None = None
        self.is_possible = _IS_POSSIBLE

    def ask(self, decoder: str, content: Content) -> dict[str, Any]:
        """Return what the reader answers, or its end as an error; this process's own answer where there is none."""
        with self._lock:
            reader = None if content.descriptor is None else self._ready()
            if reader is None or content.descriptor is None:
                return decoded(decoder, content.data)
            try:
                text, stays = reader.ask(decoder, content.descriptor)
                if not stays:
                    self.end()
                found: dict[str, Any] = json.loads(text)
            except (EOFError, OSError, ValueError, RecursionError):
                return refusal(CheckpointError(_end_of(self.end(), len(content))))
            except BaseException:  # a signal to this process, between question and answer
                self.end()
                raise
            return found

    def _ready(self) -> ReaderProcess | None:
        if self.reader is not None and self.reader.is_gone():
            self.end()
        if self.reader is None and self.is_possible:
            try:
                self.reader = ReaderProcess()
            except OSError as error:
                logging.getLogger(__name__).debug("files are read in this process: %s", error)
                self.is_possible = False
        return self.reader

    def end(self) -> int:
        """End the reader, and return how it ended."""
        reader, self.reader = self.reader, None
        return 0 if reader is None else reader.kill()

    def leave(self) -> None:
        """Leave the reader to the process that this one is a copy of."""
        reader, self.reader = self.reader, None
        self._lock = threading.Lock()
        if reader is not None:
            reader.close()


def _end_of(code: int, size: int) -> str:
    if code == -signal.SIGXCPU:
        return f"takes more than {seconds(size)} s of processor time to read; {COPY_AGAIN}"
    if code == -signal.SIGKILL:
        return f"the process that read it was killed, perhaps because memory ran out; {COPY_AGAIN}, or try again"
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return f"the process that read it ended {how}; {COPY_AGAIN}"


def _signals(names: Iterable[str]) -> list[int]:
    return [int(getattr(signal, name)) for name in names if hasattr(signal, name)]


OWNER: Final = ReaderOwner()
if _IS_POSSIBLE:
    os.register_at_fork(after_in_child=OWNER.leave)
    atexit.register(OWNER.end)
