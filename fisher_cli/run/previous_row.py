"""What a run remembers of the checkpoint before, and what the next one says about the way from there."""

from torch import Tensor

from fisher_cli.curvature.kl.divergence import Snapshot, buffers_share, movement, snapshot, why_apart
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.spectra.spectrum import LeadingVectors
from fisher_cli.results import Movement, Trace

# A part of kl_step that is not the analysed parameters' is worth a remark from this share on.
_SHARE = 0.1


class PreviousRow:
    """What a run remembers of the rows before: eigenvectors, and the last network with numbers.

    Attributes:
        before: the leading eigenvectors of the checkpoint before, by matrix: `true`, `empirical`.
        now: those of the row that is being measured, which fills them in.
        last: the network of the last checkpoint with numbers, with its outputs; None before the first.
        missed: how many checkpoints since then gave no numbers.
    """

    def __init__(self) -> None:
        self.before: dict[str, LeadingVectors] = {}
        self.now: dict[str, LeadingVectors] = {}
        self.last: Snapshot | None = None
        self.missed = 0
        self._left: Snapshot | None = None

    def advance(self) -> None:
        """Go on to the next row: what was kept of the row measured last is now that of the row before."""
        self.before, self.now = self.now, {}
        if self._left is not None:
            self.last, self._left, self.missed = self._left, None, 0
        elif self.last is not None:
            self.missed += 1

    def step(self, problem: Problem, outputs: Tensor, trace: Trace) -> tuple[Movement | None, tuple[str, ...]]:
        """How far the network has moved from the last one with numbers, and what a reader should know of it.

        Args:
            problem: the network and the examples.
            outputs: z of all examples, (N, C).
            trace: of the same network.

        Returns:
            The movement, and remarks. The movement is None for the first row, and with a remark that says why where the
            two networks cannot be held against each other.
        """
        if self.last is None:
            return None, ()
        if why := why_apart(problem, self.last):
            return None, (f"no movement from the previous row, which is of another network: {why}",)
        found = movement(problem, outputs, trace, self.last)
        return found, tuple(self._remarks(found))

    def leave(self, problem: Problem, outputs: Tensor, trace: Trace) -> None:
        """Keep the network for the next row to be held against; only when this row has all its numbers.

        Args are those of `step`.
        """
        self._left = snapshot(problem, outputs, trace)

    def withdraw(self) -> None:
        """Forget what `leave` has kept: the checkpoint failed on another rank after it was done here."""
        self._left = None

    def _remarks(self, found: Movement) -> list[str]:
        remarks = []
        if self.missed:
            rows = "the row between gave" if self.missed == 1 else f"the {self.missed} rows between gave"
            remarks.append(f"movement is from the last checkpoint with numbers: {rows} none")
        share = buffers_share(found)
        if share is not None and abs(share) > _SHARE:
            remarks.append(
                "more than a tenth of kl_step comes from what is not analysed, such as batch-norm statistics: "
                "kl_step_parameters leaves it out, as kl_step_quadratic does"
            )
        return remarks
