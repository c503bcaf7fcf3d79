"""Lists of cases: a part of them in each of the three lengths of the tests, the same one every time.

`make test` takes minutes, `make test-ci` about twice as long and leaves out the long lists alone, which
`make test-long` has in full.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import pytest

# A test of at most so many cases runs with all of them.
FEW = 3


def some(
    cases: Iterable[Any], *, part: float = 0.1, seed: int = 0, always: Callable[[Any], bool] = lambda _: False
) -> list[Any]:
    """All cases as parameters of a test; those that are not among the drawn ones are marked `long`.

    Args:
        cases: values of one parameter, or tuples of values of several.
        part: share of the cases that are drawn, at least one.
        seed: of the draw.
        always: whether a case is among them in any case.

    Returns:
        What `pytest.mark.parametrize` takes.
    """
    cases = list(cases)
    drawn = set(draw(range(len(cases)), part, seed))
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if is_short else pytest.mark.long)
        for case, is_short in ((case, place in drawn or always(case)) for place, case in enumerate(cases))
    ]


def leave_to_ci(items: Iterable[pytest.Item]) -> None:
    """Mark four fifths of the cases of each test of many as `ci`: `make test` leaves them out.

    Which fifth remains is drawn by the name of the test, so that the tests of a module differ in it. Tests in the
    uppermost folder keep their cases: these are the project's own files, and each edit concerns one.
    """
    cases = defaultdict(list)
    for item in items:
        if item.path.parent != Path(__file__).parent and item.get_closest_marker("long") is None:
            cases[item.nodeid.partition("[")[0]].append(item)
    for name, those in cases.items():
        if len(those) > FEW:
            kept = set(draw(range(len(those)), 0.2, name))
            for place, item in enumerate(those):
                if place not in kept:
                    item.add_marker(pytest.mark.ci)


def draw(cases: Sequence[Any], part: float = 0.1, seed: int | str = 0) -> list[Any]:
    """This share of the cases, at least one, in their order."""
    chosen = random.Random(seed).sample(range(len(cases)), ceil(part * len(cases)))
    return [cases[place] for place in sorted(chosen)]
