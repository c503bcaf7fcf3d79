"""T19: a pruned checkpoint is the network with zeros baked in, and its Fisher that of the weights in the masks."""

import io
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from fisher_cli import analyze
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.checkpoints.pruning import without_masks, zeros_note
from fisher_cli.inputs.networks.digits_networks import digits_cnn, digits_mlp
from fisher_cli.inputs.networks.networks import Networks
from fisher_cli.run.measurement import select_parameters
from fisher_cli.settings import Settings
from tests.command import fisher
from tests.loading import load_examples
from tests.reference import Reference, reference

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
MLP, CNN = SAMPLES / "digits-clean" / "step_00440.pt", SAMPLES / "digits-cnn" / "step_00440.pt"
EXACT: dict[str, object] = {"limit": 10, "precision": "float64", "eigenvalues": 3}


def pruned(path: Path, amount: float = 0.4) -> nn.Module:
    network = digits_mlp() if path is MLP else digits_cnn()
    network.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            prune.l1_unstructured(module, "weight", amount)
    return network


def save(network: nn.Module, path: Path, original: Path, step: int = 440) -> Path:
    arch = torch.load(original, weights_only=True)["arch"]
    torch.save({"state_dict": network.state_dict(), "arch": arch, "step": step}, path)
    return path


def oracle(path: Path, names: str) -> tuple[Reference, dict[str, Tensor]]:
    """The dense F of the network with zeros baked in, of some of its tensors, and the masks of these."""
    network = pruned(path)
    masks = {
        name.removesuffix("_mask"): mask.bool() for name, mask in network.state_dict().items() if name.endswith("_mask")
    }
    for module in network.modules():
        if prune.is_pruned(module) and isinstance(module, nn.Linear | nn.Conv2d):
            prune.remove(module, "weight")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(names))
    return reference(network, *load_examples("digits", limit=10).batch(0, 10)), masks


@pytest.mark.parametrize(("path", "last"), [(MLP, "5."), (CNN, "0.")])
def test_t19_the_fisher_is_that_of_the_weights_in_the_masks(path: Path, last: str, tmp_path: Path) -> None:
    expected, masks = oracle(path, last)
    inside = torch.cat(
        [
            masks.get(name, torch.ones(size, dtype=torch.bool)).reshape(-1)
            for name, size in zip(expected.names, expected.sizes, strict=True)
        ]
    )
    within = expected.fisher[inside][:, inside]
    found = analyze(save(pruned(path), tmp_path / "a.pt", path), include=f"{last}*", **EXACT)
    row = found.measurements[0]
    assert row.error == ""
    assert row.trace is not None
    assert row.trace.true.value == pytest.approx(float(within.trace()), rel=1e-9)
    assert row.trace.true.value < 0.99 * float(expected.fisher.trace())
    top = torch.linalg.eigvalsh(within).flip(0)[:3].tolist()
    assert row.eigenvalues_true is not None
    assert row.eigenvalues_true.values == pytest.approx(top, rel=1e-3)
    empirical = expected.empirical[inside][:, inside]
    assert row.trace.empirical.value == pytest.approx(float(empirical.trace()), rel=1e-9)
    assert row.gradient is not None
    assert row.gradient.norm_squared == pytest.approx(float(expected.mean_gradient[inside].square().sum()), rel=1e-9)
    assert {layer.name for layer in row.trace.layers} == set(expected.names)
    assert any("leave out" in note and "pruned" in note for note in row.notes)


def test_it_equals_torchs_own_pruned_network(tmp_path: Path) -> None:
    """The module itself, whose `weight_orig` is what autograd differentiates."""
    inputs, labels = load_examples("digits", limit=10).batch(0, 10)
    theirs = analyze(pruned(CNN), data=(inputs, labels), precision="float64", eigenvalues=0).measurements[0]
    ours = analyze(save(pruned(CNN), tmp_path / "a.pt", CNN), **EXACT).measurements[0]
    assert ours.trace is not None
    assert theirs.trace is not None
    assert ours.trace.true.value == pytest.approx(theirs.trace.true.value, rel=1e-10)
    assert ours.predictions == theirs.predictions


