"""What a network holds besides the values of its parameters, and giving it back as it came."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fisher_cli.curvature.torch_backend.random_state import RandomState

# What every module has: a forward pass changes no parameters or submodules, and buffers are kept apart. `forward` is
# ours while blocks are computed anew.
_OF_EVERY_MODULE = (set(nn.Module().__dict__) | {"forward"}) - {"training"}


def _version(tensor: Tensor) -> int | None:
    """How often it was changed in place; None of an inference tensor, which does not count."""
    return None if tensor.is_inference() else tensor._version


class NetworkState:
    """Attributes and buffers of all modules as they are now.

    A forward pass may leave something behind: weights computed once and kept, a hidden state, a count of its calls.
    With `restore` after each, the network is a function of its parameters and its inputs. Lists and dictionaries among
    the attributes are held by what is in them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.renew()

    def renew(self) -> None:
        """Take the attributes and buffers as they are now, after a change that is to stay."""
        self._modules = dict(self._model.named_modules())
        self._attributes = {name: _attributes(module) for name, module in self._modules.items()}
        self._contents = {
            name: {key: value.copy() for key, value in held.items() if type(value) in {list, dict}}
            for name, held in self._attributes.items()
        }
        self._buffers = {name: dict(module._buffers) for name, module in self._modules.items()}
        self._values: dict[int, tuple[Tensor, int | None, Tensor]] = {}
        for held in self._buffers.values():
            for buffer in held.values():
                if buffer is not None and not buffer.is_meta:
                    self._values[id(buffer)] = (buffer, _version(buffer), buffer.detach().clone())

    def changed(self) -> list[str]:
        """The names of attributes and buffers that were replaced, or whose values have changed, since `renew`."""
        found = []
        for name, module in self._modules.items():
            before, now = self._attributes[name], _attributes(module)
            for key in {**before, **now}:
                if before.get(key) is not now.get(key) or _contents_differ(self._contents[name].get(key), now.get(key)):
                    found.append(f"{name}.{key}" if name else key)
            for key, buffer in self._buffers[name].items():
                if module._buffers.get(key) is not buffer or self._is_changed(buffer):
                    found.append(f"{name}.{key}" if name else key)
        return found

    def restore(self) -> None:
        """Put all attributes and buffers back as they were when made, or at the last `renew`.

        A buffer that was changed in place is replaced: a graph may hold it with the values that it has now.
        """
        replaced: dict[int, Tensor] = {}  # by what they replace, which several modules may share
        for name, module in self._modules.items():
            before, now = self._attributes[name], _attributes(module)
            if len(now) != len(before) or any(now.get(key) is not value for key, value in before.items()):
                for key in now.keys() - before.keys():
                    del module.__dict__[key]
                module.__dict__.update(before)
            for key, content in self._contents[name].items():
                if _contents_differ(content, before[key]):
                    before[key].clear()
                    before[key].extend(content) if isinstance(content, list) else before[key].update(content)
            for key, buffer in self._buffers[name].items():
                if buffer is not None and self._is_changed(buffer):
                    if id(buffer) not in replaced:
                        replaced[id(buffer)] = self._values[id(buffer)][2].clone()
                    self._buffers[name][key] = replaced[id(buffer)]
                if module._buffers.get(key) is not self._buffers[name][key]:
                    module._buffers[key] = self._buffers[name][key]
        for number, fresh in replaced.items():
            _, _, values = self._values.pop(number)
            self._values[id(fresh)] = (fresh, _version(fresh), values)

    def _is_changed(self, buffer: Tensor | None) -> bool:
        if buffer is None or id(buffer) not in self._values:
            return False
        _, version, values = self._values[id(buffer)]
        return not torch.equal(buffer, values) if version is None else buffer._version != version


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in module.__dict__.items() if key not in _OF_EVERY_MODULE}


def _contents_differ(before: Any, now: Any) -> bool:
    """Whether a list or dictionary holds other objects than before."""
    if before is None or type(now) is not type(before):
        return False
    if len(before) != len(now):
        return True
    if isinstance(before, list):
        return any(one is not other for one, other in zip(before, now, strict=True))
    return any(now.get(key) is not value for key, value in before.items())


def derives_weights(module: nn.Module) -> bool:
    """Whether a module has a `train` method other than torch's own: a change of mode may then change its weights."""
    return type(module).train is not nn.Module.train


def _has_max_norm(module: nn.Module) -> bool:
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Leave a network as it came: mode, precision, device, values, buffers, attributes, `requires_grad`.

    The global generators of torch on the CPU, of Python and of NumPy are put back, too.
    """
    random = RandomState.now(torch.device("cpu"))
    parameters = [(parameter, parameter.data, parameter.requires_grad) for parameter in model.parameters()]
    # Values that evaluation may change in place: rows of such an embedding are shortened, low-rank updates are merged.
    changing = [module for module in model.modules() if _has_max_norm(module) or derives_weights(module)]
    values_kept = {
        id(values): (values, values.clone()) for module in changing for values in (p.data for p in module.parameters())
    }
    state = NetworkState(model)
    buffers = [
        (module, name, buffer, None if buffer is None or buffer.is_meta else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        for parameter, values, requires_grad in parameters:
            parameter.data = values
            parameter.requires_grad_(requires_grad)
        for place, kept in values_kept.values():
            if not torch.equal(place, kept):
                place.copy_(kept)
        state.restore()
        for module, name, buffer, before in buffers:
            module._buffers[name] = buffer
            if buffer is not None and before is not None and not torch.equal(buffer, before):
                buffer.data.copy_(before)
        random.put_back()
