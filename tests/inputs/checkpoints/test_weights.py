"""What was saved → the right weights, under clean names, in types that networks compute in."""

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from fisher_cli.errors import ArchitectureError, CheckpointError, NoWeightsError
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, nonfinite_names
from fisher_cli.inputs.checkpoints.weights import clean_names
from fisher_cli.inputs.networks.networks import Networks
from fisher_cli.results import WeightsKind
from tests.checkpoint_files import WEIGHTS, checked, load, refusal
from tests.saving import as_bytes, saved

# Where the weights are


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "module", "weights"])
def test_the_usual_keys_are_found(tmp_path: Path, key: str) -> None:
    content = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}, key: WEIGHTS}
    checkpoint = load(saved(tmp_path / "a.pt", content))
    assert checkpoint.state_key == key
    assert list(checkpoint.weights) == list(WEIGHTS)
    assert checkpoint.notes == ()


def test_weights_at_the_root_leave_the_counters_beside_them_out(tmp_path: Path) -> None:
    content = {**WEIGHTS, "epoch": torch.tensor(3), "arch": "digits-mlp"}
    checkpoint = load(saved(tmp_path / "a.pt", content))
    assert checkpoint.state_key == ""
    assert list(checkpoint.weights) == list(WEIGHTS)
    assert checkpoint.epoch == 3.0
    assert checkpoint.notes == ("left out, being no tensors: arch",)


def test_an_explicit_key_is_dotted_and_wins(tmp_path: Path) -> None:
    averaged = {key: value + 1 for key, value in WEIGHTS.items()}
    path = saved(tmp_path / "a.pt", {"state_dict": WEIGHTS, "extra": {"ema": averaged}})
    checkpoint = load(path, state_key="extra.ema")
    assert checkpoint.state_key == "extra.ema"
    assert torch.equal(checkpoint.weights["0.bias"], averaged["0.bias"])


def test_an_explicit_key_may_end_in_a_prefix_of_the_names(tmp_path: Path) -> None:
    names = {f"net.{key}": value for key, value in WEIGHTS.items()}
    path = saved(tmp_path / "a.pt", {"state_dict": {**names, "criterion.weight": torch.ones(2)}})
    checkpoint = load(path, state_key="state_dict.net")
    assert list(checkpoint.weights) == list(WEIGHTS)
    assert checkpoint.notes == ("only names beginning with net. used",)


def test_a_key_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"state_dict": WEIGHTS, "extra": {"ema": WEIGHTS}, "epoch": 1})
    message = refusal(path, NoWeightsError, state_key="model")
    assert "--state-key model" in message
    assert "state_dict, extra.ema" in message
    assert list(load(path, state_key="extra.ema").weights) == list(WEIGHTS)  # the remedy works


def test_a_file_without_weights_lists_its_keys(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1).state_dict()
    path = saved(tmp_path / "a.pt", {"optimizer": optimizer, "epoch": 3})
    assert "its keys are optimizer, epoch;" in refusal(path, NoWeightsError)


def test_of_weights_at_unusual_keys_the_largest_are_taken_and_named(tmp_path: Path) -> None:
    large = {"w": torch.ones(100)}
    alone = load(saved(tmp_path / "a.pt", {"extra": {"generator": WEIGHTS}}))
    assert (alone.state_key, alone.notes) == (
        "extra.generator",
        ("weights taken from extra.generator, an unusual place",),
    )
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1000))]).state_dict()
    path = saved(tmp_path / "b.pt", {"critic": WEIGHTS, "actor": large, "optimizer": optimizer})
    found = load(path)
    assert (found.state_key, list(found.weights)) == ("actor", ["w"])
    assert found.notes == ("weights taken from actor, the largest of critic, actor",)


def test_between_weights_of_one_size_nothing_is_guessed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"one": WEIGHTS, "two": dict(WEIGHTS)})
    message = refusal(path, NoWeightsError)
    assert "weights are under one, two" in message
    assert "--state-key one" in message
    assert load(path, state_key="two").state_key == "two"  # the remedy works


def test_of_a_list_of_state_dicts_the_message_names_each_choice(tmp_path: Path) -> None:
    after = {name: value + 1 for name, value in WEIGHTS.items()}
    path = saved(tmp_path / "a.pt", {"state_dict": [WEIGHTS, after], "epoch": 1})
    message = refusal(path, NoWeightsError)
    assert "state_dict is a list of 2 state dicts" in message
    assert message.endswith("choose one: --state-key state_dict.0, --state-key state_dict.1")
    for number, expected in enumerate((WEIGHTS, after)):  # the remedy works
        found = load(path, state_key=f"state_dict.{number}")
        assert (found.state_key, found.ignored) == (f"state_dict.{number}", ())
        assert torch.equal(found.weights["0.bias"], expected["0.bias"])


