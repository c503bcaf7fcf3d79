"""The process that reads foreign bytes: it gets files, describes what they hold, and answers; `reader_process` owns it.

What its decoders need is imported before it is asked. While it reads it has no descriptor left, so that it can open no
file and no connection; what it may take of processor time and memory is limited for each answer; it can write no file,
and start no process where the system counts those of its user. It ends when its owner is gone.
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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fisher_cli.storage.decoding import Answer, Decoder, Source, decoded, refusal
from fisher_cli.storage.reader_limits import (
    ENDS,
    LENGTH,
    LONGEST_ANSWER,
    MEMORY,
    MORE,
    MOST_BYTES,
    MOST_FILES,
    READY,
    STAYS,
    WORD,
    seconds,
)

_OWN_DESCRIPTORS: Final = 3  # the connection, and two for what is written nowhere
# Who has worked so long, in seconds, and grown by so many KiB, may have kept much of it, and is begun anew.
_LONGEST_TO_STAY: Final = 1.0
_MOST_GROWN: Final = 256 << 10
_FOR_WORDS: Final = 32  # bytes of memory for each of what is wanted: numbers of rows become objects
_USUAL_ADDRESSES: Final = 1 << 29  # where the system does not say how many there are
_LATE: Final = ("cp437", "unicode_escape", "utf-8", "latin-1", "ascii")  # codecs, which are found on first use


def main(decoders: Mapping[str, Decoder], is_mapped: bool) -> None:
    """Answer requests until nobody asks any more.

    Args:
        decoders: by name.
        is_mapped: whether they take the memory of a file instead of the file.
    """
    os.setsid()  # what a terminal sends goes to the owner alone
    os.chdir("/")  # and the folder that it is in can go
    for codec in _LATE:
        codecs.lookup(codec)
    before = _addresses()
    os.closerange(_OWN_DESCRIPTORS, 1 << 16)
    most_open = _OWN_DESCRIPTORS + MOST_FILES + is_mapped
    for limit, most in (
        (resource.RLIMIT_NOFILE, most_open),
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
        word, about, descriptors = _request(connection)
        if not descriptors:
            return
        begun, grown = time.process_time(), _peak()
        _answer(connection, decoders[word], about, descriptors, before + len(about) * _FOR_WORDS, is_mapped)
        stays = time.process_time() - begun < _LONGEST_TO_STAY or _peak() - grown < _MOST_GROWN
        connection.sendall(STAYS if stays else ENDS)
        if not stays:
            return
        for each in descriptors:
            os.close(each)
        _lower(resource.RLIMIT_NOFILE, most_open)


def _request(connection: socket.socket) -> tuple[str, bytes, list[int]]:
    """Return the decoder's name, what is wanted, and the files; none where nobody asks any more."""
    head, descriptors, _, _ = socket.recv_fds(connection, WORD + LENGTH, MOST_FILES)
    head += _received(connection, WORD + LENGTH - len(head)) if head else b""
    if len(head) < WORD + LENGTH:
        return "", b"", []
    length = int.from_bytes(head[WORD:], "little")
    about = _received(connection, length)
    return (head[:WORD].decode().strip(), about, descriptors) if len(about) == length else ("", b"", [])


def _received(connection: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count and (more := connection.recv(count - len(found))):
        found += more
    return bytes(found)


def _answer(
    connection: socket.socket, decoder: Decoder, about: bytes, descriptors: Sequence[int], before: int, is_mapped: bool
) -> None:
    """Send the answers to one request."""
    size = sum(os.fstat(each).st_size for each in descriptors)
    _lower(resource.RLIMIT_AS, before + size + MEMORY)
    _lower(resource.RLIMIT_NOFILE, _OWN_DESCRIPTORS + len(descriptors) + is_mapped)
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    if _is_alone(connection):
        os._exit(0)
    _renew_time(size)
    try:
        for text, numbers in _encoded(decoder, [_source(each, is_mapped) for each in descriptors], json.loads(about)):
            connection.sendall(
                b"".join((MORE, len(text).to_bytes(LENGTH, "little"), len(numbers).to_bytes(LENGTH, "little"), text))
            )
            if numbers:
                connection.sendall(numbers)
            _renew_time(size)
    finally:
        fcntl.fcntl(connection, fcntl.F_SETFL, flags)


def _source(descriptor: int, is_mapped: bool) -> Source:
    if not is_mapped:
        return open(descriptor, "rb", closefd=False)
    size = os.fstat(descriptor).st_size
    return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) if size else b""


def _encoded(decoder: Decoder, sources: Sequence[Source], about: Any) -> Iterator[tuple[bytes, bytes | bytearray]]:
    """Yield the answers as they are sent."""
    try:
        for tree, numbers in decoded(decoder, sources, about):
            text = _text((tree, numbers))
            yield text, numbers if text[:8] != b'{"error"' else b""
    except MemoryError:
        yield json.dumps(refusal(MemoryError())).encode(), b""


def _text(answer: Answer) -> bytes:
    tree, numbers = answer
    text = json.dumps(tree, separators=(",", ":")).encode()
    if len(text) <= LONGEST_ANSWER and len(numbers) <= MOST_BYTES:
        return text
    msg = f"holds more than {LONGEST_ANSWER >> 20} MiB beside its numbers, which no such file does"
    return json.dumps(refusal(ValueError(msg))).encode()


def _renew_time(size: int) -> None:
    _lower(resource.RLIMIT_CPU, int(time.process_time()) + 1 + seconds(size))


def _addresses() -> int:
    """Return how many bytes of addresses this process has."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except (OSError, ValueError):
        return _USUAL_ADDRESSES


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _lower(limit: int, most: int) -> None:
    """Set the limit that counts, below the one that cannot be raised."""
    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _is_alone(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
