"""Where runs differ from each other, in plain words."""

from collections.abc import Mapping, Sequence

from fisher_cli.reports.numbers import number_text, number_texts, unbroken
from fisher_cli.results import Measurement
from fisher_cli.tables.run_differences import LEVEL, RunDifference, compare_runs
from fisher_cli.tables.trajectory import networks, trajectory_of
from fisher_cli.text import one_line

# So many pairs get a sentence of their own.
_MOST_PAIRS = 6


def run_sentences(runs: Mapping[str, Sequence[Measurement]]) -> list[str]:
    """What differs between runs that were measured on the same examples, and how that was found out.

    Args:
        runs: the rows of each run by its name, in order of training.

    Returns:
        A sentence for each pair, or one for all of many pairs, then what the numbers are; none for a single run.
    """
    if len(runs) < 2:
        return []
    found = compare_runs(runs)
    pairs: dict[tuple[str, str], list[RunDifference]] = {}
    for each in found:
        pairs.setdefault((each.run_a, each.run_b), []).append(each)
    said = [_pair(rows) for rows in pairs.values()] if len(pairs) <= _MOST_PAIRS else [_pairs(pairs)]
    if found:
        paired = sum(each.pairing == "paired" for each in found)
        how = "paired by example" if paired == len(found) else "taken as those of different examples"
        if 0 < paired < len(found):
            how = f"paired by example in {paired} of {len(found)} comparisons, and else taken as of different examples"
        said.append(
            f"Errors of these differences are {how}; clear means p < {LEVEL:g} after Holm's correction for all "
            f"{len(found)} comparisons."
        )
    return [*said, *_not_compared(runs, found)]


def _pair(rows: Sequence[RunDifference]) -> str:
    """What differs between two runs."""
    a, b = one_line(rows[0].run_a), one_line(rows[0].run_b)
    places = [_place(each) for each in rows if each.at != "step"]
    steps = [each for each in rows if each.at == "step"]
    if steps:
        clear = [each for each in steps if each.is_clear]
        above = sum(each.difference.value > 0 for each in clear)
        how = ""
        if clear:
            larger = a if above == len(clear) else b if above == 0 else ""
            how = f", always larger in {larger}" if larger else f", larger in {a} at {above} and in {b} at the others"
        total = f"{len(clear)} of {len(steps)} equal steps" if len(steps) > 1 else "the only equal step"
        is_none = len(steps) == 1 and not clear
        places.append(f"{'does not differ' if is_none else 'differs'} clearly at {total}{how}")
    return f"{a} against {b}: the true trace {'; '.join(places)}."


def _place(each: RunDifference) -> str:
    """The comparison at the peaks or at the ends."""
    where = "at its peak" if each.at == "peak" else "at the end"
    one, other = (
        unbroken(text)
        for text in number_texts(
            [each.trace_a.value, each.trace_b.value], [each.trace_a.standard_error, each.trace_b.standard_error]
        )
    )
    difference = unbroken(number_text(each.difference.value, each.difference.standard_error))
    if each.p_holm is None:
        return f"is {one} against {other} {where}, without a known error of the difference"
    if not each.is_clear:
        return f"does not differ clearly {where} ({one} against {other}, p = {each.p_holm:.2g})"
    how = "larger" if each.difference.value > 0 else "smaller"
    p = "p < 0.001" if each.p_holm < 0.001 else f"p = {each.p_holm:.2g}"
    return f"is {how} {where} ({one} against {other}, difference {difference}, {p})"


def _pairs(pairs: Mapping[tuple[str, str], Sequence[RunDifference]]) -> str:
    """How many of many pairs differ."""
    clear = {
        at: sum(any(each.at == at and each.is_clear for each in rows) for rows in pairs.values())
        for at in ("peak", "end")
    }
    return (
        f"Of {len(pairs)} pairs of runs {clear['peak']} differ clearly in the true trace at their peaks and "
        f"{clear['end']} at their ends; the table of runs has every comparison."
    )


def _not_compared(runs: Mapping[str, Sequence[Measurement]], found: Sequence[RunDifference]) -> list[str]:
    """Which runs are compared with no other, and why."""
    compared = {name for each in found for name in (each.run_a, each.run_b)}
    alone = [name for name, rows in runs.items() if name not in compared and trajectory_of(rows) is not None]
    if not alone:
        return []
    named = [f"{one_line(name)} ({', '.join(map(one_line, networks(runs[name])))})" for name in alone[:4]]
    more = f" and {len(alone) - 4} more" if len(alone) > 4 else ""
    what = "runs are each of a network of their own" if len(alone) > 1 else "run is of another network"
    return [f"Not compared, since the {what}: {', '.join(named)}{more}."]
