"""The image classifier that a folder's own config.json describes, built by transformers from plain numbers and words.

No weights, no code and no network: of the configuration only keys that the model's own configuration has are passed
on, and none that names code, a backbone of another library or a way to read weights.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from fisher_cli.errors import ArchitectureError
from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint
from fisher_cli.inputs.checkpoints.weights import listed
from fisher_cli.inputs.networks.shapes import BeyondFileError, Shapes, can_be_of, hollow, refuse_larger, shapes_of
from fisher_cli.inputs.user_code import built
from fisher_cli.text import clipped

# What could lead to code, to the network, or to another way of reading weights.
_REFUSED_KEYS: Final = frozenset(
    {
        *("auto_map", "custom_pipelines", "model_file", "trust_remote_code", "name_or_path", "quantization_config"),
        *("attn_implementation", "experts_implementation", "backbone", "backbone_config", "backbone_kwargs"),
        *(
            "use_timm_backbone",
            "use_pretrained_backbone",
            "dtype",
            "torch_dtype",
            "kernel_config",
            "transformers_version",
        ),
    }
)
# These build networks of other libraries, or are no classifiers of images alone.
_REFUSED_TYPES: Final = frozenset({"timm_wrapper", "shieldgemma2"})


def is_huggingface(checkpoint: Checkpoint) -> bool:
    """Return whether a configuration of transformers stands beside the weights, and nothing else names a network."""
    names_another = checkpoint.architecture not in {None, "hf"}
    return not names_another and checkpoint.config is not None and isinstance(checkpoint.config.get("model_type"), str)


def huggingface_model(checkpoint: Checkpoint) -> tuple[str, Callable[[], nn.Module]] | None:
    """Return the name of transformers' class, and how to build it; None where `why_not` says why not.

    Raises:
        ArchitectureError: transformers refuses the configuration.
    """
    chosen = _chosen(checkpoint)
    if chosen is None:
        return None
    config = dict(checkpoint.config or {})
    stored, where = shapes_of(checkpoint.weights), clipped(checkpoint.name)
    plain = _plain(config, stored, where)
    build = partial(built, partial(_network, str(config["model_type"]), chosen, plain), {}, chosen)
    try:
        refuse_larger(hollow(build, stored), stored)  # without storage, so that what is absurd fails here
    except BeyondFileError as error:
        msg = f"{where}: config.json does not describe these weights: {error}; check the file"
        raise ArchitectureError(msg) from error
    return chosen, build


def why_not(checkpoint: Checkpoint) -> str:
    """Return in one line why there is no network of transformers for this configuration."""
    where, config = clipped(checkpoint.name), dict(checkpoint.config or {})
    kind, named = clipped(config.get("model_type")), config.get("architectures")
    if not _is_installed():
        return f"{where}: a {kind} of transformers, which is not installed; pip install 'fisher-cli[hf]'"
    shown = f"{kind} ({listed([str(each) for each in named])})" if isinstance(named, list) and named else kind
    return (
        f"{where}: {shown} is no image classifier of transformers, and others are not built from a folder; pass "
        "--model ./file.py:factory"
    )


def in_names_of(module: nn.Module, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the names and layouts that a network of transformers has in memory.

    Its files keep those of earlier versions, and its own loader converts them. The checkpoint is left as it is where
    the network is no class of transformers, or where not all of its tensors find their place.
    """
    if not type(module).__module__.startswith("transformers.models."):
        return checkpoint
    weights = _converted(module, checkpoint.weights)
    if weights is None:
        return checkpoint
    ones = {name: torch.ones_like(weight, dtype=torch.float32) for name, weight in checkpoint.weights.items()}
    masks = _converted(module, ones | dict(checkpoint.masks)) if checkpoint.masks else {}
    pruned = {name: mask for name, mask in (masks or {}).items() if not bool(mask.all())}
    return replace(checkpoint, weights=weights, masks=pruned)


def _converted(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors as transformers' loader places them in such a network, None where not all find a place."""
    from transformers.utils import logging as their_logging

    logging: Any = their_logging  # some of it has no types
    kind: Any = type(module)
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.ERROR)
    logging.disable_progress_bar()
    try:
        loaded, found = kind.from_pretrained(
            None,
            config=module.config,
            state_dict=dict(tensors),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            local_files_only=True,
        )
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
    fits = not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return dict(loaded.state_dict()) if fits else None


def _is_installed() -> bool:
    return importlib.util.find_spec("transformers") is not None


def _chosen(checkpoint: Checkpoint) -> str | None:
    """Return the image classifier of transformers that the configuration names; the type's own if it names none."""
    config = checkpoint.config or {}
    classes = _classes(str(config.get("model_type"))) if is_huggingface(checkpoint) and _is_installed() else ()
    named = config.get("architectures")
    if not isinstance(named, list) or not named:
        return classes[0] if classes else None
    return next((each for each in classes if each in named), None)


def _classes(kind: str) -> tuple[str, ...]:
    """Return the names of transformers' classes for this type: a closed list of its own."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    if kind in _REFUSED_TYPES:
        return ()
    names = KNOWN.get(kind, ())
    return (names,) if isinstance(names, str) else tuple(names)


def _network(kind: str, chosen: str, plain: Mapping[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    own = AutoConfig.for_model(kind)
    known = own.to_dict().keys() | {"id2label", "label2id", "num_labels"}
    config = AutoConfig.for_model(kind, **{key: value for key, value in plain.items() if key in known})
    config.architectures = [chosen]
    make: Callable[..., nn.Module] = AutoModelForImageClassification.from_config
    # Attention as transformers chooses by itself: its plain form rounds to float32 in a float64 network.
    return make(config, trust_remote_code=False)


def _plain(config: Mapping[str, Any], stored: Shapes, where: str) -> dict[str, Any]:
    """Return the configuration without what is not passed on.

    Raises:
        ArchitectureError: it asks for numbers that no network of the file's tensors has.
    """
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key.startswith("_") or key in _REFUSED_KEYS or key in {"model_type", "architectures"}:
            continue
        if not can_be_of(key, value, stored):
            msg = f"{where}: config.json asks for {clipped(key)} = {clipped(value)}, which cannot be; check the file"
            raise ArchitectureError(msg)
        kept[key] = _plain(value, stored, where) if isinstance(value, Mapping) else value
    return kept
