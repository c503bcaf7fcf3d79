"""What sees every operation that torch carries out."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode for which torch does not import its compiler, which takes a second of the processor.

    Torch imports it to keep what is compiled out of `__torch_dispatch__`. Here no compiled network is run: they are
    evaluated as they were before they were compiled.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
