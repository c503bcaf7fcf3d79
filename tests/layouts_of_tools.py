"""Layouts of timm, transformers, accelerate, Lightning and torch.distributed.checkpoint, by these tools themselves."""

import argparse
import copy
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from fisher_cli.results import WeightsKind
from tests.layouts import Written, layout, network, optimizer, other_weights, prefixed, weights
from tests.saving import saved

# timm


def _timm_saver(folder: Path, **more: Any) -> Any:
    from timm.utils import CheckpointSaver

    sgd = torch.optim.SGD(network().parameters(), lr=0.1)
    return CheckpointSaver(network(), sgd, checkpoint_dir=str(folder), recovery_dir=str(folder), **more)


@layout("timm")
def _(folder: Path) -> Written:
    _timm_saver(folder).save_checkpoint(epoch=11, metric=80.0)
    return Written(folder, None, 11.0, "epoch")  # one: last and model_best are links to it


@layout("timm with a Namespace", needs_stand_ins=True)
def _(folder: Path) -> Written:
    _timm_saver(folder, args=argparse.Namespace(model="resnet18")).save_checkpoint(epoch=11, metric=80.0)
    return Written(folder / "last.pth.tar", None, 11.0, "epoch")


@layout("timm, recovery")
def _(folder: Path) -> Written:
    _timm_saver(folder).save_recovery(epoch=2, batch_idx=50)
    return Written(folder / "recovery-2-50.pth.tar", None, 2.0, "epoch")


@layout("timm, averaged")
def _(folder: Path) -> Written:
    from timm.utils import CheckpointSaver, ModelEmaV3

    raw = network(other_weights())
    sgd = torch.optim.SGD(raw.parameters(), lr=0.1)
    ema = ModelEmaV3(network())
    CheckpointSaver(raw, sgd, model_ema=ema, checkpoint_dir=str(folder)).save_checkpoint(epoch=5, metric=1.0)
    path = folder / "checkpoint-5.pth.tar"
    return Written(path, None, 5.0, "epoch", use_ema=True, kind=WeightsKind.EMA)


# Hugging Face


def _pretrained() -> Any:
    """The network inside a model of transformers."""
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import ImageClassifierOutput

    class DigitsConfig(PretrainedConfig):
        model_type = "digits"

    class DigitsForImageClassification(PreTrainedModel):
        config_class = DigitsConfig

        def __init__(self, config: DigitsConfig) -> None:
            super().__init__(config)
            self.net = network()
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            pass

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
            logits = self.net(pixel_values)
            loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
            return ImageClassifierOutput(loss=loss, logits=logits)

    return DigitsForImageClassification(DigitsConfig(num_labels=10))


@layout("transformers, save_pretrained")
def _(folder: Path) -> Written:
    _pretrained().save_pretrained(folder / "model")
    return Written(folder / "model", state_key="net")


@layout("transformers, save_pretrained in shards")
def _(folder: Path) -> Written:
    _pretrained().save_pretrained(folder / "checkpoint-30", max_shard_size="8KB")
    assert len(list((folder / "checkpoint-30").glob("model-*.safetensors"))) > 1
    return Written(folder / "checkpoint-30", 30, None, "name", state_key="net")


@layout("transformers, Trainer")
def _(folder: Path) -> Written:
    from transformers import Trainer, TrainingArguments

    data = [{"pixel_values": torch.rand(1, 8, 8), "labels": index} for index in range(8)]
    arguments = TrainingArguments(
        output_dir=str(folder / "run"),
        max_steps=2,
        per_device_train_batch_size=2,
        save_steps=2,
        learning_rate=0.0,
        weight_decay=0.0,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    Trainer(model=_pretrained(), args=arguments, train_dataset=data).train()
    return Written(folder / "run", 2, 0.5, "global_step, epoch", state_key="net")


@layout("transformers, pytorch_model.bin in shards")
def _(folder: Path) -> Written:
    state, place = list(weights().items()), {}
    for number, part in enumerate((state[:9], state[9:]), 1):
        name = f"pytorch_model-{number:05}-of-00002.bin"
        saved(folder / "m" / name, dict(part))
        place |= {key: name for key, _ in part}
    size = sum(value.numel() * value.element_size() for value in weights().values())
    index = {"metadata": {"total_size": size}, "weight_map": place}
    (folder / "m" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "m" / "trainer_state.json").write_text(
        '{"global_step": 70, "epoch": 1.5, "log_history": [{"loss": NaN}]}'
    )
    return Written(folder / "m", 70, 1.5, "global_step, epoch")


@layout("the cache of Hugging Face's hub")
def _(folder: Path) -> Written:
    blobs, snapshot = folder / "models--a--b" / "blobs", folder / "models--a--b" / "snapshots" / "step3000"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file(dict(weights()), blobs / "0a1b")
    (blobs / "2c3d").write_text('{"architecture": "resnet18", "num_classes": 10}')
    (snapshot / "model.safetensors").symlink_to("../../blobs/0a1b")
    (snapshot / "config.json").symlink_to("../../blobs/2c3d")
    return Written(snapshot, 3000, None, "name")


@layout("accelerate, save_state")
def _(folder: Path) -> Written:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = network()
    accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accelerator.save_state(str(folder / "checkpoint_6"))
    return Written(folder, 6, None, "name")


# Lightning


def _lightning_module(state: OrderedDict[str, Tensor] | None = None) -> Any:
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self, width: int = 16) -> None:  # noqa: ARG002  saved as a hyperparameter
            super().__init__()
            self.save_hyperparameters()
            self.net = network(state)

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    return Classifier()


