"""What cannot be asked together, refused before anything is read."""

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


def refuse_rounded(settings: Settings, *, gives_traces: bool = True) -> None:
    """Refuse what bfloat16 has too few digits for: all but traces.

    Raises:
        UsageError: it is asked for.
    """
    if settings.precision is not Precision.BFLOAT16:
        return
    is_more = settings.spectrum is not None or settings.comparison is not None or settings.verify or settings.task2vec
    if is_more or not gives_traces:
        msg = "--dtype bfloat16 has two to three digits, which is enough for traces alone: type --dtype float32"
        raise UsageError(msg)
    if settings.eigenvalues:
        msg = (
            "--dtype bfloat16 has two to three digits, too few for eigenvalues: add --eigenvalues 0, or type --dtype "
            "float32"
        )
        raise UsageError(msg)
