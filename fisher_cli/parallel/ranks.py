"""Several processes on one analysis: torch.distributed, which nothing else here uses, behind a `ProcessGroup`.

Every collective begins with a small exchange in which each rank says what it is about to do. So a rank that fails can
say so where the others wait for it, and ranks that went different ways notice before they add what does not belong
together. What concerns the processes themselves, such as their end, is in `heartbeat.py`.
"""

import atexit
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from fisher_cli import errors
from fisher_cli._version import __version__
from fisher_cli.curvature.linalg.sums import add_to
from fisher_cli.curvature.problem.process_group import ALONE, ProcessGroup
from fisher_cli.curvature.torch_backend.out_of_memory import is_out_of_memory
from fisher_cli.errors import FisherError, RanksError, UsageError
from fisher_cli.parallel.heartbeat import Heartbeat, Say
from fisher_cli.parallel.launch import Launch

# One rank may compute for hours while another waits for it; that it is there is what the watch makes sure of.
PATIENCE = timedelta(days=1)
# All must have started within this time.
STARTING = timedelta(minutes=5)
# Values at a time in sums of other precisions than float64, and in what is scattered.
PIECE = 2**22
# What the ranks are about to do.
_SUM, _GATHER, _GATHER_TO, _EXCHANGE, _REASONS, _DONE, _FAILED, _NUMBERS, _ADD, _COLLECT = range(1, 11)
_NAMES = {_SUM: "a sum", _GATHER: "rows", _GATHER_TO: "rows for one", _EXCHANGE: "words", _DONE: "the end of a stage"}
_NAMES |= {_NUMBERS: "numbers", _ADD: "a sum that is scattered", _COLLECT: "a scattered sum"}
# The numbers of these, which are lengths, must be the same.
_ALIKE = {_SUM, _ADD, _COLLECT}


class _FailedElsewhere(Exception):
    """Another rank has failed in what all are doing."""


