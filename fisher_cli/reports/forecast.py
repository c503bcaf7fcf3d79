"""What an analysis will cost, in lines for people."""

from collections.abc import Iterator

from fisher_cli.results import Forecast
from fisher_cli.text import one_line

_MIB = 2**20


def forecast_lines(found: Forecast) -> Iterator[str]:
    """Say what is to be done, how long it takes, what memory it needs, and what that is read off from.

    Yields:
        Lines, each with a heading of its own in its first 13 characters, or blanks where it belongs to the line above.
    """
    for heading, text in _told(found):
        yield f"{heading:<13} {text}"


def _told(found: Forecast) -> Iterator[tuple[str, str]]:
    yield "to measure", _rows(found)
    yield "network", f"{one_line(found.architecture) or 'without memory'}, {found.parameters:,} parameters analysed"
    if found.passes:
        passes = f"1 forward and {found.passes} backward passes per example ({found.estimator})"
        yield "examples", f"{found.examples:,} of {found.classes:,} classes, {found.batch_size} at once; {passes}"
    if found.routes:
        yield "eigenvalues", ", ".join(f"{name} Fisher by {route}" for name, route in found.routes)
    if found.seconds:
        stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in found.seconds if seconds >= 0.05)
        yield "time", f"{duration(found.seconds_each)} a measurement, {duration(found.total_seconds)} in all"
        if stages:
            yield "", stages
    yield "memory", _memory(found)
    for name, size in found.parts:
        if size > _MIB / 2:
            yield "", f"{size / _MIB:>9,.0f} MiB  {name}"
    if found.probed:
        yield (
            "read off",
            f"a measurement of {found.probed} examples of {one_line(found.checkpoint)}, the largest file; the others "
            "are taken to be like it",
        )
    else:
        yield "read off", f"the names and shapes of {one_line(found.checkpoint)}, at one example at once"


def _rows(found: Forecast) -> str:
    count = "1 checkpoint" if found.measurements == 1 else f"{found.measurements} checkpoints"
    known = [
        f"{number} {what}"
        for number, what in (
            (found.kept, "finished before"),
            (found.joined, "joined to other rows"),
            (found.rejected, "that cannot be read"),
        )
        if number
    ]
    more = found.measurements - (found.rows - found.kept - found.joined - found.rejected)
    known += ["1 of the shard before"] * (more > 0)
    return f"{count}{'; ' if known else ''}{', '.join(known)}"


def _memory(found: Forecast) -> str:
    when = f", while {found.peak_in} are found" if found.peak_in else " at least"
    each = f"{found.processes} processes of " if found.processes > 1 else ""
    return (
        f"{each}{found.peak_bytes / _MIB:,.0f} MiB at most{when}; {found.available} is "
        f"{found.available_bytes / _MIB:,.0f} MiB"
    )


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
