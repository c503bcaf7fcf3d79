"""Mutated records, journals and tables through the commands that read them: no crash, no file of others changed."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.long_lists import some
from tests.report_mutation import COMMANDS

# Cases in all, and of each test.
CASES, AT_ONCE = 5000, 10


@pytest.mark.parametrize("first", some(range(0, CASES, AT_ONCE), part=0.01))
def test_no_mutated_report_ends_a_command_otherwise_than_in_one_line(
    first: int, record_property: Callable[[str, object], None]
) -> None:
    """Through `check`, `merge`, `report`, `plot` and a run that is resumed.

    In a process of its own: the address space of cases is limited, and that of a test's process is large already.
    """
    words = [sys.executable, "-m", "tests.report_mutation", str(first), str(AT_ONCE)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *odd, last = done.stdout.splitlines()
    record_property("outcomes", last)
    assert not odd
    outcomes = Counter(json.loads(last))
    assert sum(outcomes.values()) == AT_ONCE
    assert {re.sub(r" \d$", "", outcome) for outcome in outcomes} <= set(COMMANDS)
