"""Foreign bytes are read in processes of their own, which are small, limited and kept for the run; this owns them.

A process (`reader_child`) is handed files that are open, and answers with trees of JSON values and the numbers that
come with them. What ends it, or what it does not finish within its limits, is the error of the file that it was at.
Where no such process can be had (another system than Linux, no permission to start one), the decoders run in this
process, with their own budgets alone.
"""

import atexit
import importlib.util
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

from fisher_cli.storage.decoding import Answer, Decoder, Source, answered, decoded
from fisher_cli.storage.reader_limits import LENGTH, LONGEST_ANSWER, MORE, MOST_BYTES, READY, STAYS, WORD, seconds

_ROOT: Final = Path(__file__).resolve().parents[2]
# The places of our own code and of libraries are its arguments.
CODE: Final = """
import sys; sys.path += sys.argv[1:]
from {module} import DECODERS
from fisher_cli.storage.reader_child import main
main(DECODERS, {is_mapped})
"""
# What ends a run is answered by this process; the reader ends when nobody is there to ask.
_NOT_FOR_READERS: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTSTP")
_AS_USUAL: Final = ("SIGXCPU", "SIGIO", "SIGCHLD")
_IS_POSSIBLE: Final = sys.platform == "linux" and bool(sys.executable) and not getattr(sys, "frozen", False)
# Libraries that would start threads, or reserve far more memory than they use.
_CALM: Final = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS"), "1"),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


