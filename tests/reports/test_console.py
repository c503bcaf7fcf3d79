"""What people see: whole numbers at every width, true sentences, and no character that harms a terminal."""

import io
import math
import os
import pty
import re
import select

import pytest
from rich.cells import cell_len

from fisher_cli.errors import OutputError, UsageError
from fisher_cli.reports.console import Console
from fisher_cli.reports.layout import shorten
from fisher_cli.reports.numbers import bar, number_text, number_texts, sparkline
from fisher_cli.results import (
    Measurement,
    Status,
)
from tests.rendering import checkpoint, rendered

HOSTILE = "run/[/]a[link=x]b\x1b[31m\x9b2J\udc80\u202e\r\nok.pt"


BELL = [checkpoint(i) for i in range(14)]
MIXED = [
    *BELL[:3],
    Measurement(checkpoint=HOSTILE, status=Status.REJECTED, error=f"{HOSTILE}: the zip file has no end"),
    checkpoint(4, status=Status.NOT_CONVERGED, error="eigenvalue 3: residual 0.4 above 0.001"),
    Measurement(checkpoint="z.pt", status=Status.FAILED, error="layer1.weight holds NaN"),
    checkpoint(7, true=math.nan),
    checkpoint(8, notes=("the first note",)),
    checkpoint(9, notes=("the first note", "the [b]second[/b] note"), checkpoint="x" * 300 + "_step9.ckpt"),
]


class Stream(io.TextIOWrapper):
    """A text stream whose bytes can be looked at; a terminal if wanted."""

    def __init__(self, terminal: bool = False, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def seen(self) -> bytes:
        self.flush()
        return self.buffer.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 240])
@pytest.mark.parametrize("rows", [BELL, MIXED, BELL[:1], MIXED[3:4]], ids=["bell", "mixed", "one", "none"])
def test_no_line_is_longer_than_the_width_and_numbers_are_whole(rows: list[Measurement], width: int) -> None:
    lines = rendered(rows, width)
    assert max(map(cell_len, lines)) <= width
    traces = [row.trace.true for row in rows if row.trace]
    for text in number_texts([each.value for each in traces], [each.standard_error for each in traces]):
        assert not text or any(re.search(rf"(?<!\S){re.escape(text.strip())}(?!\S)", line) for line in lines)


def test_at_a_hundred_columns_all_that_matters_is_there() -> None:
    title, _, heading, *_ = rendered(BELL, 100)
    assert title == "Fisher information · digits · mlp-64-32-10 · 1,000 examples · exact true trace"
    assert heading.split()[:6] == ["checkpoint", "step", "loss", "acc", "tr", "F"]
    assert "F̂/F" in heading
    assert "λ₁" in heading
    assert not any("No room" in line for line in rendered(BELL, 100))


def test_the_bars_show_the_bell() -> None:
    bars = [line.rstrip().rpartition(" ")[2] for line in rendered(BELL, 100)[4:18]]
    assert all(re.fullmatch("█*[▏▎▍▌▋▊▉]?", text) for text in bars)
    lengths = [len(text) for text in bars]
    assert lengths.index(max(lengths)) == 6
    assert lengths[:7] == sorted(lengths[:7])
    assert lengths[6:11] == sorted(lengths[6:11], reverse=True)
    assert min(lengths) >= 1


def test_narrow_tables_say_what_they_leave_out() -> None:
    text = " ".join(rendered(MIXED, 60))
    assert re.search(r"No room here for .*loss.*λ₁.*: widen the terminal, or write all columns with -o FILE", text)


def test_wide_tables_show_more() -> None:
    wide, narrow = "\n".join(rendered(BELL, 170)), "\n".join(rendered(BELL, 100))
    for heading in ("residual", "SNR", "entropy", "largest layer", "head.weight 60%"):
        assert heading in wide
        assert heading not in narrow


def test_problems_and_notes_are_listed() -> None:
    text = "\n".join(rendered(MIXED, 160))
    assert "not-converged: step_00220.pt: eigenvalue 3: residual 0.4 above 0.001" in text
    assert "failed: z.pt: layer1.weight holds NaN" in text
    assert text.count("the first note") == 1
    assert "note: 2 checkpoints: the first note" in text
    assert "the [b]second[/b] note" in text
    assert "nan" not in text


