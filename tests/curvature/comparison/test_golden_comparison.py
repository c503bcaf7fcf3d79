"""Golden numbers of true against empirical Fisher: Kunstner, Hennig and Balles 2019, figures 2 and 3."""

import pytest
import torch

from fisher_cli.curvature.comparison.true_and_empirical import ComparisonRequest, compare
from fisher_cli.curvature.traces.traces import sweep
from tests.golden import newton_step, single_logit, table, toy


@pytest.mark.parametrize(
    ("name", "inverse_product", "cosine"),
    [("correct", 1.9260, 0.996541), ("A", 3.0146, 0.996604), ("B", 1.9962, 0.805624)],
)
def test_g3_toys_of_kunstner(name: str, inverse_product: float, cosine: float) -> None:
    """tr F⁻¹F̂ and the Frobenius cosine at the optimum, to the printed digits."""
    x, y = toy(name)
    weights = torch.zeros(2).double()
    for _ in range(30):
        weights = newton_step(x, y, weights)
    found, _ = compare(sweep(single_logit(x, y, weights)), ComparisonRequest(2, damping=1e-9, draws=0))
    assert found.method == "gram"
    assert found.cosine is not None
    assert found.inverse_product is not None
    assert found.cosine.value.value == pytest.approx(cosine, abs=1e-6)
    assert found.inverse_product.value.value == pytest.approx(inverse_product, abs=6e-5)
    assert found.inverse_product.null == pytest.approx(2.0, abs=1e-6)  # tr F⁻¹F = P


def test_g4_natural_gradients_are_one_at_the_start_of_figure_3() -> None:
    """At θ = 0 in raw features F̂ = F, with eigenvalues over nine decades."""
    x, y = table("breast_cancer")
    extended = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    found, _ = compare(sweep(single_logit(extended, y, torch.zeros(31).double())), ComparisonRequest(1, draws=0))
    assert found.natural_gradient is not None
    assert found.natural_gradient.value.value == pytest.approx(1.0, abs=1e-9)


def test_g4_natural_gradients_along_damped_newton_steps() -> None:
    """Cosines of (F + 10⁻³I)⁻¹ḡ and (F̂ + 10⁻³I)⁻¹ḡ along the path, standardised features."""
    x, y = table("breast_cancer")
    x = (x - x.mean(0)) / x.std(0, correction=0)
    x = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    weights, cosines = torch.zeros(31).double(), []
    for _ in range(6):
        found, _ = compare(sweep(single_logit(x, y, weights)), ComparisonRequest(1, damping=1e-3, draws=0))
        assert found.natural_gradient is not None
        assert found.residual < 1e-6
        cosines.append(found.natural_gradient.value.value)
        weights = newton_step(x, y, weights, 1e-3)
    assert cosines == pytest.approx([1, 0.9190, 0.6891, 0.7764, 0.8489, 0.8836], abs=6e-5)
