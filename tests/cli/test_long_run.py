"""What is said of a run while it goes on: how far it is, how long it will take, and what would make it shorter."""

import io
import math

import pytest

from fisher_cli.cli.long_run import long_run
from fisher_cli.cli.run_command import FirstRow
from fisher_cli.reports.console import Console, Progress
from fisher_cli.results import Measurement, Status
from fisher_cli.settings import Settings, SpectrumSettings
from tests.command import fisher
from tests.rendering import checkpoint
from tests.small_run import QUICK, write_checkpoints

# Of 100 s eigenvalues take 80 %, and 10 % do not depend on the examples.
TIMINGS = (("load", 10.0), ("traces", 10.0), ("eigenvalues_true", 60.0), ("eigenvalues_empirical", 20.0))
MINUTE = 60.0


def measured(**changes: object) -> Measurement:
    return checkpoint(0, **({"timings": TIMINGS, "examples": 1000} | changes))


def test_a_long_run_is_told_with_what_fewer_eigenvalues_and_examples_would_save() -> None:
    said = long_run(measured(), Settings(), 40 * MINUTE, 50 * MINUTE)
    assert said == (
        "about 40 min left, 80 % of it for eigenvalues; "
        "a new run would take about 10 min with --eigenvalues 0, about 28 min with --limit 500"
    )


def test_the_numbers_follow_the_measured_shares() -> None:
    timings = (("traces", 30.0), ("eigenvalues_true", 10.0))
    said = long_run(measured(timings=timings, examples=300), Settings(), 100 * MINUTE, 100 * MINUTE)
    assert said == (
        "about 100 min left, 25 % of it for eigenvalues; "
        "a new run would take about 75 min with --eigenvalues 0, about 50 min with --limit 150"
    )


def test_an_option_that_saves_nothing_or_is_not_to_be_had_is_not_named() -> None:
    no_eigenvalues = measured(timings=(("traces", 100.0),))
    assert long_run(no_eigenvalues, Settings(), 40 * MINUTE, 40 * MINUTE) == (
        "about 40 min left; a new run would take about 20 min with --limit 500"
    )
    whole_spectrum = long_run(measured(), Settings(spectrum=SpectrumSettings()), 40 * MINUTE, 40 * MINUTE)
    assert whole_spectrum is not None
    assert "--eigenvalues" not in whole_spectrum
    assert "about 22 min with --limit 500" in whole_spectrum
    late = long_run(measured(), Settings(), 10 * MINUTE, 100 * MINUTE)  # a new run begins from the first checkpoint
    assert late == "about 10 min left, 80 % of it for eigenvalues"


def test_a_short_run_is_not_told() -> None:
    assert long_run(measured(), Settings(), 299.0, 3000.0) is None
    assert long_run(measured(), Settings(), 300.0, 3000.0) is not None
    assert long_run(measured(timings=()), Settings(), 3000.0, 3000.0) is None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def passed(progress: Progress, clock: Clock, seconds: float, row: Measurement) -> None:
    progress.start(row.checkpoint)
    clock.now += seconds
    progress.finish(row)


def test_the_time_left_is_the_mean_of_what_was_measured() -> None:
    clock = Clock()
    with Console(stdout=io.StringIO(), stderr=io.StringIO()).progress(10, clock=clock) as progress:
        progress.start("a.pt")
        clock.now += 5
        progress.stage("traces", 0.9)
        assert progress.foreseen() is None  # nothing is finished
        progress.finish(measured())
        assert progress.foreseen() == (45.0, 50.0)
        passed(progress, clock, 15.0, measured())
        assert progress.foreseen() == (80.0, 100.0)
        progress.start("c.pt")
        clock.now += 4
        assert progress.foreseen() == (76.0, 100.0)
        clock.now += 100  # longer than the others: the seven after it still take their time
        assert progress.foreseen() == (70.0, 100.0)