def test_a_list_of_one_state_dict_is_that_state_dict_and_the_tensors_of_a_list_are_none(tmp_path: Path) -> None:
    found = load(saved(tmp_path / "a.pt", {"state_dict": [WEIGHTS], "optimizer_states": [{"param_groups": []}]}))
    assert (found.state_key, list(found.weights), found.notes) == ("state_dict.0", list(WEIGHTS), ())
    assert "holds a list" in refusal(saved(tmp_path / "b.pt", list(WEIGHTS.values())), NoWeightsError)
    average = {name: value + 1 for name, value in WEIGHTS.items()}
    beside = saved(tmp_path / "c.pt", {"state_dict": [WEIGHTS, average], "ema": average})
    assert load(beside, use_ema=True).state_key == "ema"


AVERAGE = {name: value + 1 for name, value in WEIGHTS.items()}
WRAPPED = {"n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in AVERAGE.items()}}


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema"])
@pytest.mark.parametrize("average", [AVERAGE, WRAPPED, {"module": AVERAGE}, {"state_dict": AVERAGE}])
def test_averages_are_read_when_asked_for_and_never_otherwise(
    tmp_path: Path, key: str, average: dict[str, object]
) -> None:
    path = saved(tmp_path / "a.pt", {key: average, "params": WEIGHTS, "epoch": 1})
    raw, ema = load(path), load(path, use_ema=True)
    assert (raw.weights_kind, ema.weights_kind) == (WeightsKind.RAW, WeightsKind.EMA)
    assert ema.state_key.partition(".")[0] == key
    for name, value in WEIGHTS.items():
        assert torch.equal(raw.weights[name], value)
        assert torch.equal(ema.weights[name], value + 1)


def test_a_file_with_nothing_but_an_average_gives_it_and_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"state_dict_ema": AVERAGE, "epoch": 1})
    checkpoint = load(path)
    assert checkpoint.weights_kind is WeightsKind.EMA
    assert checkpoint.notes == ("holds no raw weights, only the average under state_dict_ema: that is used",)
    assert load(path, use_ema=True).notes == ()


def test_an_average_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"state_dict": WEIGHTS, "epoch": 1})
    message = refusal(path, NoWeightsError, use_ema=True)
    assert "holds no averaged weights" in message
    assert "leave out --use-ema" in message
    assert "both choose weights" in refusal(path, use_ema=True, state_key="state_dict")


def test_the_average_of_lightning_and_its_raw_weights_are_told_apart(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"state_dict": AVERAGE, "current_model_state": WEIGHTS})
    for use_ema, kind, weights in ((False, WeightsKind.RAW, WEIGHTS), (True, WeightsKind.AVERAGED, AVERAGE)):
        checkpoint = load(path, use_ema=use_ema)
        assert checkpoint.weights_kind is kind
        assert torch.equal(checkpoint.weights["0.bias"], weights["0.bias"])


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], 7, {}, {"loss": torch.tensor(1.0)}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    refusal(saved(tmp_path / "a.pt", content), NoWeightsError)


def test_a_payload_that_contains_itself_ends(tmp_path: Path) -> None:
    content: dict[str, object] = {"epoch": 1}
    content["self"] = content
    [file] = find_checkpoints([saved(tmp_path / "a.pt", content)])
    assert isinstance(file.error, CheckpointError)  # NoWeightsError, if the reader gets that far
    checked(str(file.error), file.path)


# Names and types


@pytest.mark.parametrize(
    ("names", "clean"),
    [
        (["module.a.w", "module.b"], ["a.w", "b"]),
        (["module.module.a", "module.module.b"], ["a", "b"]),
        (["module._orig_mod.a.w", "module._orig_mod.b"], ["a.w", "b"]),
        (["_orig_mod.module.a.w"], ["a.w"]),
        (
            ["features.module.0.weight", "features.module.3.bias", "fc.weight"],
            ["features.0.weight", "features.3.bias", "fc.weight"],
        ),
        (["a._checkpoint_wrapped_module.w", "_fsdp_wrapped_module.b"], ["a.w", "b"]),
        (["module.a", "other.b"], ["module.a", "other.b"]),  # a submodule of that name, with a sibling
        (["x.module.a", "x.scale"], ["x.module.a", "x.scale"]),
        (["x.module", "y.w"], ["x.module", "y.w"]),  # a parameter of that name
        ([], []),
    ],
)
def test_wrappers_go_and_submodules_called_module_stay(names: list[str], clean: list[str]) -> None:
    assert clean_names(names) == clean


