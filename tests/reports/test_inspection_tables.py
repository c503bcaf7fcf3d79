"""The tables of `fisher inspect` at every width: what files are, and how parameters are covered."""

import pytest
from rich.cells import cell_len

from fisher_cli.reports.inspection import coverage_text, render_coverage, render_inspections
from fisher_cli.results import Check, Coverage, Inspection, Ledger, Measurement, Status, WeightsKind
from tests.rendering import lines_of

HOSTILE = "run/[/]a[link=x]b\x1b[31m\x9b2J\udc80\u202e\r\nok.pt"


def inspection(name: str, **changes: object) -> Inspection:
    values: dict[str, object] = {
        "status": Status.OK,
        "sha256": "sha256:0",
        "step": 3,
        "epoch": 0.5,
        "format": "torch zip",
        "integrity": "checksums hold",
        "weights_key": "state_dict",
        "weights": WeightsKind.RAW,
        "tensors": 62,
        "architecture": "resnet18",
        "architecture_source": "the file",
        "parameters": 11_181_642,
    }
    return Inspection(checkpoint=name, **(values | changes))  # type: ignore[arg-type]


ALIKE = [inspection(f"step_{i:05d}.pt", step=i) for i in range(3)]
MIXED = [
    *ALIKE,
    inspection("c.safetensors", format="safetensors", integrity="no checksums", weights_key="(root)", parameters=7),
    Inspection(checkpoint=HOSTILE, status=Status.REJECTED, error=f"{HOSTILE}: the zip file has no end"),
    inspection("x" * 200 + ".pt", notes=("left out, being no tensors: [b]x[/b]",), architecture="net.py:make_net"),
]
ENTRIES = (
    Coverage("layer1.0.conv1.weight", 36_864, "convolution", 0.25),
    Coverage("head.[/]\x1b[31mbias", 10, "linear", 0.0),
    Coverage("a" * 120, 7, "embedding + linear ×2", 0.125),
    Coverage("slope", 1, "per-example", 0.125),
    Coverage("spare", 3, "unused", 0.0),
)


def covered(ledger: Ledger, check: Check | None) -> Measurement:
    return Measurement(
        checkpoint=HOSTILE, status=Status.OK, architecture="resnet18", examples=8, ledger=ledger, check=check
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 240])
@pytest.mark.parametrize("given", [ALIKE, MIXED, MIXED[4:5], MIXED[3:4]], ids=["alike", "mixed", "bad", "one"])
def test_no_line_is_longer_than_the_width_and_nothing_goes_unsaid(given: list[Inspection], width: int) -> None:
    lines = lines_of(render_inspections(given, width), width)
    text = " ".join(" ".join(lines).split())
    assert max(map(cell_len, lines)) <= width
    assert "\x1b" not in text
    for row in given:
        if row.status is Status.OK:
            for fact, heading in ((row.parameters, "parameters"), (row.format, "container"), (row.step, "step")):
                shown = f"{fact:,}" if isinstance(fact, int) else str(fact)
                assert shown in text or ("No room here for" in text and heading in text), shown


def test_what_all_files_have_in_common_is_said_once_where_room_is_short() -> None:
    wide, narrow = lines_of(render_inspections(ALIKE, 160), 160), lines_of(render_inspections(ALIKE, 60), 60)
    assert wide[0] == "3 checkpoints"
    assert sum("torch zip" in line for line in wide) == 3
    text = " ".join(" ".join(narrow).split())
    assert text.count("torch zip") == 1
    assert "62 tensors" in text
    assert "weights under state_dict" in text
    assert "No room" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
@pytest.mark.parametrize("counted", [True, False])
def test_the_coverage_fits_every_width_and_is_whole(width: int, counted: bool) -> None:
    entries = ENTRIES if counted else tuple(Coverage(e.name, e.values, e.method, None) for e in ENTRIES)
    ledger = Ledger(entries, 10, 0.5 if counted else None)
    lines = lines_of(render_coverage(covered(ledger, Check(2, 4, 3e-7, 1e-3, "float32")), "digits train", width), width)
    text = " ".join(" ".join(lines).split())
    assert "\x1b" not in text
    if width >= 60:
        assert max(map(cell_len, lines)) <= width
    assert "36,885" in text
    assert ("100.0 %" in text) is counted
    assert ("50.0 %" in text) is counted
    assert "per-example: no rule covers these" in text
    assert "unused: the outputs do not depend on these" in text
    assert "largest relative difference 3.0e-07 (float32; more than 0.001 would fail)" in text


def test_a_coverage_in_one_line() -> None:
    assert coverage_text(Ledger(ENTRIES, 10, 0.5)) == (
        "5 tensors with 36,885 values: 1 by convolution, 1 by linear, 1 by embedding + linear ×2, 1 by per-example, "
        "1 by unused"
    )
    assert lines_of(render_coverage(covered(Ledger(ENTRIES, 1, 0.5), None), "", 80), 80)[-1] == (
        "The run-time check was left out."
    )
