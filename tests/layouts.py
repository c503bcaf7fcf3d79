"""One small trained network, saved in every way that trainers save networks: by their own tools where these install.

The weights are such that float16 and bfloat16 hold them exactly, so that each of these files holds the same network.
"""

import argparse
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from fisher_cli.inputs.formats.containers import Payload
from fisher_cli.inputs.networks.digits_networks import digits_cnn
from fisher_cli.results import WeightsKind
from tests.saving import saved

SAMPLES = Path(__file__).parents[1] / "sample_checkpoints" / "digits-cnn"
COUNTER = "num_batches_tracked"  # a step of a trainer adds one to it; nothing depends on it


@dataclass(frozen=True)
class Written:
    """Where a layout lies, what must be read from it, and what a user types for it besides `--model`."""

    path: Path
    step: int | None = None
    epoch: float | None = None
    step_source: str = "order"
    state_key: str | None = None
    use_ema: bool = False
    kind: WeightsKind = WeightsKind.RAW
    model: str = "digits-cnn"


Writer = Callable[[Path], Written]
LAYOUTS: dict[str, Writer] = {}
# Files with a Namespace, a class or a number of numpy in them need stand-ins for what they name.
NEED_STAND_INS: set[str] = set()
HAS_STAND_INS = "ignored_types" in {field.name for field in fields(Payload)}


def layout(name: str, *, needs_stand_ins: bool = False) -> Callable[[Writer], Writer]:
    def add(writer: Writer) -> Writer:
        assert name not in LAYOUTS
        LAYOUTS[name] = writer
        NEED_STAND_INS.update([name] if needs_stand_ins else [])
        return writer

    return add


# The network


@cache
def _weights(step: int) -> dict[str, Tensor]:
    saved = torch.load(SAMPLES / f"step_{step:05}.pt", weights_only=True)["state_dict"]
    return {
        name: torch.where(value.abs() < 1e-4, 0.0, value.bfloat16().float()) if value.is_floating_point() else value
        for name, value in saved.items()
    }


def weights() -> OrderedDict[str, Tensor]:
    """What every layout must give back."""
    return OrderedDict((name, value.clone()) for name, value in _weights(440).items())


def other_weights() -> OrderedDict[str, Tensor]:
    """What stands beside: an average of other weights, or the weights of which these are the average."""
    return OrderedDict((name, value.clone()) for name, value in _weights(44).items())


def network(state: OrderedDict[str, Tensor] | None = None) -> nn.Sequential:
    """The network with its weights; batch norm does not move when a trainer runs it."""
    module = digits_cnn()
    module.load_state_dict(weights() if state is None else state)
    for layer in module:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0
    return module


class Featured(nn.Module):
    """The network with its convolutions in `features`, as AlexNet and VGG have theirs."""

    def __init__(self) -> None:
        super().__init__()
        layers = list(digits_cnn())
        self.features, self.classifier = nn.Sequential(*layers[:-1]), layers[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs))


def featured_name(name: str) -> str:
    return f"features.{name}" if not name.startswith("11.") else name.replace("11.", "classifier.")


def optimizer() -> dict[str, Any]:
    """The state of an optimizer after a step: tensors that are no weights."""
    parameter = nn.Parameter(torch.ones(20_000))
    adam = torch.optim.Adam([parameter])
    parameter.sum().backward()
    adam.step()
    return adam.state_dict()


def prefixed(state: dict[str, Tensor], prefix: str) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + name, value) for name, value in state.items())


# Plain files


@layout("state dict")
def _(folder: Path) -> Written:
    return Written(saved(folder / "weights.pt", weights()))


@layout("state dict, older than torch 1.6")
def _(folder: Path) -> Written:
    return Written(saved(folder / "weights.pth", weights(), _use_new_zipfile_serialization=False))


@layout("state dict of half precision")
def _(folder: Path) -> Written:
    return Written(saved(folder / "step_7.pt", network().half().state_dict()), 7, None, "name")