def test_wrapped_networks_give_the_names_of_the_plain_one(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    for index, wrapped in enumerate([nn.DataParallel(plain), nn.DataParallel(torch.compile(plain))]):
        checkpoint = load(saved(tmp_path / f"{index}.pt", wrapped.state_dict()))
        assert list(checkpoint.weights) == list(plain.state_dict())
        assert "wrapper module. removed from names" in checkpoint.notes


def test_averaged_weights_are_marked_and_their_counter_dropped(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(3, 2))
    checkpoint = load(saved(tmp_path / "a.pt", averaged.state_dict()))
    assert list(checkpoint.weights) == ["weight", "bias"]
    assert checkpoint.weights_kind is WeightsKind.AVERAGED
    assert "n_averaged dropped: these weights are averages" in checkpoint.notes


def test_a_name_held_with_and_without_wrapper_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"_orig_mod.w": torch.zeros(2), "w": torch.ones(2)})
    assert "holds w twice" in refusal(path)


@pytest.mark.parametrize("container", ["torch", "safetensors"])
def test_half_precision_is_read_as_float32_with_a_note(tmp_path: Path, container: str) -> None:
    content = {"a": torch.ones(2).half(), "b": torch.ones(2).bfloat16(), "c": torch.ones(2).double()}
    content["d"] = content["a"] / 3
    path = tmp_path / "a.pt"
    path.write_bytes(as_bytes(content) if container == "torch" else safetensors.torch.save(content))
    checkpoint = load(path)
    kinds = [checkpoint.weights[key].dtype for key in "abc"]
    assert kinds == [torch.float32, torch.float32, torch.float64]
    assert checkpoint.notes == ("2 float16 tensors read as float32", "1 bfloat16 tensor read as float32")


