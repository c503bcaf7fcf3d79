"""What is asked of the eigenvalues of a matrix."""

from dataclasses import dataclass

# The whole spectrum is taken without being asked for up to so many rows: about twenty seconds on two cores.
AUTOMATIC_ROWS = 4000


@dataclass(frozen=True)
class Question:
    """What is asked of a matrix: how many leading eigenvalues, to which tolerance, and how far beyond them.

    `whole` None means up to AUTOMATIC_ROWS. `damping` None means 1/N. Without `full` only what is almost free
    beside the leading eigenvalues is answered, and no eigenvalue beyond them is looked for.
    """

    count: int
    tolerance: float = 1e-3
    seed: int = 0
    full: bool = False
    whole: bool | None = None
    damping: float | None = None
    probes: int = 5
    steps: int = 40

    def wants_all(self, rows: int) -> bool:
        """Whether all eigenvalues of a matrix of so many rows are asked for, and not only the leading ones."""
        return self.full and (rows <= AUTOMATIC_ROWS if self.whole is None else self.whole)
