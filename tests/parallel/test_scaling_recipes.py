"""The recipes of docs/scaling.md, run as they stand there: bash is real, and so is every `fisher` that it calls."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.shard_runs import assert_equal_reports, run

pytestmark = pytest.mark.usefixtures("ckpts")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
# Instead of `fisher`: it keeps its words, so that they can be run in this process.
STUB = '#!/bin/bash\nprintf "%s\\0" "$@" > "call-$(ls call-* 2>/dev/null | wc -l)"\n'
WHOLE = ("analyze", "ckpts", "--model", "./net.py:make", "--limit", "64")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


def in_bash(script: str, *, expect: int, **environment: str) -> list[list[str]]:
    """The words of each `fisher` that the script calls, in order."""
    Path("bin").mkdir(exist_ok=True)
    Path("bin/fisher").write_text(STUB)
    Path("bin/fisher").chmod(0o755)
    path = f"{Path('bin').resolve()}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": path, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    calls = sorted(Path().glob("call-*"), key=lambda call: int(call.name[5:]))[-expect:]
    return [call.read_text().split("\0")[:-1] for call in calls]


def test_the_slurm_array_makes_the_report_of_the_whole_run() -> None:
    (script,) = blocks("bash")
    assert script.startswith("#!/bin/bash\n#SBATCH")
    for task in (1, 2):
        variables = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_CPUS_PER_TASK": "1"}
        (words,) = in_bash(script, expect=1, **variables)
        run(*words)
    (merge,) = [line[2:] for block in blocks("text") for line in block.splitlines() if "parts/part-*" in line]
    (words,) = in_bash(merge, expect=1)
    assert "parts/part-1.layers.csv" in words
    run(*words)
    run(*WHOLE, "--eigenvalues", "2", "-o", "whole.csv")
    assert_equal_reports("trend.csv", "whole.csv", "", ".layers")


def test_the_kubernetes_job_asks_for_every_shard_once() -> None:
    (job,) = blocks("yaml")
    script = "\n".join(line[14:] for line in job.split("            - |\n")[1].splitlines())
    shards = []
    for index in range(4):
        (words,) = in_bash(f"set -eu\n{script}", expect=1, JOB_COMPLETION_INDEX=str(index))
        shards.append((words[words.index("--shard") + 1], words[words.index("-o") + 1]))
    assert shards == [(f"{shard}/4", f"parts/part-{shard}.csv") for shard in (1, 2, 3, 4)]
    assert "completions: 4\n" in job
    run(*words)  # the last one, as it was asked for
