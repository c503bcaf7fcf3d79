"""Batch norms whose running statistics are not those of the data: found, named, and recomputed."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.batch_norm_statistics import (
    UNSETTLED,
    recalibrate,
    recalibration,
    remark,
    statistics_discrepancies,
)
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.errors import ArchitectureError
from tests.cases import Residual, mlp


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        *(nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        *(nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6)),
        *(nn.BatchNorm1d(6, momentum=0.2), nn.Tanh(), nn.Linear(6, 3)),
    ).to(dtype)


def data(examples: int = 40, dtype: torch.dtype = torch.float64) -> TensorData:
    torch.manual_seed(5)
    return TensorData(3 * torch.randn(examples, 2, 6, 6, dtype=dtype) + 1, torch.randint(0, 3, (examples,)))


def problem_of(model: nn.Module, examples: TensorData | None = None, batch_size: int = 7) -> Problem:
    return pose(model, examples or data(), batch_size=batch_size)


def trained(batches: int) -> nn.Sequential:
    """Batch norms that have seen so many batches in training; dropout off, so that both modes agree."""
    model = network().train()
    model[3].eval()
    for start in range(batches):
        with torch.no_grad():
            model(data().inputs[torch.randperm(40, generator=torch.Generator().manual_seed(start))[:20]])
    return model


def training_forward(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The oracle: one forward pass in training mode of all examples as one batch, momentum None."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train().reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model(inputs.clone())
    return model


@pytest.mark.parametrize("batch_size", [40, 7, 1])
@pytest.mark.parametrize("build", [network, Residual], ids=["plain", "residual"])
def test_recalibration_is_one_training_pass_of_all_examples_whatever_the_batch(build: object, batch_size: int) -> None:
    torch.manual_seed(6)
    model = build().double()  # type: ignore[operator]
    expected = training_forward(model, data().inputs)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    layers = recalibrate(pose(model, data(), batch_size=batch_size))
    assert len(layers) == 3
    for (name, ours), theirs in zip(model.named_buffers(), expected.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13), name
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    again = {name: buffer.clone() for name, buffer in model.named_buffers()}
    recalibrate(pose(model, data(), batch_size=batch_size))
    assert all(torch.equal(again[name], buffer) for name, buffer in model.named_buffers())


def test_recalibration_in_float32_sums_in_float64() -> None:
    model, far = network(torch.float32), data(dtype=torch.float32)
    far = TensorData(far.inputs + 1000, far.labels)
    expected = training_forward(copy.deepcopy(model).double(), far.inputs.double())
    recalibrate(problem_of(model, far))
    assert torch.allclose(model[1].running_mean.double(), expected[1].running_mean, rtol=1e-5)
    assert torch.allclose(model[1].running_var.double(), expected[1].running_var, rtol=1e-3)


def test_dropout_stays_off_and_nothing_is_left_behind() -> None:
    model = network()
    recalibrate(problem_of(model))
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_layers_that_are_not_used_keep_what_they_have() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside = network(), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.main(x)

    model = Unused().double()
    model.aside.running_mean.fill_(9)
    assert recalibrate(problem_of(model)) == ("main.1", "main.5", "main.9")
    assert float(model.aside.running_mean[0]) == 9
    assert [each.layer for each in statistics_discrepancies(problem_of(model))] == ["main.1", "main.5", "main.9"]


def test_a_layer_used_twice_is_refused_by_name() -> None:
    shared = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared, nn.Linear(4, 3))
    examples = TensorData(torch.randn(9, 4), torch.randint(0, 3, (9,)))
    with pytest.raises(ArchitectureError, match=r"batch norm 1 is used 2 times.*leave the option out"):
        recalibrate(pose(model, examples))
    assert len(statistics_discrepancies(pose(model, examples))) == 1


def test_the_discrepancy_is_its_formula() -> None:
    model = trained(2)
    found = statistics_discrepancies(problem_of(model))
    inputs = model.eval()[0](data().inputs).detach().transpose(0, 1).flatten(1)
    mean, variance = inputs.mean(1), inputs.var(1, unbiased=False)
    layer = model[1]
    scale = layer.running_var + layer.eps
    here = torch.distributions.Normal(mean, (variance + layer.eps).sqrt())
    there = torch.distributions.Normal(layer.running_mean, scale.sqrt())
    expected = torch.distributions.kl_divergence(here, there).mean()
    assert found[0].nats == pytest.approx(float(expected), rel=1e-10)
    assert found[0].shift == pytest.approx(float(((mean - layer.running_mean) ** 2 / scale).mean().sqrt()), rel=1e-10)
    logs = ((variance + layer.eps) / scale).log()
    assert found[0].scale == pytest.approx(math.exp(float(logs.mean()) / 2), rel=1e-10)
    assert (found[0].batches, found[0].initial_weight) == (2, pytest.approx(0.81))
    assert found[2].initial_weight == pytest.approx(0.64)
    one = statistics_discrepancies(problem_of(model, batch_size=1))
    assert [each.nats for each in one] == pytest.approx([each.nats for each in found], rel=1e-10)


def test_statistics_settle_with_the_batches_that_were_seen() -> None:
    """After no batch, a few and many: named with the worst layer and what the initial values weigh, then not at all."""
    found = {batches: statistics_discrepancies(problem_of(trained(batches))) for batches in (0, 3, 80)}
    worst = max(found[0], key=lambda each: each.nats)
    text = remark(found[0], 40)
    assert text.startswith("batch-norm statistics are not yet settled: ")
    assert f"most in {worst.layer}, " in text
    assert "after no batch the initial values still weigh 100%; --recalibrate-bn" in text
    assert "after 3 batches the initial values still weigh 51%" in remark(found[3], 40)
    assert remark(found[80], 40) == ""
    assert all(each.nats < UNSETTLED / 4 for each in found[80])


def test_recalibrated_statistics_are_settled() -> None:
    model = network()
    recalibrate(problem_of(model))
    found = statistics_discrepancies(problem_of(model))
    assert all(each.nats < 1e-3 for each in found)
    assert remark(found, 40) == ""


def test_data_that_are_normalised_otherwise_are_named_as_such() -> None:
    model, other = trained(80), data()
    text = remark(statistics_discrepancies(problem_of(model, TensorData(other.inputs * 4 + 2, other.labels))), 40)
    assert text.startswith("batch norms see other data than in training: ")
    assert "check --normalize" in text
    assert "initial values" not in text


def test_a_checkpoint_without_the_counter_of_batches_is_not_called_new() -> None:
    model = trained(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_batches_tracked.zero_()
    found = statistics_discrepancies(problem_of(model))
    assert all(each.batches is None and each.initial_weight is None for each in found)
    assert "see other data than in training" in remark(found, 40)


def test_a_few_examples_are_not_taken_for_a_discrepancy() -> None:
    """Mean and variance of four values are off by chance."""
    model = nn.Sequential(nn.BatchNorm1d(50), nn.Linear(50, 3))
    torch.manual_seed(3)
    found = statistics_discrepancies(pose(model, TensorData(torch.randn(4, 50), torch.randint(0, 3, (4,)))))
    assert found[0].nats > UNSETTLED
    assert remark(found, 4) == ""
    assert remark(found, 1000) != ""


def test_networks_without_batch_norms_have_nothing_to_say() -> None:
    problem = pose(mlp(4, 5, 3), TensorData(torch.randn(5, 4), torch.randint(0, 3, (5,))))
    assert statistics_discrepancies(problem) == ()
    assert remark((), 5) == ""
    assert recalibrate(problem) == ()
    assert recalibration((), 5) == "--recalibrate-bn: the network has no batch norm"
    assert (
        recalibration(("a",), 5)
        == "batch-norm statistics of 1 layer were recomputed on the 5 examples, as of one batch"
    )
