"""The random numbers that a forward pass draws: told from the generators' states before and after it."""

import ctypes
import random
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RandomState:
    """The states of torch's, Python's and NumPy's global generators; a generator of the network's own is not seen.

    Attributes:
        device: the network's.
        host: torch's generator on the CPU.
        card: torch's generator on the device, None where that is no GPU.
        python: what `random.getstate` gave.
        numpy: what `numpy.random.get_state` gave, None where NumPy's generators are not imported.
    """

    device: torch.device
    host: bytes
    card: bytes | None
    python: object
    numpy: Any

    @classmethod
    def now(cls, device: torch.device) -> "RandomState":
        """The states as they are now, with that of the device where it is a GPU."""
        numpy = sys.modules.get("numpy.random")
        return cls(
            device,
            _bytes(torch.get_rng_state()),
            _bytes(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None,
            random.getstate(),
            None if numpy is None else numpy.get_state(),
        )

    def has_moved(self) -> bool:
        """Whether a number was drawn from one of these generators since."""
        if self.host != _bytes(torch.get_rng_state()) or self.python != random.getstate():
            return True
        if self.card is not None and self.card != _bytes(torch.cuda.get_rng_state(self.device)):
            return True
        if self.numpy is None:
            return False
        _, keys, position, has_gauss, gauss = sys.modules["numpy.random"].get_state()
        before = self.numpy
        return bool(position != before[2] or has_gauss != before[3] or gauss != before[4] or (keys != before[1]).any())

    def put_back(self) -> None:
        """Let the generators go on from here."""
        torch.set_rng_state(_tensor(self.host))
        if self.card is not None:
            torch.cuda.set_rng_state(_tensor(self.card), self.device)
        random.setstate(self.python)  # type: ignore[arg-type] # what getstate gave
        if self.numpy is not None:
            sys.modules["numpy.random"].set_state(self.numpy)


def _bytes(state: Tensor) -> bytes:
    """A state of a generator, which torch keeps on the host; no tensor's value is asked for."""
    return ctypes.string_at(state.data_ptr(), state.numel())


def _tensor(state: bytes) -> Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def first_to_draw(model: nn.Module, inputs: Tensor) -> str | None:
    """The name and type of the innermost module whose forward pass is the first to draw random numbers.

    None where it draws none this time: then another thread did.
    """
    names = {module: name for name, module in model.named_modules()}
    found, entered = list[str](), list[RandomState]()

    def enter(_module: nn.Module, _inputs: object) -> None:
        entered.append(RandomState.now(inputs.device))

    def leave(module: nn.Module, _inputs: object, _output: object) -> None:
        if entered.pop().has_moved() and not found:
            found.append(f"{names[module]} ({type(module).__name__})" if names[module] else type(module).__name__)

    handles = [module.register_forward_pre_hook(enter) for module in names]
    handles += [module.register_forward_hook(leave) for module in names]
    try:
        with torch.no_grad():
            model(inputs.clone())
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