UNUSABLE = {
    "complex64": torch.zeros(2, dtype=torch.complex64),
    "float8_e4m3fn": torch.zeros(2).to(torch.float8_e4m3fn),
    "sparse_coo": torch.eye(3).to_sparse(),
    "without data": torch.zeros(2, device="meta"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_tensor_of_an_unsupported_kind_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "a.pt", {"good": torch.zeros(2), "head.odd": UNUSABLE[kind]})
    message = refusal(path)
    assert re.search(rf"(head\.odd|of shape \(.*\)) is {kind}", message)  # the reader of a file knows no names yet
    assert "float32" in message


QUANTIZED = {
    "0.weight": torch.zeros(2, 3, dtype=torch.int8),
    "0.qweight": torch.zeros(2, dtype=torch.int32),
    "0.SCB": torch.zeros(2),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_quantized_network_is_refused_by_name_with_the_remedy(tmp_path: Path, name: str) -> None:
    message = refusal(saved(tmp_path / "a.pt", {"good": torch.zeros(2), name: QUANTIZED[name]}))
    assert f"{name} is" in message
    assert "name a checkpoint from before it was quantized" in message


def test_integers_and_truth_values_that_are_no_weights_stay(tmp_path: Path) -> None:
    content = {"0.weight": torch.zeros(2), "0.mask": torch.tensor([True, False]), "0.index": torch.arange(2)}
    weights = load(saved(tmp_path / "a.pt", content)).weights
    assert [weights[name].dtype for name in content] == [torch.float32, torch.bool, torch.int64]


EXPANDED = {
    "positions over a batch": torch.arange(512).expand(4, -1),
    "a causal mask over heads": torch.ones(8, 8, dtype=torch.bool).tril().expand(2, 3, 8, 8),
    "one number as a bias": torch.full((1,), 0.5).expand(10),
    "one half number": torch.full((1,), 0.5).half().expand(4, 3),
    "windows that overlap": torch.arange(10.0).unfold(0, 3, 1),
    "16 million times the same": torch.tensor(True).expand(1 << 12, 1 << 12),
}


@pytest.mark.parametrize("what", EXPANDED)
@pytest.mark.parametrize("is_zip", [True, False])
def test_expanded_tensors_are_read_as_their_own(tmp_path: Path, what: str, is_zip: bool) -> None:
    path, tensor = tmp_path / "a.pt", EXPANDED[what]
    torch.save({"good": torch.zeros(2), "odd": tensor}, path, _use_new_zipfile_serialization=is_zip)
    weights = load(path).weights
    assert torch.equal(weights["odd"], tensor.to(weights["odd"].dtype))
    assert weights["odd"].untyped_storage().nbytes() >= weights["odd"].numel() * weights["odd"].element_size()


def test_expanded_tensors_beside_the_weights_are_no_hindrance(tmp_path: Path) -> None:
    step = torch.tensor(3.0)
    state = {index: {"step": step.expand(7), "exp_avg": torch.zeros(1, 1).expand(5, 4)} for index in range(3)}
    content = {"state_dict": {"w": torch.zeros(2)}, "optimizer": {"state": state}, "step": step}
    assert load(saved(tmp_path / "a.pt", content)).step == 3


def test_an_expanded_tensor_beyond_64_mib_is_refused_with_the_remedy(tmp_path: Path) -> None:
    limit = (64 << 20) // 4
    load(saved(tmp_path / "a.pt", {"w": torch.zeros(1).expand(limit)}))
    message = refusal(saved(tmp_path / "b.pt", {"w": torch.zeros(1).expand(limit + 1)}))
    assert "more than 64 MiB" in message
    assert ".contiguous()" in message


@pytest.mark.parametrize("kind", ["expanded", "half"])
def test_copies_of_one_place_are_made_once_and_of_many_places_only_within_bounds(tmp_path: Path, kind: str) -> None:
    stored = torch.zeros(1 << 20, dtype=torch.float16) if kind == "half" else torch.zeros(100)

    def part(index: int) -> torch.Tensor:
        return stored[index:] if kind == "half" else stored[index].expand(1 << 19)

    tied = load(saved(tmp_path / "a.pt", {f"w{index}": part(0) for index in range(100)})).weights
    assert len({tensor.data_ptr() for tensor in tied.values()}) == 1
    message = refusal(saved(tmp_path / "b.pt", {f"w{index}": part(index) for index in range(60)}))
    assert re.search(r"w\d+ is expanded, far larger than what is stored", message)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.filterwarnings("ignore")  # torch's own quantized tensors are on their way out
def test_a_file_with_a_quantized_tensor_says_so_and_not_that_it_is_damaged(tmp_path: Path, is_zip: bool) -> None:
    for kind in (torch.qint8, torch.quint8, torch.qint32):
        content = {"w": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, kind)}
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
        message = refusal(tmp_path / "a.pt")
        assert "quantized tensor" in message
        assert "damaged" not in message


def plain_linear() -> nn.Module:
    return nn.Linear(3, 2)


def test_weights_saved_in_parts_keep_their_names_and_say_what_to_do(tmp_path: Path) -> None:
    network, call = parametrizations.weight_norm(nn.Linear(3, 2)), "remove_parametrizations"
    checkpoint = load(saved(tmp_path / "a.pt", network.state_dict()))
    assert set(checkpoint.weights) == set(network.state_dict())
    assert call in checkpoint.notes[-1]
    networks = Networks("tests.inputs.checkpoints.test_weights:plain_linear", {})
    with pytest.raises(ArchitectureError, match=call):  # and where the network has no such parts, too
        networks.load(networks.architecture(checkpoint), checkpoint)


def test_pruned_weights_are_the_masked_ones(tmp_path: Path) -> None:
    pruned = nn.Linear(3, 2)
    prune.l1_unstructured(pruned, "weight", 0.5)
    checkpoint = load(saved(tmp_path / "a.pt", pruned.state_dict()))
    assert torch.equal(checkpoint.weights["weight"], pruned.weight.detach())
    assert any("masks of 1 tensor leave out 3 of 6 weights" in note for note in checkpoint.notes)
    assert not any("prune.remove" in note for note in checkpoint.notes)


def test_tensors_that_are_not_finite_are_named_and_not_refused(tmp_path: Path) -> None:
    content = {"a": torch.tensor([1.0, torch.nan]), "b": torch.ones(2), "c": torch.tensor([torch.inf])}
    content["d"] = torch.arange(3)
    assert nonfinite_names(load(saved(tmp_path / "a.pt", content)).weights) == ["a", "c"]


def test_parameters_come_back_as_plain_tensors(tmp_path: Path) -> None:
    checkpoint = load(saved(tmp_path / "a.pt", OrderedDict(w=nn.Parameter(torch.ones(2)))))
    assert type(checkpoint.weights["w"]) is torch.Tensor
    assert not checkpoint.weights["w"].requires_grad
