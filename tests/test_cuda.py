"""The same numbers on the GPU as on the CPU; skipped where there is none."""

import pytest
import torch

from fisher_cli.curvature.problem import TensorData, pose
from fisher_cli.curvature.spectrum import true_eigenvalues
from fisher_cli.curvature.traces import sweep
from tests.cases import Case

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("estimator", ["exact", "deflated", "sampled"])
def test_traces_and_eigenvalues_are_those_of_the_cpu(case: Case, estimator: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model, inputs, labels = case.make()
        problem = pose(model, TensorData(inputs, labels), likelihood=case.likelihood, device=device, batch_size=4)
        trace = sweep(problem, estimator=estimator, samples=2).trace
        found.append([trace.true.value, trace.empirical.value, *true_eigenvalues(problem, 3, tolerance=1e-8).values])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
