"""Tiny networks of transformers, made from configurations alone: for sequences and for images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.cases import Case, classes, normal

VOCABULARY, LENGTH = 11, 6
# Torch's fused attention: that which transformers calls eager takes its softmax in float32 in half of the networks.
FUSED = {"attn_implementation": "sdpa"}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "num_labels": 3,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "num_labels": 3,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 2,
}
IMAGES = normal(4, 2, 8, 8)


def in_any_precision(norm: nn.Module) -> nn.Module:
    """torch's own root-mean-square norm: that of transformers is in float32 in whatever the network is."""
    own = nn.RMSNorm(len(norm.weight), norm.variance_epsilon)
    own.weight = norm.weight
    return own


def made(name: str, **words: Any) -> Callable[[], nn.Module]:
    """A network of this class and a configuration with these words."""

    def build() -> nn.Module:
        import transformers

        kind = getattr(transformers, name)
        network = kind(kind.config_class(**words))
        for module in network.modules():
            for place, norm in list(module.named_children()):
                if type(norm).__name__.endswith("RMSNorm"):
                    setattr(module, place, in_any_precision(norm))
        return network

    return build


class Masked(nn.Module):
    """A network of sequences with the mask that its padding asks for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(input_ids=ids, attention_mask=(ids != 0).long()).logits


def text() -> Tensor:
    """Four sequences of four to six ids, padded with zeros."""
    ids = torch.randint(1, VOCABULARY, (4, LENGTH))
    for row, length in enumerate((4, 6, 5, 6)):
        ids[row, length:] = 0
    return ids


def whole_text() -> Tensor:
    return torch.randint(1, VOCABULARY, (4, LENGTH))


def masked(name: str, **words: Any) -> Callable[[], nn.Module]:
    return lambda: Masked(made(name, **(TEXT | words))())


# Its router takes a softmax in float32 whatever the network is in, which rounds differently alone and in company.
FLOAT32_INSIDE = {"Mixtral, two experts of three"}
CASES = [
    Case("BERT", made("BertForSequenceClassification", **TEXT), whole_text, classes(3, 4)),
    Case("BERT with a mask", masked("BertForSequenceClassification"), text, classes(3, 4)),
    Case("DistilBERT", masked("DistilBertForSequenceClassification", dim=8, hidden_dim=12, n_layers=1, n_heads=2),
         text, classes(3, 4)),
    Case("ALBERT, its layers shared", masked("AlbertForSequenceClassification", embedding_size=4), text, classes(3, 4)),
    Case("DeBERTa", masked("DebertaV2ForSequenceClassification", relative_attention=True, position_buckets=4,
                           pos_att_type=["p2c", "c2p"], num_hidden_layers=1), text, classes(3, 4)),
    Case("GPT-2", made("GPT2ForSequenceClassification", vocab_size=VOCABULARY, n_embd=8, n_layer=2, n_head=2,
                       n_positions=16, num_labels=3, pad_token_id=0), text, classes(3, 4)),
    Case("LLaMA", masked("LlamaForSequenceClassification", num_key_value_heads=1, **FUSED), text, classes(3, 4)),
    Case("Mixtral, two experts of three",
         masked("MixtralForSequenceClassification", num_key_value_heads=1, num_local_experts=3, num_hidden_layers=1,
                num_experts_per_tok=2, experts_implementation="eager", **FUSED), text, classes(3, 4)),
    Case("ViT", made("ViTForImageClassification", num_hidden_layers=2, **VISION, **FUSED), IMAGES, classes(3, 4)),
    Case("BEiT", made("BeitForImageClassification", num_hidden_layers=1, use_relative_position_bias=True, **VISION,
                      **FUSED), IMAGES, classes(3, 4)),
    Case("Swin", made("SwinForImageClassification", embed_dim=4, depths=[2, 1], num_heads=[1, 2], window_size=2,
                      num_labels=3, image_size=8, patch_size=2, num_channels=2, **FUSED), IMAGES, classes(3, 4)),
    Case("ConvNeXt", made("ConvNextForImageClassification", num_channels=2, hidden_sizes=[4, 6], depths=[1, 1],
                          num_stages=2, patch_size=2, layer_scale_init_value=0.5, num_labels=3), IMAGES, classes(3, 4)),
    Case("MobileViT", made("MobileViTForImageClassification", num_channels=2, image_size=32, patch_size=2,
                           hidden_sizes=[4, 4, 4], neck_hidden_sizes=[4, 4, 4, 4, 4, 4, 4], num_attention_heads=2,
                           num_labels=3), normal(4, 2, 32, 32), classes(3, 4)),
]  # fmt: skip