class ReaderProcess:
    """A reader that was started, and is asked when it has said that it is ready.

    Args:
        code: that it runs.
        libraries: names of packages that it imports.

    Attributes:
        pid: its number.
        stays: whether it can be asked again.

    Raises:
        OSError: It could not be started.
    """

    def __init__(self, code: str, libraries: Sequence[str] = ()) -> None:
        self._socket, theirs = socket.socketpair()
        self.stays, self._is_ready = True, False
        try:
            with theirs:
                self.pid = _started(theirs.fileno(), code, libraries)
        except BaseException:
            self.close()
            raise

    def wait(self) -> None:
        """Wait until it can be asked, or end it.

        Raises:
            OSError: It has ended.
        """
        try:
            self._is_ready = self._is_ready or self.received(1) == READY
        except (EOFError, OSError):
            pass
        except BaseException:
            self.kill()
            raise
        if not self._is_ready:
            msg = f"the process that should read files ended with {self.kill()}"
            raise OSError(msg)

    def answers(self, decoder: str, about: Any, descriptors: Sequence[int]) -> Iterator[Answer]:
        """Yield the answers to one request.

        Raises:
            EOFError: It is gone, or answers what no reader does.
            OSError: The same.
            ValueError: The same.
        """
        words = json.dumps(about).encode()
        head = decoder.encode().ljust(WORD) + len(words).to_bytes(LENGTH, "little")
        sent = socket.send_fds(self._socket, [head], descriptors)
        self._socket.sendall(head[sent:] + words)
        count = 0
        while (mark := self.received(1)) == MORE:
            count += 1
            text, numbers = (int.from_bytes(self.received(LENGTH), "little") for _ in range(2))
            if not (0 < text <= LONGEST_ANSWER and numbers <= MOST_BYTES):
                raise EOFError
            yield json.loads(self.received(text)), self.received(numbers)
        if not count:
            raise EOFError
        self.stays = mark == STAYS

    def is_gone(self) -> bool:
        """Whether it ended while nobody asked."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def received(self, count: int) -> bytearray:
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
        return found

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


def _started(connection: int, code: str, libraries: Sequence[str]) -> int:
    """Start a reader that is asked over a connection; return its number.

    Raises:
        OSError: It could not be started.
    """
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", code, str(_ROOT), *_places(libraries)],
        {**os.environ, **_CALM},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, connection, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
        setsigmask=_signals(_NOT_FOR_READERS),
        setsigdef=_signals(_AS_USUAL),
    )


def _places(libraries: Sequence[str]) -> list[str]:
    """Return the folders in which these packages lie."""
    found = (importlib.util.find_spec(each) for each in libraries)
    places = (place for spec in found if spec is not None for place in spec.submodule_search_locations or ())
    return list(dict.fromkeys(str(Path(place).parent) for place in places))


_OWNERS: Final["WeakSet[ReaderOwner]"] = WeakSet()


class ReaderOwner:
    """The reader of one kind of files in this process, started when it is needed first and again after its end.

    Args:
        module: the module of its decoders, `DECODERS` by name; the reader imports it before it is asked.
        decoders: the same for this process, where no reader can be had.
        libraries: packages that the module imports.
        is_mapped: whether decoders take the memory of a file instead of the file.

    Attributes:
        code: that the process runs.
        reader: the process; None before the first file, and after its end.
        is_possible: whether such a process can be had; without one, files are read in this process.
    """

    is_possible = _IS_POSSIBLE

    def __init__(
        self,
        module: str,
        decoders: Callable[[], Mapping[str, Decoder]],
        libraries: Sequence[str] = (),
        *,
        is_mapped: bool = False,
    ) -> None:
        self.code = CODE.format(module=module, is_mapped=is_mapped)
        self._decoders, self._libraries = decoders, libraries
        # Answers that nobody takes end their reader when they are collected, which may be while a thread holds it.
        self._lock, self._is_busy = threading.RLock(), False
        self.reader: ReaderProcess | None = None
        _OWNERS.add(self)

    def ask(
        self,
        decoder: str,
        about: Any,
        sources: Sequence[Source],
        descriptors: Sequence[int] | None,
        error_of: Callable[[str, int], Exception],
    ) -> Iterator[Answer]:
        """Yield what a decoder answers.

        It is a step behind, so that with the last answer the reader can be asked again; who does not take all answers
        ends the reader.

        Args:
            decoder: its name.
            about: JSON values that it takes besides.
            sources: the files, for a decoder in this process.
            descriptors: of the files; None where no other process can have them.
            error_of: makes the error in which the reader's end, a time-out or a limit results, of what to say and of
                how many answers there were.

        Raises:
            Exception: the decoder's own error, or `error_of`.
        """
        reader = None if descriptors is None else self._taken()
        if reader is None or descriptors is None:
            for count, answer in enumerate(decoded(self._decoders()[decoder], sources, about)):
                yield _said(answer, error_of, count)
            return
        last: Answer | None = None
        count = -1
        try:
            for answer in reader.answers(decoder, about, descriptors):
                if last is not None:
                    yield _said(last, error_of, count)
                last, count = answer, count + 1
        except (EOFError, OSError, ValueError, RecursionError):
            size = sum(os.fstat(each).st_size for each in descriptors)
            raise error_of(_end_of(self._ended(reader), size), count + 1) from None
        except BaseException:  # a signal to this process between question and answer, or nobody wants more
            self._ended(reader)
            raise
        self._given_back(reader)
        if last is not None:
            yield _said(last, error_of, count)

    def begin(self) -> None:
        """Start the reader, and do not wait for it: it is ready when it is needed."""
        with self._lock:
            if self.reader is None:
                self.reader = self._started()

    def _taken(self) -> ReaderProcess | None:
        """Return a reader that nobody else asks; None where none can be had."""
        with self._lock:
            if self.reader is not None and not self._is_busy and self.reader.is_gone():
                self._drop()
            found = self._started() if self.reader is None or self._is_busy else self.reader
            try:
                if found is not None:
                    found.wait()
            except OSError as error:
                self._do_without(error)
                self.reader = None if self.reader is found else self.reader
                return None
            if not self._is_busy:
                self.reader, self._is_busy = found, found is not None
            return found

    def _started(self) -> ReaderProcess | None:
        try:
            return ReaderProcess(self.code, self._libraries) if self.is_possible else None
        except OSError as error:
            self._do_without(error)
            return None

    def _do_without(self, error: OSError) -> None:
        logging.getLogger(__name__).debug("files are read in this process: %s", error)
        self.is_possible = False

    def _given_back(self, reader: ReaderProcess) -> None:
        if reader.stays and reader is self.reader:
            self._is_busy = False
        else:
            self._ended(reader)

    def _ended(self, reader: ReaderProcess) -> int:
        with self._lock:
            if reader is self.reader:
                return self._drop()
        return reader.kill()

    def _drop(self) -> int:
        reader, self.reader, self._is_busy = self.reader, None, False
        return 0 if reader is None else reader.kill()

    def end(self) -> int:
        """End the reader, and return how it ended."""
        with self._lock:
            return self._drop()

    def leave(self) -> None:
        """Leave the reader to the process that this one is a copy of."""
        reader, self.reader = self.reader, None
        self._lock, self._is_busy = threading.RLock(), False
        if reader is not None:
            reader.close()


def _said(answer: Answer, error_of: Callable[[str, int], Exception], count: int) -> Answer:
    try:
        return answered(answer)
    except MemoryError as error:
        msg = f"asks for more memory than it may have; {_AGAIN}"
        raise error_of(msg, count) from error


_AGAIN: Final = "copy or download it again"


def _end_of(code: int, size: int) -> str:
    if code == -signal.SIGXCPU:
        return f"takes more than {seconds(size)} s of processor time to read; {_AGAIN}"
    if code == -signal.SIGKILL:
        return f"the process that read it was killed, perhaps because memory ran out; {_AGAIN}, or try again"
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return f"the process that read it ended {how}; {_AGAIN}"


def _signals(names: Iterable[str]) -> list[int]:
    return [int(getattr(signal, name)) for name in names if hasattr(signal, name)]


def _all(act: Callable[[ReaderOwner], object]) -> None:
    for owner in list(_OWNERS):
        act(owner)


if _IS_POSSIBLE:
    os.register_at_fork(after_in_child=lambda: _all(ReaderOwner.leave))
    atexit.register(_all, ReaderOwner.end)
