"""What cannot be asked together, refused before anything is read."""

from typing import Final

from fisher_cli.errors import UsageError
from fisher_cli.settings import Activations, Precision, Settings


def refuse_recomputed(settings: Settings, activations: Activations) -> None:
    """Refuse what keeps the graphs of whole batches where activations are to be computed anew: all but traces.

    Raises:
        UsageError: it is asked for.
    """
    if activations is Activations.RECOMPUTE and settings.eigenvalues:
        msg = (
            "--activations recompute is for traces: products for eigenvalues keep what layers save; add --eigenvalues "
            "0, or leave it out"
        )
        raise UsageError(msg)


_DIGITS: Final = {Precision.BFLOAT16: "two to three", Precision.TF32: "three"}


def refuse_tf32_on(device: str, settings: Settings) -> None:
    """Refuse TF32 where there is none.

    Raises:
        UsageError: it is asked for on the CPU.
    """
    if settings.precision is Precision.TF32 and device == "cpu":
        msg = "--dtype tf32 is how NVIDIA GPUs multiply, and this is the CPU: type --dtype float32"
        raise UsageError(msg)


def refuse_rounded(settings: Settings, *, gives_traces: bool = True) -> None:
    """Refuse what bfloat16 and TF32 have too few digits for: all but traces.

    Raises:
        UsageError: it is asked for.
    """
    if not settings.precision.is_rounded:
        return
    name, digits = settings.precision.value, _DIGITS[settings.precision]
    is_more = settings.spectrum is not None or settings.comparison is not None or settings.verify or settings.task2vec
    if is_more or not gives_traces:
        msg = f"--dtype {name} has {digits} digits, which is enough for traces alone: type --dtype float32"
        raise UsageError(msg)
    if settings.eigenvalues:
        msg = (
            f"--dtype {name} has {digits} digits, too few for eigenvalues: add --eigenvalues 0, or type --dtype float32"
        )
        raise UsageError(msg)