def test_hostile_names_are_shown_and_do_nothing() -> None:
    stream = Stream()
    console = Console(stdout=stream, stderr=stream, width=160)
    console.summary(MIXED, data=HOSTILE)
    console.error(f"{HOSTILE}: bad")
    console.message(f"[bold]{HOSTILE}")
    with console.progress(len(MIXED)) as progress:
        for row in MIXED:
            progress.start(row.checkpoint)
            progress.stage(HOSTILE, 0.5)
            progress.finish(row)
    text = stream.seen.decode()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert r"run/[/]a[link=x]b\x1b[31m\x9b2J\udc80\u202e ok.pt" in text
    assert "[bold]run/[/]a" in text


def test_numbers_have_enough_digits_and_no_more() -> None:
    assert number_texts([77.31, 6.02, None], [1.12, 0.21, None]) == ["77.3 ± 1.1", " 6.0 ± 0.2", ""]
    assert number_text(77.3012, 0.008) == "77.30 ± 0.01"
    assert number_text(1234.5, 20.2) == "1234 ± 20"
    assert number_text(0.00213, 0.0001) == "0.00213 ± 0.00010"
    assert number_text(2.134e-9, 1e-10) == "2.13e-09 ± 1.00e-10"
    assert number_text(1.5e12) == "1.50e+12"
    assert number_text(77.3, 0.0) == "77.3 ± 0.0"
    assert number_text(0.0, 0.0) == "0.0 ± 0.0"
    assert number_texts([math.nan, math.inf, -0.5]) == ["", "", "-0.500"]
    spread = number_texts([3021.0, 0.00213], [40.0, 0.0001])
    assert spread == ["3021       ± 40      ", "   0.00213 ±  0.00010"]


def test_no_number_loses_its_meaning() -> None:
    for exponent in range(-30, 30):
        for mantissa in (1.0, 1.499, 9.9996):
            value = mantissa * 10.0**exponent
            for error in (None, 0.0, value * 1e-6, value / 50, value * 3):
                text = number_text(value, error)
                first, _, second = text.partition(" ± ")
                assert float(first) == pytest.approx(value, rel=0.01)
                if error:
                    assert float(second) == pytest.approx(error, rel=0.51)


def test_bars_and_sparklines() -> None:
    assert bar(1.0, 8) == "█" * 8
    assert bar(0.5, 8) == "████"
    assert bar(1e-9, 8) == "▏"
    assert bar(0.0, 8) == ""
    assert sparkline([0.0, 0.5, 1.0, None, math.nan], 80) == "▁▅█··"
    assert sparkline([0.0, 0.0], 80) == "▁▁"
    many = sparkline([float(i == 777) for i in range(1000)], 50)
    assert len(many) == 50
    assert many.count("█") == 1
    assert sparkline([], 10) == ""


def test_long_names_keep_their_ends() -> None:
    assert shorten("step_1.pt", 24) == "step_1.pt"
    short = shorten("experiments/run/checkpoint_epoch=12.ckpt", 24)
    assert cell_len(short) == 24
    assert short.endswith("epoch=12.ckpt")
    assert cell_len(shorten("漢字" * 40, 24)) <= 24


def test_results_go_to_stdout_and_all_else_to_stderr() -> None:
    out, err = Stream(), Stream()
    console = Console(stdout=out, stderr=err)
    console.write("rows é\n")
    console.write(b"\x00\xff")
    console.message("hello")
    console.error("one\ntwo " + "long " * 100)
    assert out.seen == "rows é\n".encode() + b"\x00\xff"
    first, second = err.seen.decode().splitlines()
    assert first == "hello"
    assert second.startswith("error: one two long long")


def test_quiet_leaves_only_errors() -> None:
    err = Stream()
    console = Console(quiet=True, stdout=Stream(), stderr=err)
    console.message("hello")
    with console.progress(1) as progress:
        progress.start("a.pt")
        progress.finish(MIXED[3])
    console.error("bad")
    assert err.seen == b"error: bad\n"


def test_binary_is_not_sent_to_a_terminal() -> None:
    console = Console(stdout=Stream(terminal=True), stderr=Stream())
    with pytest.raises(UsageError, match="-o FILE"):
        console.write(b"PAR1")


def test_an_ascii_terminal_gets_a_table_too() -> None:
    out = Stream(terminal=True, encoding="ascii")
    Console(stdout=out, stderr=Stream(), width=80).summary(BELL)
    assert b"77.3" not in out.seen
    assert b"82.2" in out.seen


