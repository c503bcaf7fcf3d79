"""How this process was started: alone, or as one of the ranks that torchrun and its like start."""

import os
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Launch:
    """The place of this process among all (`rank` of `size`) and among those on its machine; who started it.

    `store` is where the launcher keeps what the ranks meet by, host and port; None if a rank does.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    parent: int = 0
    store: tuple[str, int] | None = None

    @property
    def speaks(self) -> bool:
        """Whether it prints, and writes files: one process does."""
        return self.rank == 0


@cache
def launched() -> Launch:
    """The place that the environment tells, by the variables that torchrun sets; to be asked early, for the parent."""
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