def _fit(folder: Path, *callbacks: Any, epochs: int = 2) -> None:
    import lightning

    data = torch.utils.data.TensorDataset(torch.rand(4, 1, 8, 8), torch.arange(4))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(_lightning_module(), torch.utils.data.DataLoader(data, 2))


def _model_checkpoint(folder: Path, **options: Any) -> Any:
    from lightning.pytorch.callbacks import ModelCheckpoint

    return ModelCheckpoint(dirpath=folder, **options)


@layout("Lightning")
def _(folder: Path) -> Written:
    _fit(folder, _model_checkpoint(folder))
    return Written(folder / "epoch=1-step=4.ckpt", 4, 1.0, "global_step, epoch", state_key="state_dict.net")


@layout("Lightning, last.ckpt beside its copy")
def _(folder: Path) -> Written:
    _fit(folder, _model_checkpoint(folder, save_last=True))
    assert len(list(folder.glob("*.ckpt"))) == 2
    return Written(folder, 4, 1.0, "global_step, epoch", state_key="state_dict.net")


@layout("Lightning, a name in use")
def _(folder: Path) -> Written:
    for _ in range(2):
        _fit(folder, _model_checkpoint(folder, filename="{epoch}"), epochs=1)
    return Written(folder / "epoch=0-v1.ckpt", 2, 0.0, "global_step, epoch", state_key="state_dict.net")


def _fit_averaging(folder: Path) -> Path:
    """A run whose raw weights and whose average are the network's, as nothing moves them."""
    from lightning.pytorch.callbacks import WeightAveraging

    _fit(folder, WeightAveraging(), _model_checkpoint(folder))
    return folder / "epoch=1-step=4.ckpt"


@layout("Lightning, WeightAveraging, raw")
def _(folder: Path) -> Written:
    path = _fit_averaging(folder)
    return Written(path, 4, 1.0, "global_step, epoch", state_key="current_model_state.net")


@layout("Lightning, WeightAveraging, averaged")
def _(folder: Path) -> Written:
    path = _fit_averaging(folder)
    source = "global_step, epoch"
    return Written(path, 4, 1.0, source, state_key="state_dict.net", kind=WeightsKind.AVERAGED)


@layout("Lightning Fabric")
def _(folder: Path) -> Written:
    from lightning.fabric import Fabric

    Fabric(accelerator="cpu", devices=1).save(folder / "state.ckpt", {"model": network(), "step": 17})
    return Written(folder / "state.ckpt", 17, None, "step")


# torch.distributed.checkpoint


def _save_distributed(folder: Path, state: dict[str, Any]) -> None:
    import torch.distributed.checkpoint as distributed_checkpoint

    distributed_checkpoint.save(copy.deepcopy(state), checkpoint_id=folder, no_dist=True)


@layout("torch.distributed.checkpoint")
def _(folder: Path) -> Written:
    state = {"model": weights(), "optim": optimizer(), "epoch": 3, "step": torch.tensor(90)}
    _save_distributed(folder / "run" / "any", state)
    return Written(folder / "run", 90, None, "step")


@layout("torch.distributed.checkpoint at the root, bfloat16")
def _(folder: Path) -> Written:
    _save_distributed(folder / "step_60", dict(network().bfloat16().state_dict()))
    return Written(folder / "step_60", 60, None, "name")


@layout("torch.distributed.checkpoint in Hugging Face's format")
def _(folder: Path) -> Written:
    import torch.distributed.checkpoint as distributed_checkpoint

    writer = distributed_checkpoint.HuggingFaceStorageWriter(str(folder / "iteration_12"))
    distributed_checkpoint.save(dict(weights()), storage_writer=writer, no_dist=True)
    return Written(folder / "iteration_12", 12, None, "name")


@layout("Lightning, sharded")
def _(folder: Path) -> Written:
    path = folder / "epoch=2-step=30.ckpt"
    _save_distributed(path, {"state_dict": prefixed(weights(), "net."), "optimizer_0": optimizer()})
    saved(path / "meta.pt", {"epoch": 2, "global_step": 30, "pytorch-lightning_version": "2.6.6", "loops": {}})
    return Written(folder, 30, 2.0, "global_step, epoch", state_key="state_dict.net")


@layout("transformers, Trainer with FSDP")
def _(folder: Path) -> Written:
    path = folder / "run" / "checkpoint-8"
    _save_distributed(path / "pytorch_model_fsdp_0", {"model": weights()})
    (path / "trainer_state.json").write_text('{"global_step": 8, "epoch": 4.0}')
    return Written(folder / "run", 8, 4.0, "global_step, epoch")
