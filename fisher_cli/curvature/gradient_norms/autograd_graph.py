"""What the autograd graph of a forward pass says: where examples may be moved, and whether torch can vectorise it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

# Operations that leave every entry in its place, or move it as their saved whole numbers and the shapes alone say. All
# others may move examples by what the data are: indexing, sorting, a product with a matrix made of the data, whatever
# torch or a library adds.
_PLACES_KNOWN = frozenset(
    re.findall(
        r"\w+",
        """
    Abs AccumulateGrad AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D Add Addcdiv Addcmul
    Alias Amax Amin Angle AvgPool2D AvgPool3D Cat Celu Clamp ClampMax ClampMin Clone Col2Im Complex Conj
    ConstantPadNd Convolution CopyBackwards Cos Cosh CudnnBatchNorm CudnnConvolution Cumprod Cumsum Div Elu
    Embedding Erf Exp Exp2 Expand Expm1 FftC2C FftC2R FftR2C Fill Flip Gelu Glu Hardshrink Hardsigmoid Hardswish
    Hardtanh Im2Col Imag LeakyRelu Lerp LinalgVectorNorm Log Log1P Log2 LogSigmoid LogSoftmax Logaddexp Logcumsumexp
    Logsumexp Max MaxPool2DWithIndices MaxPool3DWithIndices Maximum Mean Min Minimum Mish MkldnnConvolution Mul
    Nansum NativeBatchNorm NativeDropout NativeGroupNorm NativeLayerNorm Neg Norm Permute PixelShuffle
    PixelUnshuffle Polar Pow Prelu PreluKernel Prod Real Reciprocal ReflectionPad1D ReflectionPad2D ReflectionPad3D
    Relu Repeat ReplicationPad1D ReplicationPad2D ReplicationPad3D ReshapeAlias Roll Round Rrelu Rsqrt Rsub Select
    Selu Sgn Sigmoid Sign Silu Sin Sinh Slice SlowConv2D SlowConvDilated2D SlowConvDilated3D SlowConvTranspose2D
    SlowConvTranspose3D Softmax Softplus Softshrink Split SplitWithSizes Sqrt Square Squeeze Stack Std Sub Sum T Tan
    Tanh ThnnConv2D Threshold ToCopy ToDtype Transpose Tril Triu Unbind Unfold UnsafeSplit UnsafeView Unsqueeze
    UpsampleBicubic2D UpsampleBilinear2D UpsampleLinear1D UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D
    UpsampleTrilinear3D Var VarMean View ViewAsComplex ViewAsReal WeightNormInterface Where Xlogy Zero _Attention
    _InputGradient _Joined _OfInput _OfParameters
        """,
    )
)

# Products: (first, second) operand's places among what the node goes back to.
_PRODUCTS = {"Mm": (0, 1), "Addmm": (1, 2), "Bmm": (0, 1), "Baddbmm": (1, 2)}
# Between a weight and the product that it is the second operand of.
_OF_WEIGHTS = {
    "T",
    "Transpose",
    "Permute",
    "View",
    "ReshapeAlias",
    "UnsafeView",
    "Clone",
    "ToCopy",
    "Expand",
    "Unsqueeze",
}
# These move or take parts of a dimension as their saved whole numbers say; where that dimension has the examples, who
# chose the numbers may have looked at the data.
_MOVES = {"Flip", "Roll", "Select", "Slice", "Split", "SplitWithSizes", "UnsafeSplit", "Unbind"}
# Operations whose backward torch has wrong for many directions at once: where what the forward pass saved has none, or
# as many rows as there are directions. Tried were all operations of torch's own test suite.
_WRONG_VECTORISED = {"Cdist", "MaskedSelect"}


@dataclass(frozen=True)
class GraphKinds:
    """Which nodes a graph has.

    Attributes:
        nodes: all of them.
        places: equal for two graphs in which the same operations are connected in the same way and move entries alike;
            None where an operation may move examples by what the data are.
    """

    nodes: frozenset[Any]
    places: tuple[object, ...] | None


@cache
def _kind(name: str) -> str:
    """AddmmBackward0 → Addmm, torch::autograd::AccumulateGrad → AccumulateGrad."""
    return re.sub(r"Backward\d*$", "", name.rsplit("::", 1)[-1])


def read_graph(outputs: Tensor, examples: int) -> GraphKinds:
    """Walk the autograd graph from the outputs down.

    Args:
        outputs: (B, C), with their graph.
        examples: B; an operation along a dimension of that size may move examples.
    """
    numbers = {node: number for number, node in enumerate(nodes_from([outputs.grad_fn]))}
    places, are_known = list[object]([outputs.output_nr]), True
    for node in numbers:
        kind = _kind(node.name())
        are_known = are_known and _places_are_known(kind, node, examples)
        if are_known:
            shape = tuple(node._input_metadata[0].shape) if node._input_metadata else ()
            successors = tuple((numbers.get(successor, -1), place) for successor, place in node.next_functions)
            places.append((kind, shape, successors))
    return GraphKinds(frozenset(numbers), tuple(places) if are_known else None)


def nodes_from(roots: Iterable[Any]) -> Iterator[Any]:
    """The nodes from which a backward pass starts, and all that it comes to, each once."""
    waiting = [root for root in dict.fromkeys(roots) if root is not None]
    found = {None, *waiting}
    while waiting:
        node = waiting.pop()
        yield node
        successors = dict.fromkeys(successor for successor, _ in node.next_functions if successor not in found)
        found.update(successors)
        waiting += successors


def refuse_wrong_vectorisation(roots: Iterable[Any]) -> None:
    """Let no backward pass from these nodes take many directions at once where torch would compute wrong gradients.

    Raises:
        NotImplementedError: as for an operation that torch cannot vectorise at all.
    """
    wrong = sorted({_kind(node.name()) for node in nodes_from(roots)} & _WRONG_VECTORISED)
    if wrong:
        msg = f"torch's vectorised backward of {', '.join(wrong)} is wrong"
        raise NotImplementedError(msg)


def _places_are_known(kind: str, node: Any, examples: int) -> bool:
    """Whether what a node does to places is the same in every graph with nodes of this kind and these shapes."""
    if kind in _MOVES:
        return not _moves_examples(kind, node, examples)
    return kind in _PLACES_KNOWN or _multiplies_by_weights(kind, node, examples)


def _moves_examples(kind: str, node: Any, examples: int) -> bool:
    """Whether it works along a dimension that may have the examples; a slice that takes all of it does nothing."""
    shape: Sequence[int] = node._input_metadata[0].shape
    if kind == "Unbind":
        sizes = [-1] * (len(shape) + 1)
        sizes[_signed(node._saved_dim) % len(sizes)] = len(node._input_metadata)
    else:
        sizes = list(shape if kind in {"Flip", "Roll"} else node._saved_self_sym_sizes)
    for dimension in (node._saved_dims or (0,)) if kind in {"Flip", "Roll"} else (node._saved_dim,):
        place = _signed(dimension) % len(sizes)
        is_whole = kind == "Slice" and node._saved_start == 0 and node._saved_step == 1 and shape[place] == sizes[place]
        if not is_whole and (sizes[place] == examples or (place == 0 and sizes[place] % examples == 0)):
            return True
    return False


def _signed(number: int) -> int:
    """A dimension as Python counts them: torch saves −1 as 2⁶⁴ − 1."""
    return number - 2**64 if number >= 2**63 else number


def _multiplies_by_weights(kind: str, node: Any, examples: int) -> bool:
    """Whether a product takes every row of its first operand by itself: its second is a weight, or has examples apart.

    A product may put rows in an order that the data say: P h with P made of ones and zeros, as experts are given their
    tokens. In a batch of products, whose first dimension are the examples or a multiple, each has its own.
    """
    if kind not in _PRODUCTS:
        return False
    first, second = (node.next_functions[place][0] for place in _PRODUCTS[kind])
    if second is None:  # a constant
        return True
    if kind in {"Bmm", "Baddbmm"}:
        shape: Sequence[int] = node._input_metadata[0].shape
        return shape[0] % examples == 0 and first is not None
    while second is not None and _kind(second.name()) in _OF_WEIGHTS:
        second = second.next_functions[0][0]
    return second is None or hasattr(second, "variable")
