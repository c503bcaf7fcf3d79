"""Random numbers of examples by counting: draw j of example n is a hash of seed, purpose, n and j, and of nothing else.

So it is the same whatever the batch, the order, the number of ranks and the device, and all examples of a batch are
drawn at once. The words are those of SplitMix64: word j of a stream is h(stream + (j + 1)γ), stream n of a seed and a
purpose is h(key + (n + 1)γ), with γ the odd integer next to 2⁶⁴/φ and h a bijection of 64 bits in which every bit of
the result depends on all bits. Two of N streams share some of their first D words with a probability of about
N²D/2⁶⁴, 2e-5 for a million examples of 21,841 classes.

Why our own: torch and NumPy make one generator per stream, an object whose making costs more than the numbers taken
from it, and which draws on the CPU; torch's counter-based ones have no public name. Source: Steele, Lea and Flood 2014
(doi:10.1145/2660193.2660195), figures 14 to 16; h is there variant 13 of Stafford.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BITS = 64


def _as_int64(word: int) -> int:
    """A word of 64 bits as the signed integer that tensors hold; sums and products of these wrap around."""
    return word - 2**_BITS if word >= 2 ** (_BITS - 1) else word


_GAMMA = _as_int64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _as_int64(0xBF58476D1CE4E5B9), _as_int64(0x94D049BB133111EB)


def _shifted(words: Tensor, by: int) -> Tensor:
    """Words shifted right with zeros coming in: the shift of signed integers repeats their sign."""
    return (words >> by) & ((1 << (_BITS - by)) - 1)


def _hashed(words: Tensor) -> Tensor:
    """The bijection h of 64 bits."""
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


@dataclass(frozen=True)
class Draws:
    """The random numbers of B examples.

    Every method begins at the first word, and more draws begin with the fewer: ask once for all that is to be
    independent. Integers are exact, hence the same on every device; normal numbers are to rounding.

    Attributes:
        streams: (B,) int64, where each example's numbers begin.
    """

    streams: Tensor

    def words(self, count: int) -> Tensor:
        """Words of 64 random bits, (B, count) int64."""
        steps = torch.arange(1, count + 1, device=self.streams.device) * _GAMMA
        return _hashed(self.streams.unsqueeze(1) + steps)

    def uniforms(self, *shape: int) -> Tensor:
        """Multiples of 2⁻⁵³ in [0, 1), (B, *shape) in float64: the upper 53 bits of a word each."""
        words = self.words(math.prod(shape))
        return (_shifted(words, 11).double() * 2.0**-53).reshape(len(words), *shape)

    def normals(self, *shape: int) -> Tensor:
        """Standard normal numbers Φ⁻¹((i + ½)/2⁵²), (B, *shape) in float64, i the upper 52 bits of a word each.

        With half a step added, neither 0 nor 1 is among the probabilities, and these are exact in float64.
        """
        words = self.words(math.prod(shape))
        normals: Tensor = torch.special.ndtri((_shifted(words, 12).double() + 0.5) * 2.0**-52)
        return normals.reshape(len(words), *shape)

    def signs(self, *shape: int) -> Tensor:
        """−1 or 1 with equal chance, (B, *shape) in float64: a bit each, 64 of one word."""
        count = math.prod(shape)
        words = self.words(-(-count // _BITS)).unsqueeze(2)
        bits = (words >> torch.arange(_BITS, device=words.device)) & 1
        return (2.0 * bits.flatten(1)[:, :count].double() - 1).reshape(len(words), *shape)

    def classes(self, probabilities: Tensor, count: int) -> Tensor:
        """Classes of each example with chances in proportion to p_c, (B, count) int64: cumulative sums inverted.

        The first class whose cumulative probability exceeds a uniform number: never one with the chance zero.

        Args:
            probabilities: p (B, C) ≥ 0, which need not add up to one; where they are NaN the class means nothing.
            count: classes per example.
        """
        cumulative = probabilities.double().cumsum(1)
        # Times the sum, which rounding may leave below one: so the last class that is chosen has a chance.
        within = self.uniforms(count) * cumulative[:, -1:]
        # Only where probabilities are NaN is none found; NaN outputs are looked for later.
        return torch.searchsorted(cumulative, within, right=True).clamp_max(probabilities.shape[1] - 1)


def of_examples(seed: int, purpose: str, start: int, count: int, device: torch.device) -> Draws:
    """The draws of examples start … start + count − 1 for a purpose; those of other seeds and purposes are others.

    Args:
        seed: of the run.
        purpose: a word; what is drawn under different words is independent.
        start: the number of the first example, from 0.
        count: B.
        device: where the numbers are made.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    indices = torch.arange(start + 1, start + count + 1, device=device)
    return Draws(_hashed(indices * _GAMMA + int.from_bytes(digest, "big", signed=True)))
