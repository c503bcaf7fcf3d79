"""How many examples go through the network at once: a fixed rule of the network's shapes and the machine's memory."""

import torch
from torch import Tensor, nn

from fisher_cli.curvature.torch_backend.evaluation import evaluated
from fisher_cli.curvature.torch_backend.machine_memory import total_memory
from fisher_cli.curvature.torch_backend.malloc import is_large

# Directions whose cotangents are held at once; more of them are taken in turns.
DIRECTIONS_AT_ONCE = 16
# The working set of a batch stays below this share of the memory, of a GPU, which nothing else uses and which small
# batches leave idle, below a larger one …
MEMORY_SHARE = 1 / 16
GPU_MEMORY_SHARE = 1 / 2
# … in which a batch of at least so many examples is a multiple of it: GPU kernels work on tiles of positions.
GPU_MULTIPLE = 16
# … and, on the CPU, below this: larger batches fall out of the caches. It gives a ResNet-20 sixteen examples.
CPU_BYTES = 384 * 2**20
# … but for this many examples, with which large convolutions are faster than one by one although nothing is cached.
FEWEST = 8
LARGEST = 1024
# Graphs kept between products hold at most this share of the memory.
GRAPH_SHARE = 1 / 8
# Of a large network, whose gradients fill the memory, the cotangents held at once on the CPU take no more than this.
LARGE_COTANGENT_BYTES = 2**25
# Besides one cotangent per direction a layer's output is held as such, as the next layer's input, as patches.
OVERHEAD = 6


def values_per_example(model: nn.Module, inputs: Tensor) -> int:
    """Output values of all leaf modules per example, measured in one forward pass; the input's as well.

    Args:
        model: the network, in evaluation mode.
        inputs: (B, …), on its device and in its precision.

    Returns:
        A number of values, at least 1; outputs that are no tensors are not counted.
    """
    total = inputs.numel()

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel()

    handles = [
        module.register_forward_hook(count) for module in model.modules() if next(module.children(), None) is None
    ]
    try:
        with torch.no_grad():
            evaluated(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return max(1, total // len(inputs))


def network_bytes(model: nn.Module) -> int:
    """What the parameters take, those that are not analysed too; in bfloat16 as much as in float32, as sums do."""
    return sum(parameter.numel() * max(4, parameter.element_size()) for parameter in model.parameters())


def directions_at_once(model: nn.Module, bytes_per_direction: int, device: torch.device) -> int:
    """Directions that go back together: 16, fewer of a large network on the CPU, by what their cotangents take.

    Args:
        model: the network.
        bytes_per_direction: bytes of the largest cotangent of a layer, for all examples of the batch.
        device: where it is evaluated.
    """
    if device.type != "cpu" or not is_large(network_bytes(model)):
        return DIRECTIONS_AT_ONCE
    return max(1, min(DIRECTIONS_AT_ONCE, LARGE_COTANGENT_BYTES // max(1, bytes_per_direction)))


def memory_bytes(device: torch.device) -> int:
    """Bytes of memory of the device; for the CPU what this process may use of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return total_memory()[0]


def automatic_batch_size(values: int, like: Tensor, directions: int, examples: int) -> int:
    """Batch size = budget / (values per example · (directions + overhead) · bytes per value), from 1 to 1024.

    On the CPU the budget is that of the caches, or of eight examples if these stay within the share of the memory.
    On a GPU a batch of more than sixteen is a multiple of sixteen, unless it holds all examples.
    """
    at_once = min(directions, DIRECTIONS_AT_ONCE)
    per_example = values * (at_once + OVERHEAD) * like.element_size()
    if like.device.type == "cpu":
        budget = min(int(memory_bytes(like.device) * MEMORY_SHARE), max(CPU_BYTES, FEWEST * per_example))
        return max(1, min(LARGEST, examples, budget // per_example))
    fitting = min(LARGEST, int(memory_bytes(like.device) * GPU_MEMORY_SHARE) // per_example)
    if fitting > GPU_MULTIPLE:
        fitting -= fitting % GPU_MULTIPLE
    return max(1, min(examples, fitting))


def graph_bytes(device: torch.device) -> int:
    """Bytes that the graphs of forward passes may hold between products, an eighth of the device's memory."""
    return int(memory_bytes(device) * GRAPH_SHARE)