def test_masks_belong_to_their_checkpoint_alone(tmp_path: Path) -> None:
    paths = [
        MLP,
        save(pruned(MLP, 0.5), tmp_path / "half.pt", MLP, 441),
        save(pruned(MLP, 0.9), tmp_path / "tenth.pt", MLP, 442),
    ]
    together = analyze([*paths], limit=20, eigenvalues=0).measurements
    dense = analyze(MLP, limit=20, eigenvalues=0).measurements[0]
    assert [each.error for each in together] == [""] * 3
    assert together[0].trace == dense.trace
    alone = analyze(paths[2], limit=20, eigenvalues=0).measurements[0]
    assert alone.trace == together[2].trace
    networks, (dense_file, half_file, _) = Networks(None, {}), find_checkpoints(paths)
    half = load_checkpoint(half_file)
    module = networks.load(networks.architecture(half), half)
    assert "1.weight" in select_parameters(module, Settings())
    back = load_checkpoint(dense_file)
    assert networks.load(networks.architecture(back), back) is module
    assert not any("parametrizations" in name for name, _ in module.named_parameters())


def test_the_identities_hold_on_pruned_networks_each_in_its_own_masks(tmp_path: Path) -> None:
    paths = [save(pruned(CNN, 0.1 * step), tmp_path / f"{step}.pt", CNN, step) for step in (2, 6)]
    for row in analyze(paths, limit=3, verify=True).measurements:
        assert row.error == ""
        assert row.verification is not None
        assert not row.verification.failed
        assert any("leave out" in note and "pruned" in note for note in row.notes)


@pytest.mark.usefixtures("workdir")
def test_a_network_that_prunes_by_itself_takes_its_own_layout() -> None:
    Path("net.py").write_text(
        "from torch import nn\nfrom torch.nn.utils import prune\n"
        "def make():\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "    prune.identity(net[1], 'weight')\n"
        "    return net\n"
    )
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    prune.l1_unstructured(network[1], "weight", 0.5)
    torch.save(network.state_dict(), "a.pt")
    found = [
        analyze("a.pt", model=model, model_arguments=arguments, **EXACT).measurements[0]
        for model, arguments in (("./net.py:make", {}),)
    ]
    Path("plain.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    found.append(analyze("a.pt", model="./plain.py:make", **EXACT).measurements[0])
    assert [each.error for each in found] == ["", ""]
    traces = [each.trace.true.value for each in found if each.trace]
    assert traces[0] == pytest.approx(traces[1], rel=1e-12)


def test_zeros_without_a_mask_are_told_and_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = pruned(MLP)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            prune.remove(module, "weight")
    baked = save(network, tmp_path / "baked.pt", MLP)
    row = analyze(baked, limit=10, eigenvalues=0).measurements[0]
    assert any("40.0% of the weights are exactly zero and no mask" in note for note in row.notes)
    masked = analyze(save(pruned(MLP), tmp_path / "masked.pt", MLP), limit=10, eigenvalues=0).measurements[0]
    assert row.trace is not None
    assert masked.trace is not None
    assert masked.trace.true.value < 0.99 * row.trace.true.value
    assert masked.predictions == row.predictions
    assert not any("exactly zero" in note for note in masked.notes)
    fresh = {"head.weight": torch.zeros(5, 5), "body.weight": torch.randn(5, 5)}
    assert zeros_note(fresh) == ""  # a head that begins at zero is not pruned
    monkeypatch.chdir(tmp_path)
    result = fisher("inspect", "masked.pt", "--format", "csv")
    assert "pruned: masks of" in pd.read_csv(io.StringIO(result.stdout))["notes"].item()
    fisher("analyze", "masked.pt", "--limit", "5", "--eigenvalues", "0", "-o", "run.csv")
    assert "pruned: masks of" in Path("run.fisher/record.json").read_text()


def test_only_a_mask_of_zeros_and_ones_with_its_weight_is_one() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    dense, masks = without_masks({"a.weight_orig": weight, "a.weight_mask": mask, "a.bias": weight[0]})
    assert set(dense) == {"a.weight", "a.bias"}
    assert dense["a.weight"].tolist() == [[1, 0], [0, 4]]
    assert masks["a.weight"].tolist() == [[True, False], [False, True]]
    alone = {"b_mask": mask, "c_orig": weight, "d_orig": weight, "d_mask": mask * 0.5}
    assert without_masks(alone) == (alone, {})
