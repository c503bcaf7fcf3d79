"""Which device computes."""

import torch

from fisher_cli.curvature.torch_backend.backend_flags import make_deterministic
from fisher_cli.errors import UsageError


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one, else the CPU.

    It also sets what must be set in the environment before a GPU is first used, for results to be the same every time.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: there is no such device here.
    """
    make_deterministic()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"unknown device {name!r}: use auto, cpu, cuda or cuda:N"
        raise UsageError(msg) from error
    if device.type not in {"cpu", "cuda"}:
        msg = f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N"
        raise UsageError(msg)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        msg = f"device {name!r} is not here ({torch.cuda.device_count()} CUDA devices found): use --device auto or cpu"
        raise UsageError(msg)
    return device
