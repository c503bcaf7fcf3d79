"""Random numbers by counters: known words, each example its own whatever the batch, and statistics of fair draws.

Statistical bounds are at five standard deviations or more, of fixed seeds.
"""

import hashlib
import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.problem.counter_based_random import Draws, of_examples

MASK = 2**64 - 1


def splitmix64(state: int, count: int) -> list[int]:
    """The generator as published, in integers of any length."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(z ^ (z >> 31))
    return found


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


@pytest.mark.parametrize(
    ("state", "words"),
    [(0, [0xE220A8397B1DCDAF]), (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423])],
)
def test_words_are_those_published_for_the_generator(state: int, words: list[int]) -> None:
    assert splitmix64(state, len(words)) == words
    found = Draws(torch.tensor([state])).words(len(words))
    assert found.tolist() == [[signed(word) for word in words]]


def test_an_example_has_the_stream_that_its_index_says() -> None:
    """The n-th word of the generator of seed and purpose is the state of example n."""
    key = int.from_bytes(hashlib.blake2b(b"7/signs", digest_size=8).digest(), "big")
    states = splitmix64(key, 1003)
    found = of_examples(7, "signs", 1000, 3, torch.device("cpu")).words(50)
    assert found.tolist() == [[signed(word) for word in splitmix64(state, 50)] for state in states[1000:]]
    assert Draws(torch.tensor([-5])).words(9).tolist() == [[signed(word) for word in splitmix64(MASK - 4, 9)]]


def every(draws: Draws) -> list[Tensor]:
    p = torch.softmax(torch.arange(6.0).double(), 0).expand(len(draws.streams), 6)
    return [draws.words(3), draws.uniforms(4, 2), draws.normals(3), draws.signs(2, 70), draws.classes(p, 5)]


def drawn(seed: int, purpose: str, start: int, count: int) -> Draws:
    return of_examples(seed, purpose, start, count, torch.device("cpu"))


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [16, 16, 8], [39, 1]])
def test_what_an_example_draws_does_not_depend_on_its_batch(sizes: list[int]) -> None:
    parts, start = [], 5
    for size in sizes:
        parts.append(every(drawn(3, "labels", start, size)))
        start += size
    joined = [torch.cat(each) for each in zip(*parts, strict=True)]
    assert all(map(torch.equal, joined, every(drawn(3, "labels", 5, 40))))


def test_more_draws_begin_with_the_fewer() -> None:
    draws = drawn(0, "labels", 0, 6)
    assert torch.equal(draws.uniforms(9)[:, :4], draws.uniforms(4))
    assert torch.equal(draws.signs(100)[:, :7], draws.signs(7))
    assert draws.uniforms(0).shape == (6, 0)


def test_words_of_a_million_draws_are_all_different() -> None:
    words = drawn(0, "signs", 0, 10_000).words(100).flatten()
    others = torch.cat([drawn(0, "labels", 0, 10_000).words(1), drawn(1, "signs", 0, 10_000).words(1)]).flatten()
    together = torch.cat([words, others])
    assert len(together.unique()) == len(together)


def test_every_bit_is_fair_and_independent_of_its_neighbours() -> None:
    """Σ of n fair signs is within 5.5 √n; of 64 bits, and of products of neighbours in bit, draw, example and seed."""
    signs = drawn(11, "signs", 0, 500).signs(40, 64)
    beside = drawn(12, "signs", 0, 500).signs(40, 64)
    elsewhere = drawn(11, "labels", 0, 500).signs(40, 64)
    products = {
        "bits": signs,
        "neighbouring bits": signs[:, :, 1:] * signs[:, :, :-1],
        "neighbouring draws": signs[:, 1:] * signs[:, :-1],
        "neighbouring examples": signs[1:] * signs[:-1],
        "examples 64 apart": signs[64:] * signs[:-64],
        "neighbouring seeds": signs * beside,
        "purposes": signs * elsewhere,
    }
    for name, product in products.items():
        by_bit = product.sum((0, 1)).abs() / math.sqrt(product.shape[0] * product.shape[1])
        assert float(by_bit.max()) < 5.5, name
        assert float(product.sum().abs()) < 5.5 * math.sqrt(product.numel()), name


def within_chi_square(counts: Tensor, expected: Tensor) -> bool:
    """Whether Σ (O − E)²/E is within six standard deviations of its mean, on both sides."""
    freedom = len(counts) - 1
    statistic = float(((counts - expected).square() / expected).sum())
    return abs(statistic - freedom) < 6 * math.sqrt(2 * freedom)


def test_uniform_numbers_are_uniform_and_below_one() -> None:
    u = drawn(5, "labels", 0, 4000).uniforms(50)
    assert u.dtype is torch.float64
    assert 0 <= float(u.min()) < 1e-4
    assert 1 - 1e-4 < float(u.max()) < 1
    assert torch.equal((u * 2**53).round(), u * 2**53)
    assert abs(float(u.mean()) - 0.5) < 5 / math.sqrt(12 * u.numel())
    assert abs(float(u.var()) - 1 / 12) < 5 / math.sqrt(180 * u.numel())
    flat = torch.full((256,), u.numel() / 256).double()
    assert within_chi_square(torch.bincount((u * 256).long().flatten(), minlength=256).double(), flat)
    for one, other in ((u[:, 1:], u[:, :-1]), (u[1:], u[:-1])):
        cells = (one * 16).long() * 16 + (other * 16).long()
        counts = torch.bincount(cells.flatten(), minlength=256).double()
        assert within_chi_square(counts, torch.full((256,), cells.numel() / 256).double())
        correlation = float(((one - 0.5) * (other - 0.5)).mean()) * 12
        assert abs(correlation) < 5 / math.sqrt(one.numel())


def test_normal_numbers_are_quantiles_of_the_words() -> None:
    draws = drawn(5, "null", 0, 4000)
    z = draws.normals(50)
    middles = ((draws.words(2)[:20] >> 12) & (2**52 - 1)).double() + 0.5
    expected = [[NormalDist().inv_cdf(float(value) / 2**52) for value in row] for row in middles]
    assert torch.allclose(draws.normals(2)[:20], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    n = z.numel()
    for power, moment, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(float((z**power).mean()) - moment) < 5 * math.sqrt(spread / n)


@pytest.mark.parametrize("word", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_no_word_gives_a_number_outside(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest and the largest words: a uniform number below one, a finite normal one, a class of some chance."""
    monkeypatch.setattr(Draws, "words", lambda _self, count: torch.full((1, count), word))
    draws = Draws(torch.tensor([0]))
    assert 0 <= float(draws.uniforms(1)) < 1
    assert abs(float(draws.normals(1))) < 9
    p = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).double()
    assert int(draws.classes(p, 1)) in {1, 3}


def test_classes_have_their_probabilities() -> None:
    p = torch.softmax(torch.tensor([2.0, 0.0, -1.0, 1.0, -3.0]).double(), 0)
    classes = drawn(2, "labels", 0, 3000).classes(p.expand(3000, 5), 40)
    assert classes.shape == (3000, 40)
    assert within_chi_square(torch.bincount(classes.flatten(), minlength=5).double(), classes.numel() * p)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_words() -> None:
    here, there = (of_examples(3, "labels", 5, 4000, torch.device(name)) for name in ("cpu", "cuda"))
    for of in (lambda draws: draws.words(70), lambda draws: draws.uniforms(70), lambda draws: draws.signs(2, 70)):
        assert torch.equal(of(here), of(there).cpu())
    assert torch.allclose(here.normals(70), there.normals(70).cpu(), rtol=1e-12)