class Ranks(ProcessGroup):
    """One of several processes, each with the same network, that share the examples; sums are in float64.

    All methods but `scattered`, `sharers` and `own_device` are collective: all ranks call them in the same order. A
    method raises a RanksError where another rank is gone or does something else.
    """

    def __init__(self, launch: Launch, watch: Heartbeat) -> None:
        self.rank, self.size = launch.rank, launch.size
        self.watch = watch
        self._launch = launch

    def sum(self, tensor: Tensor) -> Tensor:
        """Σ over the ranks, added in float64, in place."""
        with self._together(_SUM, tensor.numel()):
            if tensor.dtype is torch.float64 and tensor.is_contiguous():
                dist.all_reduce(tensor)
                return tensor
            flat = tensor.view(-1)
            for start in range(0, len(flat), PIECE):
                piece = flat[start : start + PIECE].double()
                dist.all_reduce(piece)
                flat[start : start + PIECE] = piece
        return tensor

    def scattered(self, count: int) -> int:
        """How many of `count` values are this rank's where a vector is scattered: its share of every `PIECE` values."""
        return sum(self._lengths(start, stop)[self.rank] for start, stop in _pieces(count))

    def _lengths(self, start: int, stop: int) -> list[int]:
        return [len(self.share(stop - start, rank)) for rank in range(self.size)]

    def add_scattered(self, vector: Tensor, total: Tensor) -> None:
        """Add Σ over the ranks of a vector (n,), in float64, to a total that is scattered over them.

        Every rank sends each other one its share as it is: of float32 that is half of what a sum in float64 moves, and
        goes to all ranks at once.
        """
        # Memory is taken before ranks meet: whoever has none must be able to say so.
        largest, mine = min(len(vector), PIECE), 0
        room = vector.new_empty(self.size * self._lengths(0, largest)[self.rank])
        copied = None if vector.is_contiguous() else vector.new_empty(largest)
        with self._together(_ADD, len(vector)):
            for start, stop in _pieces(len(vector)):
                lengths = self._lengths(start, stop)
                length, piece = lengths[self.rank], vector[start:stop]
                received = room[: self.size * length]
                sent = piece if copied is None else copied[: len(piece)].copy_(piece)
                dist.all_to_all_single(received, sent, [length] * self.size, lengths)
                for part in received.view(self.size, length):
                    add_to(total[mine : mine + length], part)
                mine += length

    def gather_scattered(self, total: Tensor, count: int, dtype: torch.dtype) -> Tensor:
        """The vector (count,) of a scattered total, in the precision `dtype`, on every rank."""
        largest, mine = self._lengths(0, min(count, PIECE))[0], 0
        vector, sent = total.new_empty(count, dtype=dtype), total.new_zeros(largest, dtype=dtype)
        every = [torch.empty_like(sent) for _ in range(self.size)]
        with self._together(_COLLECT, count):
            for start, stop in _pieces(count):
                lengths = self._lengths(start, stop)
                sent[: lengths[self.rank]] = total[mine : mine + lengths[self.rank]]
                dist.all_gather(every, sent)
                for part, into, length in zip(every, torch.split(vector[start:stop], lengths), lengths, strict=True):
                    into.copy_(part[:length])
                mine += lengths[self.rank]
        return vector

    def gather(self, parts: Sequence[Tensor]) -> Tensor:
        """The rows of all ranks in their order, (Σ rows, …), on every rank.

        Args:
            parts: this rank's rows in order, each part (rows, …); a rank may have none, but not all.
        """
        mine, counts = self._described(parts)
        every = [torch.empty_like(mine) for _ in counts]
        with self._together(_GATHER, 0):
            dist.all_gather(every, mine)
        return torch.cat([rows[:count] for rows, count in zip(every, counts, strict=True)])

    def gather_to(self, owner: int, part: Tensor) -> Tensor | None:
        """The rows of all ranks in their order, (Σ rows, …), for the rank `owner` alone; None for the others."""
        mine, counts = self._described([part])
        every = [torch.empty_like(mine) for _ in counts] if self.rank == owner else None
        with self._together(_GATHER_TO, owner):
            dist.gather(mine, every, dst=owner)
        if every is None:
            return None
        return torch.cat([rows[:count] for rows, count in zip(every, counts, strict=True)])

    def _described(self, parts: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """This rank's rows, followed by nothing in particular up to the largest number of all, and all numbers.

        A rank without a part learns from the others what rows look like.
        """
        local = torch.cat(list(parts)) if parts else None
        known = None
        if local is not None:
            known = [len(local), list(local.shape[1:]), str(local.dtype).removeprefix("torch."), local.is_cuda]
        told = self.exchange(known)
        counts = [0 if each is None else int(each[0]) for each in told]
        _, shape, dtype, is_cuda = next(each for each in told if each is not None)
        device = torch.device("cuda", torch.cuda.current_device()) if is_cuda else torch.device("cpu")
        mine = torch.zeros(max(counts), *shape, dtype=getattr(torch, dtype), device=device)
        if local is not None:
            mine[: len(local)] = local.detach()
        return mine, counts

    def exchange(self, value: Any) -> list[Any]:
        """Every rank's JSON value, in order of the ranks."""
        return self._exchanged(_EXCHANGE, value)

    def numbers(self, mine: int) -> list[int]:
        """Every rank's whole number, in order of the ranks: half of what an exchange takes."""
        with self._together(_NUMBERS, mine) as numbers:
            return numbers

    def _exchanged(self, kind: int, value: Any) -> list[Any]:
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with self._together(kind, len(text)) as lengths:
            mine = torch.zeros(max(lengths), dtype=torch.uint8)
            mine[: len(text)] = text
            every = [torch.empty_like(mine) for _ in lengths]
            dist.all_gather(every, mine)
        return [json.loads(each[:n].numpy().tobytes()) for each, n in zip(every, lengths, strict=True)]

    @contextlib.contextmanager
    def _together(self, kind: int, number: int) -> Iterator[list[int]]:
        """What all ranks do now, each with its number: all numbers. A signal that comes meanwhile waits.

        Yields:
            The numbers, in order of the ranks.
        """
        with self.watch.patient():
            try:
                yield self._meet(kind, number)
            except RuntimeError as error:
                self._lost(error)

    def _meet(self, kind: int, number: int) -> list[int]:
        mine = torch.tensor([kind, number])
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine)
        kinds, numbers = zip(*(each.tolist() for each in every), strict=True)
        if _FAILED in kinds and kind != _FAILED:
            raise _FailedElsewhere
        others = set(kinds) - {_FAILED}
        if kind != _FAILED and (len(others) > 1 or (kind in _ALIKE and len(set(numbers)) > 1)):
            words = ", ".join(f"rank {i}: {_NAMES.get(each, each)} ({numbers[i]})" for i, each in enumerate(kinds))
            msg = f"the ranks went different ways ({words}); this is a defect of fisher: please report it"
            raise RanksError(msg)
        return list(numbers)

    def _lost(self, error: RuntimeError) -> NoReturn:
        """Another rank is gone, and the launcher is about to stop this one too.

        Raises:
            RanksError: which says so.
        """
        if is_out_of_memory(error):
            raise error
        self.watch.ignore()
        raise RanksError(self.watch.why_lost()) from error

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Work that succeeds on all ranks or fails on all, with the error of the first that failed.

        Yields:
            Nothing.

        Raises:
            Exception: that error; of another rank an error of the same kind and text.
            RanksError: another rank is gone.
        """
        error: Exception | None = None
        try:
            yield
            with self._together(_DONE, 0):
                return
        except _FailedElsewhere:
            pass
        except RanksError:
            raise
        except Exception as found:
            error = found
            with self._together(_FAILED, 0):
                pass
        told = self._exchanged(_REASONS, None if error is None else _told(error))
        first = next(rank for rank, each in enumerate(told) if each is not None)
        raise error if error is not None and first == self.rank else _rebuilt(*told[first])

    def sharers(self, device: torch.device) -> int:
        """How many ranks share the memory of a device: those of this machine its own; a GPU belongs to one rank."""
        return self._launch.local_size if device.type == "cpu" else 1

    def own_device(self, name: str) -> str:
        """The device of this rank: `cpu`, or `cuda:N` with the local rank N where CUDA was asked for or is there.

        Args:
            name: as `--device` has it.

        Raises:
            UsageError: there are fewer GPUs than ranks, or one of them was named.
        """
        if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return "cpu"
        there, ranks = torch.cuda.device_count(), self._launch.local_size
        if name not in {"auto", "cuda"}:
            msg = f"--device {name}: every rank takes a GPU of its own: type --device cuda, or leave it out"
            raise UsageError(msg)
        if there < ranks:
            msg = f"{ranks} ranks on a machine with {there} GPUs: start as many ranks as GPUs, or type --device cpu"
            raise UsageError(msg)
        return f"cuda:{self._launch.local_rank}"

    def refuse_different_machines(self, device: str) -> None:
        """Make sure that what is computed twice comes out the same on all ranks, down to the last bit.

        Args:
            device: of this rank, `cpu` or `cuda:N`.

        Raises:
            UsageError: versions, kinds of processor or numbers of threads differ.
        """
        cuda = torch.cuda.get_device_name(device) if device.startswith("cuda") else "no GPU"
        kind = [__version__, torch.__version__, torch.backends.cpu.get_cpu_capability(), cuda]
        kinds = self.exchange([*kind, f"{torch.get_num_threads()} threads"])
        odd = next((rank for rank, other in enumerate(kinds) if other != kinds[0]), None)
        if odd is not None:
            first, other = (" / ".join(kinds[rank]) for rank in (0, odd))
            msg = f"the ranks must be alike: rank 0 has {first}, rank {odd} has {other}"
            raise UsageError(msg)


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    """The bounds of `PIECE` values after the other; the last may be fewer."""
    return ((start, min(start + PIECE, count)) for start in range(0, count, PIECE))


def _told(error: Exception) -> list[str]:
    kind = "memory" if is_out_of_memory(error) and not isinstance(error, FisherError) else type(error).__name__
    return [kind, str(error)]


def _rebuilt(kind: str, text: str) -> Exception:
    """The error of another rank, of a kind that is treated alike."""
    if kind == "memory":
        return MemoryError(text)
    known = getattr(errors, kind, None)
    return known(text) if known is not None else _named(kind)(text)


@cache
def _named(kind: str) -> Callable[[str], Exception]:
    """An exception of this name: the row says what the other rank's did."""
    return type(kind, (Exception,), {})


