"""What the charts along training have in common: their size, the axis of steps, and what is said of each run."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from fisher_cli.reports.drawing import step_axis
from fisher_cli.reports.reported_run import ReportedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH: Final = 5.0
Runs = Sequence[ReportedRun]
# Of more runs a legend names one line each, and a chart says what is found in the first ones.
MOST_LABELLED: Final = 4
MOST_SAID: Final = 8


def height(width: float) -> float:
    """The height of a chart of this width."""
    return max(2.2, 0.62 * width)


def along(axes: "Axes", runs: Runs) -> list[tuple[ReportedRun, list[float]]]:
    """The runs with the places of their rows on the axis, which is set up for them."""
    places, known = steps_of(runs)
    step_axis(axes, [x for run in places for x in run], known=known)
    return list(zip(runs, places, strict=True))


def steps_of(runs: Runs) -> tuple[list[list[float]], bool]:
    """The steps of each run's rows, if all of them are known and rise; else their order."""
    found = [run.column("step") for run in runs]
    if all(math.isfinite(x) for each in found for x in each) and all(each == sorted(set(each)) for each in found):
        return found, True
    return [[float(i) for i in range(len(run.main))] for run in runs], False


def has_same_rows(run: ReportedRun, table: object) -> bool:
    """Whether a side table has the rows of the main one."""
    return list(table["checkpoint"]) == list(run.main["checkpoint"])  # type: ignore[index]


def columns_of(runs: Runs, *names: str) -> tuple[list[str], list[list[object]]]:
    """The rows behind a chart: these columns of all runs."""
    shown = [name for name in names if any(name in run.main for run in runs)]
    rows: list[list[object]] = []
    for run in runs:
        cells = [run.main[name].tolist() if name in run.main else [None] * len(run.main) for name in shown]
        for i, place in enumerate(run.places):
            rows.append([*([run.name] if len(runs) > 1 else []), place, *(column[i] for column in cells)])
    return [*(["run"] if len(runs) > 1 else []), "checkpoint", *shown], rows


def each_run(runs: Runs, said: Callable[[ReportedRun], str]) -> str:
    """What is found in each run, as a sentence."""
    return sentences(runs, [said(run) for run in runs], several=len(runs) > 1)


def sentences(runs: Runs, said: Sequence[str], *, several: bool) -> str:
    """What is found in each run, a line each; of several reports after their names."""
    if not several:
        return "\n".join(f"{text[0].upper()}{text[1:]}." for text in said)
    lines = [f"{run.name}: {text}." for run, text in zip(runs, said, strict=True)]
    if len(lines) > MOST_SAID + 1:
        lines[MOST_SAID:] = [f"{len(lines) - MOST_SAID} further runs are in the numbers."]
    return "\n".join(lines)


def subscript(number: int) -> str:
    """A number in small digits below the line: 12 as ₁₂."""
    return "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(number))


def short_name(name: str) -> str:
    """A run's name as a legend has it, cut after 28 characters."""
    return name if len(name) <= 28 else f"{name[:27]}…"
