"""Every layout of tests/layouts.py holds the same weights, says when it was made, and gives the same trace."""

import warnings
from functools import cache
from pathlib import Path

import pytest
import torch

import tests.layouts_of_tools  # noqa: F401  adds its own to LAYOUTS
from fisher_cli import analyze
from fisher_cli.inputs.checkpoints.checkpoints import ReadOptions, find_checkpoints, load_checkpoint
from tests.layouts import COUNTER, HAS_STAND_INS, LAYOUTS, NEED_STAND_INS, Written, featured_name, weights
from tests.long_lists import some
from tests.saving import saved

DONE: set[str] = set()


def written(name: str, folder: Path) -> Written:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the writers warn of their own affairs
        return LAYOUTS[name](folder)


@cache
def trace_of(path: Path, model: str, state_key: str | None = None, use_ema: bool = False) -> tuple[float, float]:
    table = analyze(
        path, data="digits", limit=8, eigenvalues=0, model=model, state_key=state_key, use_ema=use_ema
    ).table
    assert list(table["error"].fillna("")) == [""]
    return float(table["trace_true"][0]), float(table["trace_empirical"][0])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("plain") / "plain.pt", weights())


@pytest.mark.parametrize("name", some(LAYOUTS, part=0.3))
def test_a_layout_gives_the_weights_the_time_and_the_trace(name: str, tmp_path: Path, plain: Path) -> None:
    if name in NEED_STAND_INS and not HAS_STAND_INS:
        pytest.skip("needs stand-ins for the types that the file names")
    found = written(name, tmp_path)
    reading = ReadOptions(found.state_key, found.use_ema)
    [file] = find_checkpoints([found.path], reading)
    checkpoint = load_checkpoint(file, reading)
    expected = {featured_name(key) if "Featured" in found.model else key: value for key, value in weights().items()}
    assert checkpoint.weights.keys() == expected.keys()
    for key, value in expected.items():
        assert key.endswith(COUNTER) or (
            torch.equal(checkpoint.weights[key], value) and value.dtype == checkpoint.weights[key].dtype
        ), key
    assert (checkpoint.step, checkpoint.epoch, checkpoint.step_source) == (found.step, found.epoch, found.step_source)
    assert (file.step, file.epoch, checkpoint.weights_kind) == (found.step, found.epoch, found.kind)
    assert trace_of(found.path, found.model, found.state_key, found.use_ema) == pytest.approx(
        trace_of(plain, "digits-cnn"), rel=1e-12
    )
    DONE.add(name)


def test_there_are_forty_layouts_and_more(capsys: pytest.CaptureFixture[str]) -> None:
    required = set(LAYOUTS) if HAS_STAND_INS else set(LAYOUTS) - NEED_STAND_INS
    assert len(required) >= 40
    with capsys.disabled():
        print(f"\n{len(DONE)}/{len(required)} layouts read in this process, {len(LAYOUTS)} written")
