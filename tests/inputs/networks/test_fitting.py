"""A checkpoint's weights go into a network entirely or not at all, from under whatever prefix they stand."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from fisher_cli.inputs.checkpoints.checkpoints import ReadOptions, find_checkpoints, load_checkpoint
from fisher_cli.inputs.networks.fitting import load_weights, network_notes
from tests.architecture_cases import checkpoint, message

# Weights into the network


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_weights_are_copied_in_the_precision_of_the_network() -> None:
    original, network = small(), small().double()
    network[0].weight.requires_grad_(False)
    parameter = network[0].weight
    load_weights(network, checkpoint(original.state_dict()))
    assert network[0].weight is parameter
    assert parameter.dtype is torch.float64
    assert torch.equal(parameter, original[0].weight.detach().double())
    assert [each.requires_grad for each in network.parameters()] == [False] + [True] * 5
    parameter.zero_()
    assert original[0].weight.abs().sum() > 0, "the network must not share storage with the checkpoint"


def test_missing_unexpected_and_misshapen_names_are_listed_together() -> None:
    weights = dict(small().state_dict())
    del weights["0.bias"]
    weights["3.weight"] = torch.zeros(2)
    weights["2.weight"] = torch.zeros(5, 4)
    weights["1.weight"] = torch.zeros(4, dtype=torch.int64)
    network = small()
    before = network[0].weight.clone()
    text = message(lambda: load_weights(network, checkpoint(weights)))
    assert text.startswith("run/a.pt: ")
    assert "1 missing: 0.bias (4);" in text
    assert "1 unexpected: 3.weight (2);" in text
    assert "2.weight (5, 4) in the file and (2, 4) in the network" in text
    assert "1.weight int64 in the file and float32 in the network" in text
    assert "check --model" in text
    assert torch.equal(network[0].weight, before), "nothing may be loaded when anything disagrees"


def test_names_that_are_missing_are_told_with_the_nearest_names_of_the_file() -> None:
    network = nn.Sequential(OrderedDict(features=nn.Linear(3, 4), classifier=nn.Linear(4, 2)))
    renamed = {"features": "backbone", "classifier": "class_head"}
    weights = {
        f"{renamed[layer]}.{part}": value
        for name, value in network.state_dict().items()
        for layer, _, part in [name.partition(".")]
    }
    text = message(lambda: load_weights(network, checkpoint(weights)))
    assert "4 missing: features.weight (4, 3), features.bias (4), classifier.weight (2, 4), classifier.bias (2)" in text
    assert "4 unexpected: backbone.weight (4, 3), " in text
    assert (
        "nearest names in the file: backbone.weight for features.weight, backbone.bias for features.bias, "
        "class_head.weight for classifier.weight" in text
    )
    far = message(lambda: load_weights(network, checkpoint({"q": torch.zeros(7)})))
    assert "nearest" not in far


def test_long_lists_are_cut() -> None:
    weights = {f"extra{index}": torch.zeros(1) for index in range(20)}
    text = message(lambda: load_weights(nn.Linear(1, 1), checkpoint(weights)))
    assert "20 unexpected: extra0 (1), " in text
    assert "extra7 (1), … and 12 more" in text


def test_a_floating_counter_is_refused() -> None:
    weights = dict(small().state_dict())
    weights["1.num_batches_tracked"] = torch.tensor(3.0)
    assert "types differ" in message(lambda: load_weights(small(), checkpoint(weights)))


def test_old_checkpoints_without_batch_counters_are_taken() -> None:
    original, network = small(), small()
    weights = {key: value for key, value in original.state_dict().items() if "tracked" not in key}
    load_weights(network, checkpoint(weights))
    assert torch.equal(network[1].running_var, original[1].running_var)
    assert torch.equal(network[2].weight, original[2].weight)


class Wrapping(nn.Module):
    """A network whose only submodule is genuinely called `module`."""

    def __init__(self) -> None:
        super().__init__()
        self.module = small()


def test_a_network_whose_own_submodule_is_called_module_is_loaded(tmp_path: Path) -> None:
    original, network = Wrapping(), Wrapping()
    torch.save(original.state_dict(), tmp_path / "a.pt")
    load_weights(network, load_checkpoint(find_checkpoints([tmp_path / "a.pt"])[0]))
    assert torch.equal(network.module[2].weight, original.module[2].weight)


def test_buffers_that_are_not_saved_are_no_obstacle() -> None:
    network = nn.Linear(2, 2)
    network.register_buffer("table", torch.ones(3), persistent=False)
    load_weights(network, checkpoint(nn.Linear(2, 2).state_dict()))
    assert torch.equal(network.table, torch.ones(3))


def test_tied_weights_stay_tied() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    load_weights(network, checkpoint({key: value + 1 for key, value in network.state_dict().items()}))
    assert network[1].weight is network[0].weight


def test_pruned_weights_are_told_how_to_become_dense() -> None:
    pruned = prune.l1_unstructured(nn.Linear(4, 2), "weight", 0.5)
    text = message(lambda: load_weights(nn.Linear(4, 2), checkpoint(pruned.state_dict())))
    assert "torch.nn.utils.prune.remove" in text
    prune.remove(pruned, "weight")  # the remedy works
    load_weights(nn.Linear(4, 2), checkpoint(pruned.state_dict()))


@pytest.mark.parametrize("prefix", ["net.", "model.", "encoder.", "a.b.anything."])
def test_a_prefix_before_all_names_is_found_and_what_stands_beside_it_named(tmp_path: Path, prefix: str) -> None:
    original, network = small(), small()
    weights = {f"{prefix}{key}": value for key, value in original.state_dict().items()}
    torch.save({"state_dict": {**weights, "criterion.weight": torch.ones(2)}}, tmp_path / "a.ckpt")
    loaded = load_checkpoint(find_checkpoints([tmp_path / "a.ckpt"])[0])
    load_weights(network, loaded)
    assert all(torch.equal(value, original.state_dict()[key]) for key, value in network.state_dict().items())
    assert network_notes(network, loaded) == (f"the network's names stand under {prefix}; not used: criterion.weight",)


def test_names_under_the_prefix_that_the_network_lacks_are_still_refused() -> None:
    weights = {f"net.{key}": value for key, value in small().state_dict().items()}
    text = message(lambda: load_weights(small(), checkpoint({**weights, "net.3.weight": torch.ones(2)})))
    assert "1 unexpected: 3.weight" in text


def test_weights_under_two_prefixes_are_not_chosen_between(tmp_path: Path) -> None:
    first, second, network = small(), small(), small()
    both = {
        f"{p}.{key}": value for p, each in (("q", first), ("k", second)) for key, value in each.state_dict().items()
    }
    torch.save({"state_dict": both}, tmp_path / "a.ckpt")
    [file] = find_checkpoints([tmp_path / "a.ckpt"])
    text = message(lambda: load_weights(network, load_checkpoint(file)))
    assert "pass --state-key state_dict.q or --state-key state_dict.k" in text
    load_weights(network, load_checkpoint(file, ReadOptions(state_key="state_dict.k")))  # the remedy works
    assert torch.equal(network[2].weight, second[2].weight)


def test_of_two_prefixes_the_one_whose_shapes_fit_is_taken() -> None:
    original, network = small(), small()
    teacher = nn.Sequential(nn.Linear(3, 9), nn.BatchNorm1d(9), nn.Linear(9, 2))
    pairs = (("teacher", teacher), ("student", original))
    weights = {f"{p}.{key}": value for p, each in pairs for key, value in each.state_dict().items()}
    load_weights(network, checkpoint(weights))
    assert torch.equal(network[2].weight, original[2].weight)


def test_a_network_without_storage_is_refused() -> None:
    with torch.device("meta"):
        hollow = nn.Linear(2, 2)
    for network in (hollow, nn.LazyLinear(2)):
        text = message(lambda network=network: load_weights(network, checkpoint(nn.Linear(2, 2).state_dict())))
        assert "let the factory build them whole" in text
