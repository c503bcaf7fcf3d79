"""How this process was started: alone, or as one of the ranks that torchrun and its like start."""

import os
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Launch:
    """The place of this process among all that share one analysis, and who started it.

    Attributes:
        rank: its number, from 0.
        size: how many processes there are.
        local_rank: its number among those on its machine, from 0.
        local_size: how many are on its machine.
        parent: the process that started it, by its id; 0 for a process alone.
        store: where the launcher keeps what the ranks meet by, host and port; None if a rank does.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    parent: int = 0
    store: tuple[str, int] | None = None

    @property
    def speaks(self) -> bool:
        """Whether this process prints and writes files, which rank 0 alone does."""
        return self.rank == 0


@cache
def launched() -> Launch:
    """The place of this process, by the variables that torchrun sets; a process alone where they are not there.

    The environment is asked once. That has to be early, while the process that started this one is still its parent.
    """
    words = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    texts = [os.environ.get(word, "") for word in words]
    if not texts[0].isdecimal() or not texts[1].isdecimal() or "MASTER_ADDR" not in os.environ:
        return Launch()
    rank, size = int(texts[0]), int(texts[1])
    if not rank < size or size == 1:
        return Launch()
    local = [int(text) if text.isdecimal() else usual for text, usual in zip(texts[2:], (rank, size), strict=True)]
    return Launch(rank, size, local[0], local[1], os.getppid(), _store())


def _store() -> tuple[str, int] | None:
    port = os.environ.get("MASTER_PORT", "")
    is_launchers = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and port.isdecimal()
    return (os.environ["MASTER_ADDR"], int(port)) if is_launchers else None
