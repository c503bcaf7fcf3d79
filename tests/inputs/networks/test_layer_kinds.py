"""Names and shapes → the layer that each tensor looks like, held against the modules that they are of."""

from typing import Any

import pytest
from torch import nn

from fisher_cli.inputs.networks.layer_kinds import layer_kinds
from fisher_cli.inputs.networks.shapes import shapes_of

NETWORKS: list[tuple[nn.Module, dict[str, str]]] = [
    (nn.Linear(8, 3), {"weight": "linear, 8→3", "bias": "linear, 8→3"}),
    (nn.Conv1d(2, 4, 5), {"weight": "convolution 5, 2→4", "bias": "convolution 5, 2→4"}),
    (nn.Conv2d(3, 16, (3, 5), bias=False), {"weight": "convolution 3×5, 3→16"}),
    (nn.Conv3d(1, 4, 3), {"weight": "convolution 3×3×3, 1→4", "bias": "convolution 3×3×3, 1→4"}),
    (nn.ConvTranspose2d(6, 4, 2), dict.fromkeys(("weight", "bias"), "transposed convolution 2×2, 6→4")),
    (
        nn.Sequential(nn.Conv2d(1, 6, 1), nn.Conv2d(6, 6, 3, groups=6)),
        dict.fromkeys(("0.weight", "0.bias"), "convolution 1×1, 1→6")
        | dict.fromkeys(("1.weight", "1.bias"), "depthwise convolution 3×3, 6"),
    ),
    (
        nn.BatchNorm2d(7),
        dict.fromkeys(("weight", "bias", "running_mean", "running_var", "num_batches_tracked"), "batch norm, 7"),
    ),
    (
        nn.BatchNorm1d(5, affine=False),
        dict.fromkeys(("running_mean", "running_var", "num_batches_tracked"), "batch norm, 5"),
    ),
    (nn.LayerNorm(9), dict.fromkeys(("weight", "bias"), "layer or group norm, 9")),
    (nn.RMSNorm(9), {"weight": "norm, 9"}),
    (
        nn.ModuleDict({"word_embeddings": nn.Embedding(1200, 4)}),
        {"word_embeddings.weight": "embedding, 1,200 entries of 4"},
    ),
    (nn.LSTM(3, 5), dict.fromkeys(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), "LSTM, 3→5")),
    (nn.GRU(3, 5, bias=False), dict.fromkeys(("weight_ih_l0", "weight_hh_l0"), "GRU, 3→5")),
    (nn.RNNCell(3, 5), dict.fromkeys(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), "recurrent layer, 3→5")),
    (
        nn.MultiheadAttention(6, 2),
        dict.fromkeys(("in_proj_weight", "in_proj_bias"), "attention, width 6")
        | dict.fromkeys(("out_proj.weight", "out_proj.bias"), "linear, 6→6"),
    ),
]


@pytest.mark.parametrize(("network", "expected"), NETWORKS, ids=lambda each: type(each).__name__)
def test_each_tensor_looks_like_the_layer_that_it_is_of(network: nn.Module, expected: dict[str, str]) -> None:
    assert layer_kinds(shapes_of(network.state_dict())) == expected


@pytest.mark.parametrize(
    "shapes",
    [
        {"": ()},
        {"weight": ()},
        {"weight": (), "bias": ()},
        {"weight": (2, 3), "bias": (7,)},
        {"in_proj_weight": ()},
        {"running_mean": (), "running_var": ()},
        {"weight_hh_l0": (0, 0), "weight_ih_l0": (0, 3)},
        {"weight_ih_l0": (4,), "weight_hh_l0": (1,)},
        {"weight": (1, 2, 3, 4, 5, 6)},
        {"pos_embed": (1, 65, 8), "cls_token": (1, 1, 8)},
    ],
)
def test_shapes_of_no_layer_are_no_error(shapes: dict[str, Any]) -> None:
    assert layer_kinds(shapes).keys() == shapes.keys()
