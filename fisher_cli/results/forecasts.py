"""What an analysis is expected to cost."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why an analysis cannot be made on this machine, and what to change.

    Attributes:
        reason: in one line, with the memory that it takes and that there is.
        remedies: what to type or take instead, one line each, the first to be tried first.
    """

    reason: str
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """Memory and time of an analysis before it is made.

    Attributes:
        checkpoint: the name of the largest file that is to be measured, on which the forecast is made.
        architecture: its network; "" where that is too large to be built.
        rows: the checkpoints of the run.
        kept: how many of them are in the journal.
        joined: how many are in the journal after another row, so that only the way from the row before is found anew.
        rejected: how many cannot be read.
        measurements: how many are still to be made; the predecessor of a shard's first row may be one of them.
        parameters: how many weights are analysed.
        examples: N.
        classes: how many outputs the network has.
        batch_size: examples at once.
        estimator: of the true trace; "" where nothing was measured.
        passes: backward passes per example.
        routes: (matrix, method) for each matrix whose eigenvalues are found.
        seconds: (stage, seconds) of one measurement.
        total_seconds: of all measurements, by the processes side by side.
        peak_bytes: the largest memory of one process.
        peak_in: what is found while memory is largest; "" where nothing was measured.
        parts: (what it is, bytes) that make up the peak.
        available_bytes: the memory that there is.
        available: in words, whose memory that is.
        processes: how many run at once on this machine.
        probed: on how many examples the forecast was measured; 0 where names and shapes were enough to refuse.
        refusal: why the analysis cannot be made here; None if it can.
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
        """Seconds of one measurement, the sum over its stages."""
        return sum(seconds for _, seconds in self.seconds)
