"""Watching the other ranks: where one ends, hangs or is told to stop, all stop, soon and in order.

A thread looks every second at the launcher, at the word that a rank leaves when it must go, and at a counter that each
rank keeps moving. Waiting for a rank that computes can take hours, so that no time limit on collectives would do.
"""

import contextlib
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import FrameType
from typing import Any, Protocol

from fisher_cli.errors import RanksError
from fisher_cli.parallel.launch import Launch
from fisher_cli.storage.atomic_write import STOPPING_SIGNALS

INTERVAL = 1.0
# A rank whose counter stands still for so long hangs, or its machine is gone.
SILENCE = 20.0
# So long may a rank take to hear that it must leave, and then to leave, before it is ended from here: a backward pass
# hears nothing. One that waits for other ranks, which leave too, gets less.
LEAVING, WAITING = 30.0, 5.0
# Rank 0 mostly fails for the same reason as the others, and says it itself if given so long.
PRECEDENCE = 5.0
# So often in a row must the launcher's store refuse before it counts as gone.
REFUSALS = 3
_STOP = "fisher/stop"
_GONE = -1
_NO_LAUNCHER = "the launcher has ended"

Say = Callable[[str], None]


class KeyValueStore(Protocol):
    """What is used of torch's key-value store, which all ranks share."""

    def set(self, key: str, value: str) -> None:
        """Keep a value under a key, in place of an earlier one."""

    def get(self, key: str) -> bytes:
        """The value of a key, waited for."""

    def check(self, keys: list[str]) -> bool:
        """Whether all of these keys have values now."""

    def set_timeout(self, timeout: timedelta) -> None:
        """How long to wait for an answer."""