@layout("safetensors")
def _(folder: Path) -> Written:
    path = folder / "a.safetensors"
    safetensors.torch.save_file(dict(weights()), path, metadata={"format": "pt", "step": "40", "epoch": "2.5"})
    return Written(path, 40, 2.5, "step, epoch")


@layout("safetensors of a module, bfloat16")
def _(folder: Path) -> Written:
    safetensors.torch.save_model(network().bfloat16(), str(folder / "epoch_4.safetensors"))
    return Written(folder / "epoch_4.safetensors", None, 4.0, "name")


@layout("PyTorch tutorial")
def _(folder: Path) -> Written:
    content = {"epoch": 5, "model_state_dict": weights(), "optimizer_state_dict": optimizer(), "loss": torch.ones(())}
    return Written(saved(folder / "model.tar", content), None, 5.0, "epoch")


@layout("step 0")
def _(folder: Path) -> Written:
    return Written(saved(folder / "init.pt", {"model": weights(), "step": 0}), 0, None, "step")


class _WrittenAs:
    """What a pickle calls with which arguments, and the state that it then sets."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce_ex__(self, _: object) -> Any:
        return self.parts


def of_old_torch(tensor: Tensor, kind: type = nn.Parameter) -> _WrittenAs:
    """A tensor or a Variable as torch wrote it until 0.3: its class, called with the data, then a state of three."""
    shape, strides = tuple(tensor.shape), tensor.stride()
    data = _WrittenAs(torch._utils._rebuild_tensor, (tensor.storage(), 0, shape, strides))
    return _WrittenAs(kind, (data,), (kind is nn.Parameter, False, OrderedDict()))


OLD: dict[str, Any] = {"_use_new_zipfile_serialization": False}


@layout("state dict of parameters, torch 0.3")
def _(folder: Path) -> Written:
    content = OrderedDict((name, of_old_torch(value)) for name, value in weights().items())
    return Written(saved(folder / "net_params.pkl", content, **OLD))


@layout("dict with a state dict of variables, torch 0.3")
def _(folder: Path) -> Written:
    state = {name: of_old_torch(value, torch.autograd.Variable) for name, value in weights().items()}
    return Written(saved(folder / "net.pkl", {"epoch": 3, "state_dict": state}, **OLD), None, 3.0, "epoch")


@layout("whole module, torch 0.3", needs_stand_ins=True)
def _(folder: Path) -> Written:
    model = network()
    for module in model.modules():
        own = vars(module)["_parameters"]
        own |= {name: of_old_torch(value.detach()) for name, value in own.items() if value is not None}
    return Written(saved(folder / "net.pkl", model, **OLD))


# Lists of state dicts, as papers on robustness keep them


@layout("list of one state dict")
def _(folder: Path) -> Written:
    return Written(saved(folder / "a.pt", {"epoch": 9, "state_dict": [weights()]}), None, 9.0, "epoch")


@layout("list of several state dicts")
def _(folder: Path) -> Written:
    path = saved(folder / "a.pt", {"state_dict": [other_weights(), weights()], "epoch": 9})
    return Written(path, None, 9.0, "epoch", state_key="state_dict.1")


@layout("tuple of a state dict and an optimizer's state")
def _(folder: Path) -> Written:
    return Written(saved(folder / "a.pt", (weights(), optimizer(), 7)))


# Wrappers


@layout("DataParallel")
def _(folder: Path) -> Written:
    return Written(saved(folder / "a.pt", nn.DataParallel(network()).state_dict()))


@layout("torch.compile")
def _(folder: Path) -> Written:
    return Written(saved(folder / "a.pt", torch.compile(network()).state_dict()))


@layout("DataParallel of torch.compile")
def _(folder: Path) -> Written:
    return Written(saved(folder / "a.pt", nn.DataParallel(torch.compile(network())).state_dict()))


@layout("AveragedModel")
def _(folder: Path) -> Written:
    averaged = torch.optim.swa_utils.AveragedModel(network())
    averaged.update_parameters(network())
    return Written(saved(folder / "swa.pt", averaged.state_dict()), kind=WeightsKind.AVERAGED)


@layout("FSDP and activation checkpointing")
def _(folder: Path) -> Written:
    names = {
        name: "_fsdp_wrapped_module." + name.replace("3.", "3._checkpoint_wrapped_module.", 1) for name in weights()
    }
    return Written(saved(folder / "a.pt", {"model": {names[name]: value for name, value in weights().items()}}))


# torchvision's references, pytorch/examples and single repositories


def _of_torchvision(args: object, **more: object) -> dict[str, object]:
    steps = torch.optim.lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), 3).state_dict()
    return {
        "model": weights(),
        "optimizer": optimizer(),
        "lr_scheduler": steps,
        "epoch": 12,
        "args": args,
        **more,
        "scaler": {"scale": 65536.0},
    }


@layout("torchvision's references")
def _(folder: Path) -> Written:
    path = saved(folder / "model_12.pth", _of_torchvision({"lr": 0.1}))
    return Written(path, None, 12.0, "epoch")


@layout("torchvision's references, checkpoint.pth with a Namespace", needs_stand_ins=True)
def _(folder: Path) -> Written:
    path = saved(folder / "checkpoint.pth", _of_torchvision(argparse.Namespace(lr=0.1, output=folder)))
    return Written(path, None, 12.0, "epoch")


@layout("torchvision's references with model_ema, raw")
def _(folder: Path) -> Written:
    average = torch.optim.swa_utils.AveragedModel(network(other_weights())).state_dict()
    return Written(saved(folder / "model_12.pth", _of_torchvision({}, model_ema=average)), None, 12.0, "epoch")


@layout("torchvision's references with model_ema, averaged")
def _(folder: Path) -> Written:
    average = torch.optim.swa_utils.AveragedModel(network()).state_dict()
    content = {**_of_torchvision({}, model_ema=average), "model": other_weights()}
    path = saved(folder / "model_12.pth", content)
    return Written(path, None, 12.0, "epoch", use_ema=True, kind=WeightsKind.EMA)


@layout("pytorch/examples imagenet")
def _(folder: Path) -> Written:
    content = {
        "epoch": 31,
        "arch": "resnet18",
        "state_dict": nn.DataParallel(network()).state_dict(),
        "best_acc1": torch.tensor(71.5),
        "optimizer": optimizer(),
        "scheduler": {},
    }
    return Written(saved(folder / "checkpoint.pth.tar", content), None, 31.0, "epoch")


@layout("pytorch/examples imagenet, features.module")
def _(folder: Path) -> Written:
    model = Featured()
    model.load_state_dict({featured_name(name): value for name, value in weights().items()})
    model.features = nn.DataParallel(model.features)
    content = {"epoch": 3, "arch": "vgg11", "state_dict": model.state_dict(), "best_prec1": 55.0}
    path = saved(folder / "model_best.pth.tar", content)
    return Written(path, None, 3.0, "epoch", model="tests.layouts:Featured")


@layout("nanoGPT")
def _(folder: Path) -> Written:
    content = {
        "model": torch.compile(network()).state_dict(),
        "optimizer": optimizer(),
        "model_args": {"n_layer": 3, "bias": False},
        "iter_num": 2000,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "digits"},
    }
    return Written(saved(folder / "ckpt.pt", content), 2000, None, "iter_num")


@layout("kuangliu/pytorch-cifar")
def _(folder: Path) -> Written:
    content = {"net": nn.DataParallel(network()).state_dict(), "acc": 95.1, "epoch": 199}
    return Written(saved(folder / "checkpoint" / "ckpt.pth", content), None, 199.0, "epoch")


@layout("akamaster")
def _(folder: Path) -> Written:
    content = {"state_dict": nn.DataParallel(network()).state_dict(), "best_prec1": 91.7}
    return Written(saved(folder / "digits-12fca82f.th", content, _use_new_zipfile_serialization=False))


@layout("fastai")
def _(folder: Path) -> Written:
    return Written(saved(folder / "stage-1.pth", {"model": weights(), "opt": optimizer()}))


@layout("BasicSR, raw")
def _(folder: Path) -> Written:
    content = {"params": weights(), "params_ema": other_weights()}
    return Written(saved(folder / "net_g_5000.pth", content))


@layout("BasicSR, averaged")
def _(folder: Path) -> Written:
    path = saved(folder / "net_g_5000.pth", {"params": other_weights(), "params_ema": weights()})
    return Written(path, use_ema=True, kind=WeightsKind.EMA)


@layout("Composer")
def _(folder: Path) -> Written:
    content = {"state": {"model": prefixed(weights(), "module."), "optimizers": {"Adam": optimizer()}}, "rng": []}
    return Written(saved(folder / "ep3-ba120-rank0.pt", content), 120, 3.0, "name")


@layout("detectron2")
def _(folder: Path) -> Written:
    content = {"model": weights(), "optimizer": optimizer(), "scheduler": {}, "iteration": 4999}
    return Written(saved(folder / "model_0004999.pth", content), 4999, None, "iteration")


@layout("fvcore, model_final")
def _(folder: Path) -> Written:
    return Written(saved(folder / "model_final.pth", {"model": weights(), "iteration": 8}), 8, None, "iteration")


@layout("MMEngine")
def _(folder: Path) -> Written:
    meta = {"epoch": 3, "iter": 360, "cfg": "model = dict()", "mmengine_version": "0.10.4"}
    content = {"meta": meta, "state_dict": weights(), "message_hub": {}, "optimizer": optimizer()}
    return Written(saved(folder / "epoch_3.pth", content), 360, 3.0, "meta.iter, meta.epoch")


@layout("MMEngine, only weights")
def _(folder: Path) -> Written:
    return Written(saved(folder / "iter_400.pth", {"state_dict": weights()}), 400, None, "name")


@layout("MoCo")
def _(folder: Path) -> Written:
    state = {
        **prefixed(weights(), "module.encoder_q."),
        **prefixed(other_weights(), "module.encoder_k."),
        "module.queue": torch.zeros(128, 8),
        "module.queue_ptr": torch.zeros(1, dtype=torch.int64),
    }
    path = saved(folder / "checkpoint_0199.pth.tar", {"epoch": 200, "arch": "resnet50", "state_dict": state})
    return Written(path, None, 200.0, "epoch", state_key="state_dict.encoder_q")


@layout("DINO, student")
def _(folder: Path) -> Written:
    content = {"student": prefixed(weights(), "module."), "teacher": other_weights(), "epoch": 100}
    return Written(saved(folder / "checkpoint0100.pth", content), None, 100.0, "epoch")


@layout("DINO, teacher")
def _(folder: Path) -> Written:
    content = {"student": prefixed(other_weights(), "module."), "teacher": weights(), "epoch": 100}
    path = saved(folder / "checkpoint0100.pth", content)
    return Written(path, None, 100.0, "epoch", use_ema=True, kind=WeightsKind.EMA)


@layout("open_clip")
def _(folder: Path) -> Written:
    content = {"epoch": 1, "name": "run", "state_dict": prefixed(weights(), "module."), "optimizer": optimizer()}
    return Written(saved(folder / "epoch_1.pt", content), None, 1.0, "epoch")


@layout("whole module", needs_stand_ins=True)
def _(folder: Path) -> Written:
    return Written(saved(folder / "epoch3.pt", {"model": network(), "epoch": 3}), None, 3.0, "epoch")


@layout("numbers of numpy and paths", needs_stand_ins=True)
def _(folder: Path) -> Written:
    loss = torch.tensor(1.5).numpy()[()]
    return Written(
        saved(folder / "a.pt", {"state_dict": weights(), "loss": loss, "out": folder, "step": 9}), 9, None, "step"
    )


# DeepSpeed


@layout("DeepSpeed")
def _(folder: Path) -> Written:
    content = {"module": network().half().state_dict(), "global_steps": 500, "ds_version": "0.15", "mp_world_size": 1}
    saved(folder / "global_step500" / "mp_rank_00_model_states.pt", content)
    saved(
        folder / "global_step500" / "zero_pp_rank_0_mp_rank_00_optim_states.pt", {"optimizer_state_dict": optimizer()}
    )
    (folder / "latest").write_text("global_step500")
    return Written(folder, 500, None, "global_steps")
