"""Numbers for people: enough digits and no more, `77.3 ± 1.1`, bars and sparklines in text."""

import math
from collections.abc import Sequence

Number = float | None

_FILLINGS = "▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"


def finite(value: Number) -> Number:
    """The value, or None if there is none to show."""
    return value if value is not None and math.isfinite(value) else None


def number_texts(values: Sequence[Number], errors: Sequence[Number] | None = None) -> list[str]:
    """A column of numbers, aligned on the decimal point; `value ± error` where errors are given.

    All get the same number of decimals when that leaves the largest at most five digits, the smallest two and
    each error one; else each number gets its own.

    Args:
        values: the numbers; None and what is not finite become "".
        errors: their standard errors, None where unknown.

    Returns:
        One text per value; all that are not empty are equally long.
    """
    shown = [finite(value) for value in values]
    sigmas = [None if errors is None or value is None else finite(errors[i]) for i, value in enumerate(shown)]
    common = _decimals(shown, sigmas, most_digits=5)
    left, right = [], []
    for value, sigma in zip(shown, sigmas, strict=True):
        decimals = common if common is not None else _decimals([value], [sigma], most_digits=7)
        left.append("" if value is None else _fixed(value, decimals))
        right.append("" if sigma is None else _fixed(sigma, decimals))
    left, right = _aligned(left), _aligned(right)
    if not any(right):
        return left
    joined = [f"{one} ± {other}" if other.strip() else one for one, other in zip(left, right, strict=True)]
    width = max(map(len, joined))
    return [text.ljust(width) if text else "" for text in joined]


def number_text(value: float, error: Number = None) -> str:
    """One number as `number_texts` writes it."""
    return number_texts([value], [error])[0].strip()


def bar(fraction: float, width: int) -> str:
    """A bar of at most `width` characters; anything above zero is visible."""
    if fraction <= 0:
        return ""
    eighths = min(8 * width, max(1, round(fraction * 8 * width)))
    full, rest = divmod(eighths, 8)
    return "█" * full + (_FILLINGS[rest - 1] if rest else "")


def sparkline(values: Sequence[Number], width: int) -> str:
    """One character per value from zero to the largest, `·` where there is none.

    When there are more values than characters, neighbours share one that shows the largest of them.

    Returns:
        At most `width` characters.
    """
    shown = [finite(value) for value in values]
    count = min(width, len(shown))
    groups = [shown[i * len(shown) // count : (i + 1) * len(shown) // count] for i in range(count)]
    peaks = [max((value for value in group if value is not None), default=None) for group in groups]
    top = max((value for value in peaks if value is not None), default=0.0)
    return "".join("·" if peak is None else _level(peak / top if top > 0 else 0.0) for peak in peaks)


def _level(fraction: float) -> str:
    """A sparkline's character for a value between 0 and 1."""
    return _LEVELS[round(min(1.0, max(0.0, fraction)) * (len(_LEVELS) - 1))]


def _decimals(values: Sequence[Number], errors: Sequence[Number], most_digits: int) -> int | None:
    """The decimals that show all these numbers well, or None if no number of decimals does."""
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return 1
    sigmas = [error for error in errors if error]
    before_point = math.floor(math.log10(max(sizes))) + 1  # digits of the largest; not above 0 below 0.1
    least = min(3 - before_point, 12)
    if sigmas:  # two digits of an error are enough
        least = min(least, 1 - math.floor(math.log10(min(sigmas))))
    for decimals in range(max(0, least), 12):
        if before_point + decimals > most_digits or before_point > 7 or decimals > 6:
            return None
        unit = 10.0**-decimals
        if min(sizes) >= (10 * unit if len(sizes) > 1 else unit) and all(sigma >= unit / 2 for sigma in sigmas):
            return decimals
    return None


def _fixed(value: float, decimals: int | None) -> str:
    """The number with so many decimals, or in powers of ten where that would show zeros alone, or too many digits."""
    if value == 0:
        return "0" if decimals is None else f"{0:.{decimals}f}"
    if decimals is None or float(text := f"{value:.{decimals}f}") == 0:
        return f"{value:.2e}" if decimals is None else f"{value:.1e}"
    return text


def _aligned(texts: Sequence[str]) -> list[str]:
    """The texts padded so that their decimal points stand below each other; empty ones stay empty."""
    heads = [text.partition(".")[0] for text in texts]
    tails = [text[len(head) :] for text, head in zip(texts, heads, strict=True)]
    before, after = max(map(len, heads), default=0), max(map(len, tails), default=0)
    return [f"{head:>{before}}{tail:<{after}}" if head else "" for head, tail in zip(heads, tails, strict=True)]


def unbroken(text: str) -> str:
    """`77.3 ± 1.1` without padding, and so that no wrapping divides it."""
    return "\N{NO-BREAK SPACE}".join(text.split())
