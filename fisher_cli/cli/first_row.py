"""What is said on stderr once the first row is there: what only a measurement tells."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fisher_cli.reports.console import Console
    from fisher_cli.results import Measurement


class FirstRow:
    """Says each thing once."""

    def __init__(self, console: "Console", ranks: int) -> None:
        self._console, self._ranks, self._waits = console, ranks, True
        self._has_said_rounding = False

    def take(self, measurement: "Measurement") -> None:
        """Say what this row is the first to tell."""
        if self._waits:
            self._say_who_idles(measurement)
        self._waits = False
        if measurement.rounding is not None and not self._has_said_rounding:
            self._has_said_rounding = True
            self._console.message(measurement.rounding.sentence())

    def _say_who_idles(self, measurement: "Measurement") -> None:
        """Ranks share whole batches, so that results do not depend on their number; there may be fewer than ranks."""
        ranks, at_once, examples = self._ranks, measurement.batch_size, measurement.examples
        if at_once is None or examples is None or ranks <= 1 or (batches := -(-examples // at_once)) >= ranks:
            return
        self._console.message(
            f"{ranks} ranks and {batches} batches of up to {at_once} examples: the other ranks have nothing to do; "
            f"-b {max(1, examples // (4 * ranks))} gives work to all"
        )