def test_what_was_not_measured_now_estimates_nothing() -> None:
    clock = Clock()
    with Console(stdout=io.StringIO(), stderr=io.StringIO()).progress(10, clock=clock) as progress:
        progress.finish(measured())  # known from before
        passed(progress, clock, 1.0, Measurement(checkpoint="b.pt", status=Status.REJECTED, error="no numbers"))
        assert progress.foreseen() is None
        passed(progress, clock, 20.0, measured())
        assert progress.foreseen() == (140.0, 200.0)
    with Console(stdout=io.StringIO(), stderr=io.StringIO()).progress(None, clock=clock) as progress:
        passed(progress, clock, 20.0, measured())
        assert progress.foreseen() is None  # nobody knows how many will come


def test_checkpoints_side_by_side_are_estimated_when_each_process_has_finished_one() -> None:
    clock = Clock()
    with Console(stdout=io.StringIO(), stderr=io.StringIO()).progress(8, clock=clock, at_once=2) as progress:
        passed(progress, clock, 30.0, measured())
        assert progress.foreseen() is None
        passed(progress, clock, 0.0, measured())
        assert progress.foreseen() == (90.0, 120.0)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("quiet", [False, True])
def test_a_command_tells_it_once_at_every_width_unless_quiet(width: int, quiet: bool) -> None:
    clock, err = Clock(), io.StringIO()
    console = Console(quiet=quiet, stdout=io.StringIO(), stderr=err, width=width)
    first = FirstRow(console, ranks=1)
    with console.progress(5, clock=clock) as progress:
        for _ in range(5):
            passed(progress, clock, 20 * MINUTE, measured())
            first.say_time(measured(), Settings(), progress)
    told = [line for line in err.getvalue().splitlines() if "left" in line]
    expected = (
        "about 80 min left, 80 % of it for eigenvalues; "
        "a new run would take about 20 min with --eigenvalues 0, about 55 min with --limit 500"
    )
    assert told == ([] if quiet else [expected])


def test_a_run_whose_first_measurements_are_short_is_not_told_later() -> None:
    clock, err = Clock(), io.StringIO()
    console = Console(stdout=io.StringIO(), stderr=err)
    first = FirstRow(console, ranks=1)
    with console.progress(5, clock=clock) as progress:
        for seconds in (1.0, 20 * MINUTE):
            passed(progress, clock, seconds, measured())
            first.say_time(measured(), Settings(), progress)
    assert "left" not in err.getvalue()


@pytest.mark.usefixtures("workdir")
def test_the_progress_of_a_command_moves_during_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    stages, begun = list[tuple[str, float]](), list[str]()
    monkeypatch.setattr(Progress, "stage", lambda _self, text, fraction: stages.append((text, fraction)))
    start = Progress.start
    monkeypatch.setattr(Progress, "start", lambda self, name: (begun.append(name), start(self, name))[1])
    monkeypatch.setattr("fisher_cli.curvature.spectra.eigensystems.WHOLE_ROWS", 0)  # the tiny matrix too by Lanczos
    write_checkpoints(1)
    fisher("analyze", "ckpts", *QUICK, "-o", "r.csv")
    for name, low, high in (("true", 0.45, 0.70), ("empirical", 0.75, 1.0)):
        told = [(text, fraction) for text, fraction in stages if text.startswith(f"{name} Fisher: ")]
        assert told[0] == (f"{name} Fisher: 1 product", low)
        assert [text.split()[2] for text, _ in told] == [str(1 + i) for i in range(len(told))]
        assert len(told) > 1
        assert any("× tolerance" in text for text, _ in told)
        assert all(low <= fraction <= high for _, fraction in told)
    assert begun == ["step_0.pt"]
    fisher("analyze", "ckpts", *QUICK, "-o", "r.csv", "--resume")
    assert begun == ["step_0.pt"]  # what is kept is not begun again, and tells nothing of how long others take


def test_an_unknown_residual_is_not_shown() -> None:
    from fisher_cli.curvature.spectra.eigensystems import lanczos_progress

    assert lanczos_progress(1, math.inf, 1e-3) == ("1 product", 0.0)
    assert lanczos_progress(1200, 1000.0, 1e-3) == ("1,200 products, residual 1,000 × tolerance", pytest.approx(0.0))
    assert lanczos_progress(40, 10.0, 1e-3) == ("40 products, residual 10 × tolerance", pytest.approx(2 / 3))
    assert lanczos_progress(60, 0.4, 1e-3) == ("60 products, residual 0.4 × tolerance", 1.0)
