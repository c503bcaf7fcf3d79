"""Names and shapes of tensors → the layer that each looks like, in words: a guess for people alone."""

from collections.abc import Set
from typing import Final

from fisher_cli.inputs.networks.shapes import COUNTER, Shapes

_EMBEDDINGS: Final = ("embed", "wte", "wpe", "tok", "vocab")
# Rows of the recurrent weights for each hidden unit: one for each gate.
_RECURRENT: Final = {1: "recurrent layer", 3: "GRU", 4: "LSTM"}


def layer_kinds(shapes: Shapes) -> dict[str, str]:
    """Return what layer each tensor looks like; "" where name and shape say nothing."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layer, _, part = name.rpartition(".")
        layers.setdefault(layer, {})[part] = shape
    kinds, widths = dict[str, str](), set[int]()
    for layer, parts in layers.items():
        kinds |= {f"{layer}.{part}" if layer else part: _kind(layer, part, parts, widths) for part in parts}
        widths |= set(parts["weight"][:1] if len(parts.get("weight", ())) > 1 else ())
    return {name: kinds[name] for name in shapes}


def _kind(layer: str, part: str, parts: Shapes, widths: Set[int]) -> str:
    """Return what one tensor of a layer looks like.

    Args:
        layer: its name.
        part: the tensor's, after that.
        parts: the shapes of all of the layer's tensors, by their names after that.
        widths: of the outputs of layers before it.
    """
    if (recurrent := _recurrent(part, parts)) or part.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh")):
        return recurrent or "recurrent layer"
    if part.startswith("in_proj_") and parts[part]:
        return f"attention, width {parts[part][0] // 3:,}"
    if {"running_mean", "running_var"} & parts.keys():
        known = part in {"weight", "bias", "running_mean", "running_var", COUNTER}
        return f"batch norm, {_size(parts)}" if known else ""
    weight = parts.get("weight")
    if part not in {"weight", "bias"} or weight is None:
        return ""
    if part == "bias" and parts[part] != weight[:1] and not _is_transposed(parts):
        return ""
    if len(weight) == 1:
        return f"layer or group norm, {weight[0]:,}" if "bias" in parts else f"norm, {weight[0]:,}"
    return _of_weight(layer, weight, parts, widths)


def _of_weight(layer: str, weight: tuple[int, ...], parts: Shapes, widths: Set[int]) -> str:
    if len(weight) == 2:
        if "bias" not in parts and any(word in layer.lower() for word in _EMBEDDINGS):
            return f"embedding, {weight[0]:,} entries of {weight[1]:,}"
        return f"linear, {weight[1]:,}→{weight[0]:,}"
    if len(weight) not in {3, 4, 5}:
        return ""
    kernel = "×".join(map(str, weight[2:]))
    if _is_transposed(parts):
        return f"transposed convolution {kernel}, {weight[0]:,}→{weight[1]:,}"
    if weight[1] == 1 and weight[0] in widths:
        return f"depthwise convolution {kernel}, {weight[0]:,}"
    return f"convolution {kernel}, {weight[1]:,}→{weight[0]:,}"


def _is_transposed(parts: Shapes) -> bool:
    """Whether the bias has the second size of a kernel and not the first, as that of a transposed convolution."""
    weight, bias = parts.get("weight", ()), parts.get("bias", ())
    return len(weight) >= 3 and len(bias) == 1 and bias[0] == weight[1] != weight[0]


def _recurrent(part: str, parts: Shapes) -> str:
    which = part.partition("_l")[2]
    hidden = parts.get(f"weight_hh_l{which}") if which else parts.get("weight_hh")
    inputs = parts.get(f"weight_ih_l{which}") if which else parts.get("weight_ih")
    is_own = part.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    if not is_own or hidden is None or inputs is None or len(hidden) != 2 or len(inputs) != 2:
        return ""
    gates = hidden[0] // max(hidden[1], 1)
    return f"{_RECURRENT[gates]}, {inputs[1]:,}→{hidden[1]:,}" if gates in _RECURRENT else ""


def _size(parts: Shapes) -> str:
    shape = parts.get("running_mean") or parts.get("running_var") or (0,)
    return f"{shape[0]:,}"
