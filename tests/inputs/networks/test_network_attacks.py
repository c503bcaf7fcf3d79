"""What a file says of its network is held against its own tensors before anything is built."""

import json
import os
import resource
import signal
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
import torch

from fisher_cli.errors import FisherError
from fisher_cli.inputs.networks.architectures import find_architecture
from fisher_cli.inputs.networks.networks import Networks
from fisher_cli.inputs.networks.shapes import BeyondFileError, can_be_of, hollow
from tests.architecture_cases import checkpoint
from tests.attacks.networks import SMALL, network_attacks
from tests.live_memory import LiveMemory
from tests.long_lists import some

SECONDS, MEGABYTES = 10, 1024
ATTACKS = dict(network_attacks())
needs_libraries = pytest.mark.usefixtures("_libraries")


@pytest.fixture(scope="module")
def _libraries() -> None:
    """Load them here, so that no child does it within its limits."""
    pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers")
    for kind in {attack["config"]["model_type"] for attack in ATTACKS.values() if "config" in attack}:
        transformers.AutoModelForImageClassification._model_mapping[type(transformers.AutoConfig.for_model(kind))]


def in_child(attack: dict[str, Any], counts_memory: bool = False) -> dict[str, Any]:
    """What finding, building and loading this network ends in, from a process that may die of it.

    Counting the memory that it takes makes it several times as slow.
    """
    seconds = (10 if counts_memory else 1) * SECONDS
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        signal.alarm(20 * seconds)
        found: dict[str, Any] = {}
        saved = replace(checkpoint(SMALL), **attack)
        with LiveMemory() as tensors:
            if counts_memory:
                tracemalloc.start()
            try:
                networks = Networks(None, {})
                networks.load(networks.architecture(saved), saved)
            except BaseException as error:
                found = {"kind": type(error).__name__, "is_ours": isinstance(error, FisherError), "message": str(error)}
            found["grown"] = (tensors.peak + tracemalloc.get_traced_memory()[1]) / 2**20
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"kind": "died or hung"}


@needs_libraries
@pytest.mark.parametrize("name", some(ATTACKS, part=0.08))
def test_a_network_beyond_its_file_is_refused_in_one_line(name: str) -> None:
    found = in_child(ATTACKS[name])
    assert found.get("is_ours"), found
    assert found["message"].isprintable()
    assert "; " in found["message"]
    assert len(found["message"]) < 1500


@needs_libraries
@pytest.mark.parametrize("name", some(ATTACKS, part=0.02))
def test_a_network_beyond_its_file_takes_little_memory(name: str) -> None:
    assert in_child(ATTACKS[name], counts_memory=True)["grown"] < MEGABYTES


def test_the_corpus_is_what_it_claims() -> None:
    assert len(ATTACKS) >= 95


def test_a_depth_is_bounded_by_the_number_of_tensors_and_a_size_by_their_numbers() -> None:
    def deep() -> torch.nn.Module:
        return torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(10**9)))

    with pytest.raises(BeyondFileError, match="more work than the file's 1 tensors of 4 numbers"):
        hollow(deep, {"w": (2, 2)})
    for wide in (
        lambda: torch.arange(2**30),
        lambda: torch.arange(2**14)[:, None] - torch.arange(2**14),
        lambda: torch.outer(torch.arange(2**14), torch.arange(2**14)),
        lambda: torch.arange(2**10).repeat(2**20),
        lambda: torch.cat(torch.meshgrid(torch.arange(2**13), torch.arange(2**13), indexing="ij")),
    ):
        with pytest.raises(BeyondFileError, match="a tensor of"):
            hollow(wide, {"w": (2, 2)})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1024, 30_522, 49_408, 99_999])
def test_numbers_that_any_network_may_have_can_be(size: int) -> None:
    assert can_be_of("vocab_size", size, {"w": (2, 2)})
    assert can_be_of("rope_theta", 1e6, {"w": (2, 2)})
    assert can_be_of("initializer_range", 1e-12, {"w": (2, 2)})
    assert can_be_of("num_labels", 10**6, {"w": (10**6, 2)})
    assert can_be_of("image_size", 4096, {"w": (10**6, 4)})
    assert not can_be_of("image_size", 4096, {"w": (10**3, 4)})


def test_a_profiler_of_the_users_is_left_alone() -> None:
    import sys

    def profiler(*_: object) -> None:
        return None

    sys.setprofile(profiler)
    try:
        hollow(lambda: torch.nn.Linear(2, 2), {"w": (2, 2)})
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    hollow(lambda: torch.nn.Linear(2, 2), {"w": (2, 2)})
    assert sys.getprofile() is None


@needs_libraries
@pytest.mark.parametrize("name", ["resnet18", "digits-mlp"])
def test_a_small_network_that_is_called_by_its_name_is_told_what_is_missing(name: str) -> None:
    found = find_architecture(checkpoint({"w": torch.ones(2)}, name))
    assert found.name == name
