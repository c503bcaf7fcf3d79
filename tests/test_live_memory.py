"""What the tests count memory with: every byte of a tensor once, as long as it is alive."""

import warnings

import torch
import torch.autograd.forward_ad as fwAD
from torch import nn

from tests.live_memory import LiveMemory


def test_a_storage_counts_once_and_until_its_last_view_is_gone() -> None:
    with LiveMemory() as memory:
        whole = torch.zeros(1000)
        part, square = whole[10:20], whole.view(10, 100).T
        assert (memory.now, memory.peak) == (4000, 4000)
        del whole, part
        assert memory.now == 4000
        del square
        assert (memory.now, memory.peak, memory.largest) == (0, 4000, 4000)


def test_a_second_copy_is_seen_and_a_copy_after_the_first_is_gone_is_not() -> None:
    def made(*, together: bool) -> int:
        with LiveMemory() as memory:
            one = torch.zeros(1000)
            if not together:
                del one
            two = torch.ones(1000)
            del two
        return memory.peak

    assert (made(together=True), made(together=False)) == (8000, 4000)


def test_what_a_graph_keeps_for_the_backward_pass_counts() -> None:
    layers = nn.Sequential(*[nn.Linear(10, 10) for _ in range(4)])
    inputs = torch.randn(100, 10)
    with LiveMemory() as memory:
        outputs = layers(inputs).sum()
        assert memory.now >= 3 * 4000
        outputs.backward()
        del outputs
        layers.zero_grad()
        assert memory.now == 0
    with LiveMemory() as memory, torch.no_grad():
        layers(inputs).sum()
    assert memory.peak <= 2 * 4000 + 4


def test_what_is_held_before_counts_where_it_is_named() -> None:
    network = nn.Linear(10, 10, bias=False)
    with LiveMemory(network.state_dict()) as memory:
        assert memory.now == 400
        network(torch.zeros(1, 10))
    assert memory.peak == 400 + 80


def test_storages_that_grow_and_sparse_tensors_count_as_they_are() -> None:
    with LiveMemory() as memory:
        grown = torch.empty(0)
        torch.add(torch.zeros(50), 1, out=grown)
        assert memory.now == 200
        sparse = torch.eye(3).to_sparse()
        assert memory.now == 200 + 3 * 4 + 2 * 3 * 8
        del grown, sparse
        assert memory.now == 0


def test_it_counts_the_same_each_time() -> None:
    def peak() -> tuple[int, int]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
        with LiveMemory() as memory:
            network(torch.randn(4, 1, 8, 8)).logsumexp(1).sum().backward()
        return memory.peak, memory.values

    assert len({peak() for _ in range(5)}) == 1


def test_what_was_there_before_does_not_count_and_new_values_do() -> None:
    before = torch.zeros(100)
    with LiveMemory() as memory:
        view = before[:10].view(2, 5)
        before.add_(1)
        assert memory.peak == 0
        new = torch.tensor([1.0, 2.0, 3.0, 4.0])
        assert memory.now == 16
        del before, view, new
        assert memory.now == 0


def test_tangents_that_are_zero_everywhere_have_no_memory() -> None:
    with warnings.catch_warnings(), fwAD.dual_level():  # torch loads its formulas the first time, and warns
        warnings.simplefilter("ignore", FutureWarning)
        fwAD.make_dual(torch.zeros(1), torch.zeros(1))
    with LiveMemory() as memory, fwAD.dual_level():
        dual = fwAD.make_dual(torch.zeros(10), torch._efficientzerotensor((10,)))
        (dual * 2).sum()
    assert memory.peak > 0
