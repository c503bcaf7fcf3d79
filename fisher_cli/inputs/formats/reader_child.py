"""The process that reads foreign bytes: it maps them, describes what they hold, and answers; `reader_process` owns it.

It imports neither torch nor NumPy. While it reads it has no descriptor left, so that it can open no file and no
connection; what it may take of processor time and memory is limited for each file; it can write no file, and start no
process where the system counts those of its user. It ends when its owner is gone.
"""

import codecs
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import time
from typing import Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.decoders import WITHOUT_MEMORY, decoded, refusal
from fisher_cli.inputs.formats.reader_limits import ENDS, LONGEST_ANSWER, MEMORY, READY, STAYS, WORD, seconds

_DESCRIPTORS: Final = 5  # the connection, two for what is written nowhere, and two for a file: all of them in use
_LONGEST_TO_STAY: Final = 1.0  # seconds; who has worked as long as that may have grown, and is begun anew
_LATE: Final = ("cp437", "unicode_escape", "utf-8", "latin-1", "ascii")  # codecs, which are found on first use


def main() -> None:
    """Answer requests until nobody asks any more."""
    os.setsid()  # what a terminal sends goes to the owner alone
    os.chdir("/")  # and the folder that it is in can go
    for codec in _LATE:
        codecs.lookup(codec)
    os.closerange(3, 1 << 16)
    for limit, most in (
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (most, most))
    connection = socket.socket(fileno=0)
    # Asked for while a file is read, so that an owner that ends then ends this process too. The system may send it late
    # for a request that was taken already: only who is alone leaves.
    signal.signal(signal.SIGIO, lambda *_: os._exit(0) if _is_alone(connection) else None)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    connection.sendall(READY)
    while True:
        word, descriptors = _request(connection)
        if len(word) < WORD or len(descriptors) != 1:
            return
        answer, stays = _answer(connection, word.decode().strip(), descriptors[0])
        connection.sendall((STAYS if stays else ENDS) + len(answer).to_bytes(8, "little") + answer)
        if not stays:
            return
        os.close(descriptors[0])


def _request(connection: socket.socket) -> tuple[bytes, list[int]]:
    word, descriptors, _, _ = socket.recv_fds(connection, WORD, 1)
    while word and len(word) < WORD:
        more = connection.recv(WORD - len(word))
        word = word + more if more else b""
    return word, descriptors


def _answer(connection: socket.socket, decoder: str, descriptor: int) -> tuple[bytes, bool]:
    """Return the answer to one request, and whether this process is fit for another."""
    size, begun = os.fstat(descriptor).st_size, time.process_time()
    _lower(resource.RLIMIT_CPU, int(begun) + 1 + seconds(size))
    _lower(resource.RLIMIT_AS, size + MEMORY)
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    if _is_alone(connection):
        os._exit(0)
    try:
        answer = _encoded(decoder, descriptor, size)
    except MemoryError:
        answer = json.dumps(refusal(CheckpointError(WITHOUT_MEMORY))).encode()
    fcntl.fcntl(connection, fcntl.F_SETFL, flags)
    return answer, time.process_time() - begun < _LONGEST_TO_STAY


def _lower(limit: int, most: int) -> None:
    """Set the limit that counts, below the one that cannot be raised."""
    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _is_alone(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _encoded(decoder: str, descriptor: int, size: int) -> bytes:
    data = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) if size else b""
    text = json.dumps(decoded(decoder, data), separators=(",", ":")).encode()
    if len(text) <= LONGEST_ANSWER:
        return text
    msg = f"holds more than {LONGEST_ANSWER >> 20} MiB beside its tensors, which no checkpoint does"
    return json.dumps(refusal(CheckpointError(msg))).encode()
