"""Sums over large tensors, whatever the size of the pieces."""

import pytest
import torch

from fisher_cli.curvature.linalg import sums
from fisher_cli.curvature.linalg.sums import add_to, dot, squared_norm


@pytest.mark.parametrize("piece", [1, 7, 2**18])
def test_sums_in_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "PIECE", piece)
    monkeypatch.setattr(sums, "ADDED_AT_ONCE", piece)
    values, others = torch.randn(5, 4), torch.randn(4, 5).double().T
    total = torch.ones(5, 4).double()
    add_to(total, values, 3.0)
    assert torch.allclose(total, 1 + 3 * values.double(), rtol=0, atol=1e-15)
    assert float(squared_norm(values)) == pytest.approx(float(values.double().square().sum()), rel=1e-14)
    assert float(dot(values, others)) == pytest.approx(float((values.double() * others).sum()), rel=1e-13)
