"""What a quick route to a norm leaves to be asked afterwards, so that the program does not wait for the device."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


def runs_behind(device: torch.device) -> bool:
    """Whether the device works on what was asked earlier while the program goes on: every device but the CPU."""
    return device.type != "cpu"


@dataclass
class DeferredChecks:
    """Whether quick routes to norms were inexact, asked of the device once for many parameters.

    A GPU is hundreds of operations behind the program that asks for them; every question about a value waits until it
    has caught up, and leaves it idle while the program goes on.
    """

    _flags: dict[str, list[Tensor]] = field(default_factory=dict)
    _owner: str = ""

    def of(self, owner: str) -> "DeferredChecks":
        """These same checks, which put what is noted from now on down to this owner.

        Args:
            owner: a name, such as a parameter's.
        """
        self._owner = owner
        return self

    def note(self, inexact: Tensor) -> None:
        """Keep a flag for the present owner, without asking the device for its value.

        Args:
            inexact: (), True where the quick route was inexact.
        """
        self._flags.setdefault(self._owner, []).append(inexact)

    def owners(self) -> set[str]:
        """The owners with a flag that is True, asked of the device in one question."""
        if not self._flags:
            return set()
        answers = torch.stack([torch.stack(flags).any() for flags in self._flags.values()]).tolist()
        return {owner for owner, answer in zip(self._flags, answers, strict=True) if answer}
