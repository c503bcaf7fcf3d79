"""What a file may say of its network that its tensors cannot be: depths, sizes, classes."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

MANY = 10**7
SMALL: Mapping[str, Tensor] = {f"layer{i}.weight": torch.ones(2, 2) for i in range(20)}

# What a configuration of transformers says, beside twenty tensors of four numbers.
CONFIGURATIONS: list[dict[str, Any]] = [
    *(
        {"model_type": kind, "num_hidden_layers": count}
        for kind in ("vit", "beit", "deit", "dinov2")
        for count in (MANY, 9999)
    ),
    {"model_type": "imagegpt", "n_layer": MANY},
    {"model_type": "imagegpt", "n_layer": 9999},
    {"model_type": "imagegpt", "vocab_size": 10**12},
    {"model_type": "perceiver", "num_self_attends_per_block": MANY},
    {"model_type": "perceiver", "num_self_attends_per_block": 9999},
    {"model_type": "perceiver", "num_latents": 10**9},
    {"model_type": "efficientnet", "num_block_repeats": [MANY] * 7},
    {"model_type": "efficientnet", "num_block_repeats": [9999] * 7},
    {"model_type": "efficientnet", "depth_coefficient": 10.0**8},
    {"model_type": "swin", "depths": [1] * 100_000, "num_heads": [1] * 100_000},
    {"model_type": "swin", "depths": [9999] * 4},
    {"model_type": "swin", "image_size": 40_000},
    {"model_type": "swin", "window_size": 40_000},
    {"model_type": "swin", "image_size": 1024, "window_size": 256},
    {"model_type": "swinv2", "window_size": 10**6},
    {"model_type": "swinv2", "image_size": 1024, "window_size": 512},
    {"model_type": "swinv2", "depths": [9999, 9999]},
    {"model_type": "focalnet", "focal_levels": [MANY] * 4},
    {"model_type": "focalnet", "focal_levels": [9999] * 4},
    {"model_type": "focalnet", "depths": [9999] * 4},
    {"model_type": "vit", "num_labels": MANY},
    {"model_type": "vit", "num_labels": 10**15},
    {"model_type": "vit", "id2label": {str(i): "x" for i in range(200_000)}, "hidden_size": 90_000},
    {"model_type": "vit", "image_size": 40_000},
    {"model_type": "vit", "image_size": [40_000, 40_000]},
    {"model_type": "vit", "hidden_size": 10**9},
    {"model_type": "vit", "hidden_size": 96_000},
    {"model_type": "vit", "intermediate_size": 10**12},
    {"model_type": "vit", "num_channels": 10**9},
    {"model_type": "vit", "patch_size": 10**9},
    {"model_type": "vit", "hidden_size": -(10**9)},
    {"model_type": "vit", "hidden_size": 10**400},
    {"model_type": "vit", "layer_norm_eps": 1e300},
    {"model_type": "beit", "image_size": 8000, "patch_size": 4, "use_relative_position_bias": True},
    {"model_type": "beit", "image_size": 1024, "patch_size": 1, "use_relative_position_bias": True},
    {"model_type": "beit", "image_size": 1024, "patch_size": 4, "use_shared_relative_position_bias": True},
    {"model_type": "data2vec-vision", "image_size": 1000, "patch_size": 2, "use_relative_position_bias": True},
    {"model_type": "levit", "image_size": 40_000},
    {"model_type": "levit", "image_size": 1024},
    {"model_type": "levit", "depths": [9999] * 3},
    {"model_type": "levit", "hidden_sizes": [90_000] * 3},
    {"model_type": "convnext", "depths": [MANY]},
    {"model_type": "convnext", "depths": [9999] * 4},
    {"model_type": "convnextv2", "depths": [9999] * 4},
    {"model_type": "resnet", "depths": [9999] * 4},
    {"model_type": "resnet", "hidden_sizes": [90_000] * 4},
    {"model_type": "regnet", "depths": [9999] * 4},
    {"model_type": "bit", "depths": [9999] * 4},
    {"model_type": "cvt", "depth": [9999] * 3},
    {"model_type": "mobilenet_v2", "depth_multiplier": 10.0**6},
    {"model_type": "poolformer", "depths": [9999] * 4},
    {"model_type": "pvt", "depths": [9999] * 4},
    {"model_type": "pvt", "image_size": 40_000},
    {"model_type": "pvt_v2", "depths": [9999] * 4},
    {"model_type": "segformer", "depths": [9999] * 4},
    {"model_type": "hiera", "depths": [9999] * 4},
    {"model_type": "hiera", "image_size": [1024, 1024], "patch_stride": [1, 1]},
    {"model_type": "siglip", "vision_config": {"num_hidden_layers": 9999}},
    {"model_type": "siglip", "vision_config": {"num_hidden_layers": MANY}},
    {"model_type": "clip", "vision_config": {"num_hidden_layers": 9999, "image_size": 40_000}},
    {"model_type": "vit", **{f"unknown_{i}": [[[[[[1]]]]]] for i in range(50)}},
]

# What a file calls its network, and with which arguments.
HINTS: list[tuple[str, dict[str, object]]] = [
    ("vit_tiny_patch16_224", {"depth": 100_000}),
    ("vit_tiny_patch16_224", {"depth": 9999}),
    ("vit_tiny_patch16_224", {"img_size": 40_000}),
    ("vit_tiny_patch16_224", {"img_size": 1024, "patch_size": 1}),
    ("vit_tiny_patch16_224", {"embed_dim": 10**9}),
    ("vit_tiny_patch16_224", {"num_classes": 10**9}),
    ("vit_tiny_patch16_224", {"num_classes": 99_999, "embed_dim": 99_999}),
    ("vit_tiny_patch16_224", {"depth": 10**300}),
    ("vit_tiny_patch16_224", {"depth": -1}),
    ("swin_tiny_patch4_window7_224", {"window_size": 40_000}),
    ("swin_tiny_patch4_window7_224", {"img_size": 1024, "window_size": 256}),
    ("beit_base_patch16_224", {"img_size": 1024, "patch_size": 1}),
    ("levit_128s", {"img_size": 40_000}),
    ("mixer_b16_224", {"num_blocks": 99_999}),
    ("resnet50", {"num_classes": 10**9}),
    ("resnet50", {"width_per_group": 99_999}),
    ("resnet50", {"groups": 10**9}),
    ("densenet121", {"growth_rate": 99_999}),
    ("densenet121", {"num_init_features": 10**9}),
    ("vit_b_16", {"image_size": 40_000}),
    ("vit_b_16", {"image_size": 16 * 2**10}),
    ("mobilenet_v2", {"width_mult": 1e6}),
    ("vit_h_14", {}),
    ("regnet_y_128gf", {}),
    ("vit_giant_patch14_224", {}),
    ("resnet1202-cifar", {}),
    ("wrn-1000-99", {}),
    ("wrn-28-10", {"num_classes": 10**9}),
    ("digits-mlp", {"num_classes": 10**12}),
]


def network_attacks() -> Iterator[tuple[str, dict[str, Any]]]:
    """A name, and what `checkpoint` of the tests is told besides the weights."""
    for i, config in enumerate(CONFIGURATIONS):
        said = ", ".join(f"{key} {str(value)[:24]}" for key, value in list(config.items())[:3] if key != "model_type")
        yield f"{i} {config['model_type']}: {said}", {"config": config}
    for i, (name, arguments) in enumerate(HINTS):
        yield f"{i} {name}: {str(arguments)[:60]}", {"architecture": name, "architecture_arguments": arguments}
    yield "a network under 3,000 prefixes", {"weights": many_prefixes()}
    yield (
        "a network called by its name under 3,000 prefixes",
        {"weights": many_prefixes(), "architecture": "digits-mlp"},
    )


def many_prefixes() -> dict[str, Tensor]:
    sizes = {
        "1.weight": (64, 64),
        "1.bias": (64,),
        "3.weight": (32, 64),
        "3.bias": (32,),
        "5.weight": (10, 32),
        "5.bias": (10,),
    }
    one = torch.ones(1)
    return {f"p{i}.{name}": one.expand(size) for i in range(3000) for name, size in sizes.items()}
