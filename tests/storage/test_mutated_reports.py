"""Mutated records, journals and tables through the commands that read them: no crash, no file of others changed."""

import re
from collections import Counter
from collections.abc import Callable

import pytest

from tests.long_lists import some
from tests.report_mutation import COMMANDS, run

# Cases in all, and of each test.
CASES, AT_ONCE = 5000, 50


@pytest.mark.parametrize("first", some(range(0, CASES, AT_ONCE)))
def test_no_mutated_report_ends_a_command_otherwise_than_in_one_line(
    first: int, record_property: Callable[[str, object], None]
) -> None:
    """Through `check`, `merge`, `report`, `plot` and a run that is resumed."""
    found = run(first, AT_ONCE)
    outcomes = Counter(found["outcomes"])
    record_property("outcomes", found["outcomes"])
    assert not found["odd"]
    assert sum(outcomes.values()) == AT_ONCE
    assert {re.sub(r" \d$", "", outcome) for outcome in outcomes} <= set(COMMANDS)
