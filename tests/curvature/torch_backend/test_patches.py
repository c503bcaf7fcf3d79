"""Functions that are others for a time: in which order they go around each other, and that all are given back."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from torch import _VF
from torch.nn import functional

from fisher_cli.curvature.gradient_norms.call_recorder import recorded_calls
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.curvature.torch_backend.patches import (
    ATTENTION_OF_ALL_DIRECTIONS,
    CONVOLUTIONS_OF_ALL_DIRECTIONS,
    TRANSPOSABLE_LAYERS,
    Layer,
    Patches,
    patched,
)


@pytest.fixture
def place() -> Any:
    module = ModuleType("place")
    module.function = lambda: "torch"  # type: ignore[attr-defined]
    return module


def saying(word: str) -> Callable[..., Any]:
    return lambda original: lambda: f"{word}({original()})"


def test_sets_go_around_each_other_by_their_layers_however_they_are_listed(place: Any) -> None:
    kernel, derivative, recorder = (Patches(layer, {(place, "function"): saying(layer.name)}) for layer in Layer)
    for order in ((kernel, derivative, recorder), (recorder, kernel, derivative), (derivative, recorder, kernel)):
        with patched(*order):
            assert place.function() == "RECORDER(DERIVATIVE(KERNEL(torch)))"
            with patched(kernel):
                assert place.function() == "KERNEL(RECORDER(DERIVATIVE(KERNEL(torch))))"
        assert place.function() == "torch"


def test_what_was_replaced_is_given_back_when_another_cannot_be(place: Any) -> None:
    before = place.function
    patches = Patches(Layer.KERNEL, {(place, "function"): saying("ours"), (place, "missing"): saying("ours")})
    with pytest.raises(AttributeError), patched(patches):
        pass
    assert place.function is before


def test_torchs_functions_are_given_back_after_an_error() -> None:
    before, looked_up = dict(vars(functional)), dict(vars(_VF))
    sets = ATTENTION_OF_ALL_DIRECTIONS, CONVOLUTIONS_OF_ALL_DIRECTIONS, TRANSPOSABLE_LAYERS

    def fail() -> None:
        with reproducible_kernels(*sets), recorded_calls({}):
            assert functional.conv2d is not before["conv2d"]
            assert "lstm" in vars(_VF)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert dict(vars(functional)) == before
    assert dict(vars(_VF)) == looked_up