@contextlib.contextmanager
def joined_ranks(launch: Launch, device: str, say: Say) -> Iterator[ProcessGroup]:
    """The group of this process: alone, or with the other ranks, which it meets first and tells if it must go.

    Args:
        launch: the place of this process.
        device: as `--device` has it, the same on all ranks.
        say: prints a line, when this process has to end while its main thread computes.

    Yields:
        The process group, to be used while the context is open.

    Raises:
        UsageError: the ranks are not alike, or there are fewer GPUs than ranks.
        RanksError: they do not find each other, or another rank is gone.
    """
    if launch.size == 1:
        yield ALONE
        return
    with _watch(launch).watching(say):
        ranks = _ranks(launch)
        own = ranks.own_device(device)
        if own != "cpu":
            torch.cuda.set_device(own)
        ranks.refuse_different_machines(own)
        yield ranks


@cache
def _watch(launch: Launch) -> Heartbeat:
    return Heartbeat(launch)


@cache
def _ranks(launch: Launch) -> Ranks:
    """The one group of processes that there is, for as long as this one lives.

    Raises:
        RanksError: they do not find each other.
    """
    watch = _watch(launch)
    is_cuda = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if is_cuda else "gloo"
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=STARTING)))
        watch.listen(store.clone())
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        msg = f"the ranks have not found each other: {next(iter(str(error).splitlines()), error)}"
        raise RanksError(msg) from error
    atexit.register(lambda: dist.destroy_process_group() if watch.is_orderly else None)
    return Ranks(launch, watch)
