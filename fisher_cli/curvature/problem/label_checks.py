"""Whether labels are such that a likelihood gives them a probability: integers, 0 or 1, or finite numbers."""

from torch import Tensor

from fisher_cli.errors import DataError


def check_classes(outputs: int, labels: Tensor) -> None:
    """Labels of a softmax network: (N,) integers from 0 to C − 1, of C ≥ 2 classes.

    Raises:
        DataError: a label is outside or no integer, or there is one class alone.
    """
    if outputs == 1:
        msg = "softmax over one output has probability 1 always, and its Fisher is zero: type --likelihood sigmoid"
        raise DataError(msg)
    if labels.dim() != 1 or labels.is_floating_point():
        kind = str(labels.dtype).removeprefix("torch.")
        msg = f"softmax needs one integer label per example, the data has {kind} labels of shape {tuple(labels.shape)}"
        raise DataError(msg)
    if not _are_classes(labels, outputs):
        msg = (
            f"labels run from {_range_of(labels)}, the network has {outputs} outputs (classes 0 to "
            f"{outputs - 1}): check --data, --labels and the model's number of classes"
        )
        raise DataError(msg)


def check_binary(outputs: int, labels: Tensor) -> None:
    """Labels of a sigmoid network: 0 or 1 of each of C outputs, or class indices for C > 1.

    Nothing between 0 and 1: q(y | z) gives such labels no probability.

    Raises:
        DataError: the labels are neither.
    """
    if _are_targets(labels, outputs):
        fits = bool(((labels == 0) | (labels == 1)).all())
    else:
        fits = _are_classes(labels, outputs)
    if not fits:
        taken = "labels 0 or 1" if outputs == 1 else f"classes 0 to {outputs - 1}, or {outputs} labels 0 or 1 each"
        msg = (
            f"labels of shape {tuple(labels.shape)} running from {_range_of(labels)} do not fit a sigmoid "
            f"network with {outputs} outputs ({taken}): check --data, --labels and --likelihood"
        )
        raise DataError(msg)


def check_targets(outputs: int, labels: Tensor) -> None:
    """Labels of a Gaussian network: finite numbers (N, C), or (N,) for C = 1, or class indices for C > 1.

    Raises:
        DataError: the labels are none of these.
    """
    if not _are_targets(labels, outputs) and not _are_classes(labels, outputs):
        msg = (
            f"labels of shape {tuple(labels.shape)} do not fit a Gaussian network with {outputs} outputs: "
            "check --data, --labels and --likelihood"
        )
        raise DataError(msg)
    count = int((~labels.isfinite()).reshape(len(labels), -1).any(1).sum())
    if count:
        msg = f"the targets of {count} of {len(labels)} examples are NaN or infinite: leave these examples out"
        raise DataError(msg)


def _range_of(labels: Tensor) -> str:
    ends = [end.item() for end in (labels.min(), labels.max())]
    return " to ".join(f"{end:g}" if isinstance(end, float) else str(end) for end in ends)


def _are_targets(labels: Tensor, outputs: int) -> bool:
    """Whether there is one number per example and output."""
    return labels.shape[1:] == (outputs,) or (labels.dim() == 1 and outputs == 1)


def _are_classes(labels: Tensor, count: int) -> bool:
    """Whether these are (N,) integers from 0 to `count` − 1."""
    if labels.dim() != 1 or labels.is_floating_point():
        return False
    return not len(labels) or (int(labels.min()) >= 0 and int(labels.max()) < count)
