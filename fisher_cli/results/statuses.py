"""How a row ended, and which weights it is about."""

from enum import StrEnum


class Status(StrEnum):
    """How a checkpoint's row ended."""

    OK = "ok"
    NOT_CONVERGED = "not-converged"  # some eigenvalue's residual stayed above the tolerance; its value is kept
    REJECTED = "rejected"  # the file could not be used
    FAILED = "failed"  # the computation broke


class WeightsKind(StrEnum):
    """Which of the weights in a checkpoint were analysed."""

    RAW = "raw"
    EMA = "ema"
    AVERAGED = "averaged"
