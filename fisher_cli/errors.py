"""What can go wrong, as a tree; each error's text is one line: what, which file, why, what to type next.

FisherError
├── UsageError             the command's words do not fit together (exit code 2)
├── CheckpointError        a file or folder holds no weights that can be used
│   ├── UnsafeCheckpointError   reading it would run code
│   └── NoWeightsError          it was read, and no weights were found in it
├── ArchitectureError      no network, or not the network of these weights
├── DataError              the dataset is missing, unreadable or does not fit the network
├── CoupledExamplesError   the network's output for one example depends on the others
├── NumericalError         weights or results are NaN or infinite
├── VerificationError      our own numbers disagree with plain autograd, or do not add up
├── OutOfMemoryError       one example at once is still too much for the memory
├── RanksError             of several processes on one analysis another is gone, or went another way
└── OutputError            the report cannot be written there
    ├── RecordError             its journal cannot be read or written, or answers another question
    └── LockedError             another process is writing it (exit code 5)
"""


class FisherError(Exception):
    """Any failure that has a one-line explanation for the user."""


class UsageError(FisherError):
    """The command's words do not fit together."""


class CheckpointError(FisherError):
    """A file or folder holds no weights that can be used."""


class UnsafeCheckpointError(CheckpointError):
    """Reading the file would mean running code that it contains."""


class NoWeightsError(CheckpointError):
    """The file was read, and no weights were found in it."""


class ArchitectureError(FisherError):
    """The network is unknown, or it is not the network of these weights."""


class DataError(FisherError):
    """The dataset is missing, unreadable, or does not fit the network."""


class CoupledExamplesError(FisherError):
    """The output for one example depends on the other examples of its batch."""


class NumericalError(FisherError):
    """Weights, outputs or results are NaN or infinite."""


class VerificationError(FisherError):
    """The engine's numbers disagree with plain autograd, or sums of them do not hold.

    Attributes:
        sides: the two sums that differ; None where no sum is compared.
    """

    def __init__(self, message: str, sides: tuple[float, float] | None = None) -> None:
        super().__init__(message)
        self.sides = sides


class OutOfMemoryError(FisherError):
    """The memory does not even suffice for one example at once."""


class RanksError(FisherError):
    """Of several processes on one analysis another is gone, or went another way."""


class OutputError(FisherError):
    """The report cannot be written there."""


class RecordError(OutputError):
    """The journal of a report cannot be read or written, or answers another question."""


class LockedError(OutputError):
    """Another process is writing this report."""
