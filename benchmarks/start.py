"""How soon a command answers: processor time to its first line, and from its last line to its end.

    python -m benchmarks.start [--write]

Beside `python -c "import torch"`, which nothing that computes can undercut. Processor time of the process, user and
system, is less disturbed by other work on the machine than wall time; medians of several starts. `--write` puts the
table into benchmarks/START.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "sample_checkpoints" / "digits-clean"
REPORT = Path(__file__).with_name("START.md")
STARTS = 7
TICKS = os.sysconf("SC_CLK_TCK")
HEAD = """\
# How soon a command answers

`python -m benchmarks.start --write` makes this table. The goals: the first line of `fisher analyze` on a sample within
1.3 times `python -c "import torch"`, and the prompt within 0.3 s after the last line. Time is that of the processor, of
the process alone and with one thread, since wall time says more about the other work of a machine.

"""
COMMANDS = {
    "fisher --help": ["--help"],
    "fisher models": ["models"],
    "fisher inspect": ["inspect", str(SAMPLE / "step_00066.pt")],
    "fisher analyze, one checkpoint": ["analyze", str(SAMPLE / "step_00066.pt")],
    "fisher analyze -o, the sample run": ["analyze", str(SAMPLE), "-o", "trend.csv"],
}


@dataclass(frozen=True)
class Start:
    """Seconds of the processor: to the first line, to the last, and to the end of the process."""

    first: float
    last: float
    end: float


def processor_seconds(process: int) -> float:
    """What a living process has taken so far, in ticks of a hundredth as a rule."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def started(words: list[str], folder: Path) -> Start:
    """Start a command of Python and see when it speaks, on either stream.

    Args:
        words: for the interpreter.
        folder: where it runs.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    ours, theirs = os.pipe()
    with subprocess.Popen([sys.executable, *words], stdout=theirs, stderr=theirs, cwd=folder, env=environment) as child:
        os.close(theirs)
        spoken = []
        while os.read(ours, 2**16):
            spoken.append(processor_seconds(child.pid))
        os.close(ours)
        usage = os.wait4(child.pid, 0)[2]
        child.returncode = 0
    total = usage.ru_utime + usage.ru_stime
    return Start(*(spoken[0], spoken[-1]) if spoken else (total, total), total)


def median_of(words: list[str], count: int) -> Start:
    """The medians of several starts; each is in a folder of its own."""
    found = []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            found.append(started(words, Path(folder)))
    return Start(*(statistics.median(getattr(each, name) for each in found) for name in ("first", "last", "end")))


def report(count: int) -> str:
    """The table, in Markdown."""
    torch = median_of(["-c", "import torch"], count).end
    lines = [
        f'`python -c "import torch"` takes {torch:.2f} s. Seconds of the processor, medians of {count} starts.',
        "",
        "| command | to the first line | in imports of torch | from the last line to the end |",
        "|---|---:|---:|---:|",
    ]
    for name, words in COMMANDS.items():
        found = median_of(["-m", "fisher_cli", *words], count)
        after = found.end - found.last
        lines.append(f"| `{name}` | {found.first:.2f} | {found.first / torch:.2f} | {after:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/START.md")
    parser.add_argument("--starts", type=int, default=STARTS)
    asked = parser.parse_args()
    text = report(asked.starts)
    print(text)
    if asked.write:
        REPORT.write_text(HEAD + text)


if __name__ == "__main__":
    main()
