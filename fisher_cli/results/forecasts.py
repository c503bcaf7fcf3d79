"""What an analysis is expected to cost."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why an analysis cannot be made on this machine, and what to change; each remedy with what it would take then."""

    reason: str
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """Memory and time of an analysis before it is made.

    `rows` are the checkpoints of the run; `kept` of them are in the journal, `joined` are there after other rows,
    `rejected` cannot be read. `measurements` are still to be made, one of them a predecessor of a shard's first row or
    not. `passes` are backward passes per example. `seconds` are of one measurement by stage. `peak_bytes` is the
    largest memory of one process, made up of `parts`, and of what is named in `peak_in`; `available_bytes` is
    what there is, described by `available`. `processes` run at once.
    """

    checkpoint: str
    architecture: str
    rows: int
    kept: int
    joined: int
    rejected: int
    measurements: int
    parameters: int
    examples: int
    classes: int
    batch_size: int
    estimator: str
    passes: int
    routes: tuple[tuple[str, str], ...]
    seconds: tuple[tuple[str, float], ...]
    total_seconds: float
    peak_bytes: int
    peak_in: str
    parts: tuple[tuple[str, int], ...]
    available_bytes: int
    available: str
    processes: int
    probed: int
    refusal: Refusal | None = None

    @property
    def seconds_each(self) -> float:
        """Seconds of one measurement."""
        return sum(seconds for _, seconds in self.seconds)
