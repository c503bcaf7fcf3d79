"""The measurements of a run, its tables, and the record of where they come from."""

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from fisher_cli._version import __version__
from fisher_cli.curvature.torch_backend import machine_memory
from fisher_cli.errors import UsageError
from fisher_cli.results import Ledger, Measurement, Status, by_run
from fisher_cli.run.per_example import with_summary
from fisher_cli.settings import Precision, Resources, Settings, ShardPart
from fisher_cli.storage.metadata import examples_record, ledger_record, parameterisation, spectrum_record
from fisher_cli.tables.registry import GROUPS, RUNS, TABLES, Table

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Analysis:
    """The measurements of a run in order of training, and what is needed to say where they come from.

    Attributes:
        settings: what was asked.
        resources: with what.
        device: where rows are measured, as text; several devices are joined by commas.
        data: the examples in words, as JSON values.
        measurements: the rows so far; the run adds to them.
        seconds: from the beginning of the run to the last row.
        part: which part of the whole this is; None for all of it.
        first_order: the place of the first row in its run, from 0; above 0 in a shard that begins within a run.
    """

    settings: Settings
    resources: Resources
    device: str
    data: Mapping[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    seconds: float = 0.0
    part: ShardPart | None = None
    first_order: int = 0
    _frames: "dict[tuple[str, bool], pd.DataFrame]" = field(default_factory=dict, init=False, repr=False, compare=False)

    def whole(self) -> "Analysis":
        """A copy with the rows that there are now, run by run; its tables are made anew."""
        return replace(self, measurements=list(chain.from_iterable(by_run(self.measurements).values())))

    def frame(self, name: str, *, layers: bool = True) -> "pd.DataFrame":
        """A table of the run, as a data frame. It is made once, of the rows that there are at the first call.

        Args:
            name: its name in `fisher_cli.tables.registry`: "main", "layers", "spectrum" and so on; docs/columns.md
                lists them. A table that the run did not ask for has no rows, or says of each checkpoint nothing but its
                status.
            layers: whether a long form has the rows of the parameter tensors too.

        Returns:
            The data frame, its columns as docs/columns.md explains them. Later calls give the same object.

        Raises:
            UsageError: there is no such table.
        """
        if name not in TABLES or not TABLES[name].is_of_run:
            names = ", ".join(table.name for table in TABLES.values() if table.is_of_run)
            msg = f"no table {name!r} of a run: there are {names}"
            raise UsageError(msg)
        if (name, layers) not in self._frames:
            self._frames[name, layers] = self._made(TABLES[name], layers=layers)
        return self._frames[name, layers]

    def _made(self, table: Table, *, layers: bool) -> "pd.DataFrame":
        from fisher_cli.tables.build import frame
        from fisher_cli.tables.long_form import long_table
        from fisher_cli.tables.run_differences import compare_runs

        if table.melts:
            return long_table(*(self.frame(each) for each in table.melts[: 2 if layers else 1]))
        measurements: Sequence[Any] = self.measurements
        if table is RUNS:
            return frame(table, [] if self.part is not None else compare_runs(by_run(measurements)))
        if table is GROUPS and not any(each.example_summary for each in measurements):  # a command has made them
            measurements = [with_summary(each) for each in measurements]
        table = table.with_eigenvalues(self.settings.eigenvalues)
        return frame(table, measurements, self.first_order, is_part=self.part is not None)

    @property
    def table(self) -> "pd.DataFrame":
        """The main table: one row per checkpoint."""
        return self.frame("main")

    @property
    def layers(self) -> "pd.DataFrame":
        """The table of layers: one row per checkpoint and parameter tensor, none for checkpoints without a trace."""
        return self.frame("layers")

    @property
    def comparison(self) -> "pd.DataFrame":
        """The empirical against the true Fisher where that was asked for: one row per checkpoint."""
        return self.frame("comparison")

    @property
    def comparison_layers(self) -> "pd.DataFrame":
        """The same by parameter: one row per checkpoint and parameter tensor."""
        return self.frame("comparison_layers")

    @property
    def identities(self) -> "pd.DataFrame":
        """The identities where `verify` was asked for: one row per checkpoint and identity."""
        return self.frame("identities")

    @property
    def verified(self) -> bool:
        """Whether there are identities, and none of them fails; one that is undecided does not."""
        found = [m.verification for m in self.measurements if m.verification is not None]
        return bool(found) and not any(each.failed for each in found)

    @property
    def data_title(self) -> str:
        """The dataset and its split in two words, for titles."""
        return " ".join(str(part) for part in (self.data.get("name"), self.data.get("split")) if part)

    @property
    def succeeded(self) -> int:
        """How many checkpoints gave numbers: those whose status is ok or not-converged."""
        return sum(m.status in {Status.OK, Status.NOT_CONVERGED} for m in self.measurements)

    @property
    def ledgers(self) -> list[Ledger]:
        """The coverage ledgers of the measurements, each once; the checkpoints of a run mostly share one."""
        return list(dict.fromkeys(m.ledger for m in self.measurements if m.ledger is not None))

    def stable_metadata(self) -> dict[str, Any]:
        """What was asked and of what, as JSON values: the same for every repetition of the run."""
        ledgers = {ledger: index for index, ledger in enumerate(self.ledgers)}
        part = {} if self.part is None else {"part": self.part.as_dict()}
        return part | {
            "fisher_version": __version__,
            "settings": self.settings.without_folders(),
            "settings_digest": self.settings.digest(),
            "data": dict(self.data),
            "checkpoints": [
                {
                    "run": m.run,
                    "checkpoint": m.checkpoint,
                    "sha256": m.sha256,
                    "parameters": m.parameters,
                    "batch_size": m.batch_size,
                    "memory_ran_out_at": m.memory_ran_out_at,
                    "ledger": None if m.ledger is None else ledgers[m.ledger],
                    "spectra": [spectrum_record(each) for each in m.spectra],
                    "notes": list(m.notes),
                    "likelihood": parameterisation(m.likelihood, m.classes),
                    "examples": examples_record(m.example_summary),
                    **({} if m.rounding is None else {"rounding": asdict(m.rounding)}),
                }
                for m in self.measurements
            ],
            "ledgers": [ledger_record(ledger) for ledger in ledgers],
            "conventions": "natural logarithms; mean over examples; sum over classes; evaluation mode; float64 sums",
        }

    def run_metadata(self) -> dict[str, Any]:
        """How it went this time, as JSON values: versions, device, command, timings in seconds and memory in bytes."""
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": self.device,
            "threads": torch.get_num_threads(),
            "resources": self.resources.as_dict(),
            "command": list(sys.argv),
            "seconds": self.seconds,
            "timings": [{"checkpoint": m.checkpoint, **dict(m.timings)} for m in self.measurements],
            "checks": [
                {"checkpoint": m.checkpoint, **asdict(m.check), **_cost(m, "check")}
                for m in self.measurements
                if m.check is not None
            ],
            "identities": [
                {"checkpoint": m.checkpoint, "seconds": {each.name: each.seconds for each in m.verification.identities}}
                for m in self.measurements
                if m.verification is not None
            ],
            "peak_memory_bytes": machine_memory.peak_memory(),
            "peak_device_memory_bytes": max(map(torch.cuda.max_memory_allocated, self._gpus), default=None),
            **(self._gpu() if self._gpus else {}),
        }

    @property
    def _gpus(self) -> list[str]:
        return [each for each in self.device.split(", ") if each.startswith("cuda")]

    def _gpu(self) -> dict[str, Any]:
        """What its allocator took in all, and what the last digits depend on."""
        return {
            "peak_device_memory_reserved_bytes": max(map(torch.cuda.max_memory_reserved, self._gpus)),
            "gpu": ", ".join(dict.fromkeys(map(torch.cuda.get_device_name, self._gpus))),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "tf32": self.settings.precision is Precision.TF32,
        }


def _cost(measurement: Measurement, stage: str) -> dict[str, float]:
    """What a stage of a measurement cost, in seconds and as a share of all its stages."""
    seconds = dict(measurement.timings)
    return {"seconds": seconds[stage], "share_of_time": seconds[stage] / sum(seconds.values())}