class Heartbeat:
    """The watch of one rank; `is_orderly` until something went wrong."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._store: KeyValueStore | None = None
        self._thread: threading.Thread | None = None
        self._is_over = threading.Event()
        self._is_patient, self._is_deaf, self._pending = False, False, 0
        self._heard = math.inf
        self._say: Say = lambda _: None
        self._reason = ""
        self._beats = self._refusals = 0
        self._seen: dict[int, tuple[int, float]] = {}
        self.is_orderly = True

    def listen(self, store: KeyValueStore) -> None:
        """Watch the other ranks too, by this store, which nobody else uses."""
        store.set_timeout(timedelta(seconds=SILENCE / 2))
        self._store = store

    # In the main thread

    @contextlib.contextmanager
    def watching(self, say: Say) -> Iterator[None]:
        """Watch while the context is open; an error or a signal that ends it is told to the others.

        `say` is for when the main thread cannot.

        Yields:
            Nothing.
        """
        before = {number: handler for number in STOPPING_SIGNALS if callable(handler := signal.getsignal(number))}
        for number, handler in before.items():
            signal.signal(number, self._on_signal(handler))
        self._is_over.clear()
        self._say = say
        self._thread = threading.Thread(target=self._watch, name="fisher-watch", daemon=True)
        self._thread.start()
        try:
            yield
        except BaseException as error:
            self.is_orderly = False
            self._tell(error)
            raise
        finally:
            self._is_over.set()
            self._thread.join(2 * INTERVAL)
            self._leave_word(self._key(self._launch.rank), str(_GONE))
            if self._is_deaf:
                self.ignore()
            for number, handler in before.items():
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, handler)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Let signals wait while all ranks do something together: none may leave in the middle.

        Yields:
            Nothing.
        """
        was, self._is_patient = self._is_patient, True
        try:
            yield
        finally:
            self._is_patient = was
        if self._pending and not was:
            number, self._pending = self._pending, 0
            signal.raise_signal(number)

    def ignore(self) -> None:
        """Something else is being said already: signals from the launcher, which must follow, say nothing new.

        Layers that are summed in the backward pass on a GPU are so in autograd's thread, which may not set handlers.
        """
        self._is_deaf = True
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING_SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, handler: Any) -> Any:
        def handle(number: int, frame: FrameType | None) -> None:
            if self._is_deaf:
                return
            if self._is_patient:
                self._pending = number
                return
            self._heard = time.monotonic()
            self.ignore()  # launchers say it twice, and the second must not interrupt what the first made us do
            if self._reason:
                raise RanksError(self._reason)
            handler(number, frame)

        return handle

    def _tell(self, error: BaseException) -> None:
        """Leave the others a word: the signal that ended this rank, or its error."""
        if isinstance(error, RanksError):
            return
        number = 0
        if isinstance(error, KeyboardInterrupt):
            number = int(signal.SIGINT)
        elif isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
            number = error.code - 128
        text = str(error) or type(error).__name__
        self._leave_word(_STOP, json.dumps({"rank": self._launch.rank, "signal": number, "text": text}))

    def _leave_word(self, key: str, text: str) -> None:
        with contextlib.suppress(Exception):  # nobody may be left to read it
            if self._store is not None:
                self._store.set(key, text)

    def why_lost(self) -> str:
        """What is known of a rank that has left in the middle."""
        if os.getppid() != self._launch.parent:
            return _NO_LAUNCHER
        with contextlib.suppress(Exception):
            if self._store is not None and self._store.check([_STOP]):
                word = json.loads(self._store.get(_STOP))
                return (
                    f"rank {word['rank']}: {word['text']}" if not word["signal"] else f"rank {word['rank']} was stopped"
                )
        return "another rank has ended unexpectedly; torchrun says which, and why"

    # In the thread

    def _watch(self) -> None:
        last = time.monotonic()
        noticed = told = math.inf
        ending = "stopped"
        while not self._is_over.wait(INTERVAL):
            now = time.monotonic()
            if now - last > SILENCE / 2:  # this process itself stood still
                self._seen = {}
            last = now
            if now - self._heard > LEAVING:
                os._exit(1)
            if told < now:
                if self._heard > now and now - told > (LEAVING if self._is_computing else WAITING):
                    self._say(self._reason or ending)
                    os._exit(1)
                continue
            word = self._word()
            if word is None:
                continue
            noticed = min(noticed, now)
            if word["signal"] or word.get("is_silent") or not self._launch.speaks or now - noticed >= PRECEDENCE:
                told, ending = now, word["text"] if word["rank"] is None else ending
                self._stop(word)

    def _word(self) -> dict[str, Any] | None:
        """Why this rank must stop; None if it need not."""
        gone = {"signal": int(signal.SIGTERM), "rank": None, "text": _NO_LAUNCHER}
        if os.getppid() != self._launch.parent:
            return gone
        store = self._store
        if store is None:
            return gone if self._is_refused() else None
        try:
            if store.check([_STOP]):
                word: dict[str, Any] = json.loads(store.get(_STOP))
                return None if word["rank"] == self._launch.rank else word
            self._beats += 1
            store.set(self._key(self._launch.rank), str(self._beats))
            silent = self._silent(store)
        except Exception:
            return gone  # who keeps the store has ended
        if silent is None:
            return None
        text = f"nothing was heard from it for {SILENCE:.0f} seconds"
        return {"signal": 0, "rank": silent, "text": text, "is_silent": True}

    @property
    def _is_computing(self) -> bool:
        """Whether it may be in the middle of something besides waiting for other ranks."""
        return not self._is_patient and self._store is not None

    def _is_refused(self) -> bool:
        """Whether nobody listens where the launcher keeps its store.

        It may have ended before this process could ask who started it, and torch waits for the store for minutes.
        """
        if self._launch.store is None:
            return False
        try:
            with contextlib.closing(socket.create_connection(self._launch.store, timeout=INTERVAL)):
                self._refusals = 0
        except ConnectionRefusedError:
            self._refusals += 1
        except OSError:  # a name that is not known yet, a network that is slow
            self._refusals = 0
        return self._refusals >= REFUSALS

    def _silent(self, store: KeyValueStore) -> int | None:
        """A rank whose counter stands still. Rank 0 looks at all, the others at rank 0."""
        now = time.monotonic()
        for rank in range(1, self._launch.size) if self._launch.speaks else (0,):
            if not store.check([self._key(rank)]):
                continue
            beats = int(store.get(self._key(rank)))
            known, since = self._seen.get(rank, (None, now))
            if beats != known:
                self._seen[rank] = beats, now
            elif beats != _GONE and now - since > SILENCE:
                return rank
        return None

    def _stop(self, word: dict[str, Any]) -> None:
        """Stop as the other rank did: by the same signal, or with its error."""
        if not word["signal"]:
            self._reason = f"rank {word['rank']}: {word['text']}"
        os.kill(os.getpid(), word["signal"] or signal.SIGTERM)

    @staticmethod
    def _key(rank: int) -> str:
        return f"fisher/beats/{rank}"