def test_colour_only_on_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)

    def colours(terminal: bool) -> bool:
        out = Stream(terminal)
        Console(stdout=out, stderr=Stream(), width=100).summary(MIXED)
        return b"\x1b" in out.seen

    monkeypatch.setenv("TERM", "xterm-256color")
    assert colours(terminal=True)
    assert not colours(terminal=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours(terminal=True)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not colours(terminal=True)


def test_full_and_closed_streams() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        console = Console(stdout=full, stderr=full)
        with pytest.raises(OutputError, match="No space left"):
            console.write("row\n" * 10_000)
        console.message("nobody hears this")
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, full.fileno())  # or closing it would fail once more
        os.close(sink)
    closed = Stream()
    closed.close()
    console = Console(stdout=closed, stderr=closed)
    console.error("nobody hears this")
    with pytest.raises(OutputError, match="closed"):
        console.write("row")


def test_streams_that_the_parent_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    console = Console()
    console.error("nobody hears this")
    with console.progress(1) as progress:
        progress.start("a")
        progress.finish(BELL[0])
    with pytest.raises(OutputError, match="-o FILE"):
        console.summary(BELL)


def test_a_closed_pipe_is_left_to_the_caller() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    pipe = os.fdopen(writer, "w")
    console = Console(stdout=pipe, stderr=pipe)
    with pytest.raises(BrokenPipeError):
        console.write("row\n")
    with pytest.raises(BrokenPipeError):
        console.summary(BELL)
    console.error("nobody hears this")
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, writer)
    os.close(sink)
    pipe.close()


def test_a_log_has_few_lines_but_every_problem() -> None:
    err, now = Stream(), [0.0]
    console = Console(stdout=Stream(), stderr=err)
    with console.progress(1000, clock=lambda: now[0]) as progress:
        for i in range(1000):
            progress.start(f"{i}.pt")
            progress.stage("trace", 0.5)
            now[0] += 0.1
            progress.finish(MIXED[5] if i == 17 else checkpoint(5, checkpoint=f"{i}.pt"))
    lines = err.seen.decode().splitlines()
    assert 10 <= len(lines) <= 12
    assert "18/1000 z.pt: failed: layer1.weight holds NaN" in lines
    assert lines[-1] == "1000/1000 999.pt: true trace 72.8 ± 1.1"


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        console = Console(stdout=terminal, stderr=terminal, width=100)
        with console.progress(3) as progress:
            progress.start("first_[/]_\x1b.pt")
            progress.stage("eigenvalues", 0.5)
            console.write("row one\n")
            progress.finish(checkpoint(0, timings=(("traces", 1.0),)))
            console.message("said meanwhile")
            progress.finish(MIXED[5])
        console.write("afterwards\n")
        seen = b""
        while select.select([ours], [], [], 0.2)[0]:
            seen += os.read(ours, 65536)
    os.close(ours)
    text = seen.decode()
    for part in (
        "0/3",
        "2/3",
        r"first_[/]_\x1b.pt",
        "eigenvalues",
        "row one",
        "said meanwhile",
        "z.pt: failed",
        "left",
    ):
        assert part in text
    assert text.rstrip().endswith("afterwards")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")


def test_no_bar_in_a_pipe_even_if_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    err = Stream()
    with Console(stdout=Stream(), stderr=err).progress(2) as progress:
        progress.start("a.pt")
        progress.finish(BELL[0])
    assert err.seen == b""


def test_a_smaller_batch_for_want_of_memory_is_said_at_once() -> None:
    err = Stream()
    console = Console(stdout=Stream(), stderr=err)
    with console.progress(3) as progress:
        progress.finish(checkpoint(0))
        progress.finish(checkpoint(1, batch_size=16, memory_ran_out_at=64))
        progress.finish(checkpoint(2, batch_size=16))
    said = err.seen.decode().splitlines()
    assert said[0] == "2/3 step_00022.pt: memory ran out at 64 examples at once: 16 from here on"
    assert len(said) == 2


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_time_left_is_whole_where_the_stage_is_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    now, err = [0.0], Stream(terminal=True)
    with Console(stdout=Stream(), stderr=err, width=width).progress(10, clock=lambda: now[0]) as progress:
        progress.start("step_1.pt")
        now[0] += 700
        progress.finish(checkpoint(0, timings=(("traces", 1.0),)))
        progress.start("step_2.pt")
        progress.stage("empirical Fisher: 142 products, residual 320 × tolerance", 0.6)
    last = [line for line in re.split(r"[\r\n]", err.seen.decode()) if "step_2" in line][-1]
    assert "105 min left" in last
    assert "empir" in last
    assert ("320 × tolerance" in last) == (width >= 120)
