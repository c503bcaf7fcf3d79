"""Long lists of cases: a part of them by default, the same one every time; all others with `make test-long`."""

import random
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import Any

import pytest


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


def draw(cases: Sequence[Any], part: float = 0.1, seed: int = 0) -> list[Any]:
    """This share of the cases, at least one, in their order."""
    chosen = random.Random(seed).sample(range(len(cases)), ceil(part * len(cases)))
    return [cases[place] for place in sorted(chosen)]
