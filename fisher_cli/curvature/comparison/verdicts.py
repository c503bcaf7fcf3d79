"""What a comparison of the two Fishers comes to, in plain words and with the figure behind it."""

import math

from fisher_cli.results import AgainstNull, ComparisonFinding, Verdict

# A z beyond this is no label noise: with normal noise one checkpoint in 370 would show it.
DECISIVE = 3.0
# Between this and the above it may be: with normal noise one checkpoint in 22 shows as much, so nothing is claimed.
HINT = 2.0
# A ratio this near to one is a difference that hardly matters.
NEAR_ONE = 0.1
# A null deviation of the ratio above this leaves nothing to say.
TOO_WIDE = 1 / 3
# Below this the labels are fitted beyond doubt; between, the network may as well be underconfident.
FITTED = 0.5
# Fewer carriers than these, and the null is far from normal.
FEW_CARRIERS = 30
# A difference of the matrices so many times that of label noise is more, where no draws give its spread.
TIMES_NOISE = 1.5


def verdict(
    ratio: float | None,
    null_deviation: float | None,
    z: float | None,
    difference_norm: AgainstNull | None,
    carriers: float | None = None,
    natural_gradient: AgainstNull | None = None,
) -> Verdict:
    """The first of these rules that holds, for r = tr F̂/tr F and σ its deviation under the model's own labels.

    1. `zero`: F is zero, or σ is zero.
    2. `undecided`: σ is not known, or |z| < 3 and σ > 1/3: label noise alone would hide any difference.
    3. `fitted`: z ≤ −3 and r < 0.9: the labels surprise the network less than its own probabilities allow.
    4. `surprised`: z ≥ 3 and r > 1.1: they surprise it more.
    5. `shifted`: |z| ≥ 3 and |r − 1| ≤ 0.1: a real difference of the traces, and a small one.
    6. `indistinguishable`: all else; from |z| = 2 on it is called a hint.

    Then, as in 5, it is said whether the matrices differ by more than label noise, ‖F̂ − F‖/‖F‖ more than three of its
    deviations above its null, or 1.5 times it where no labels were drawn, and whether the natural gradients do, their
    cosine more than three of its deviations below its null.

    z is (tr F̂ − tr F)/deviation. It comes from the exact variance of the null and not from the scatter over examples,
    which late in training a sample does not know.
    """
    if ratio is not None and null_deviation is None:
        return Verdict(
            ComparisonFinding.UNDECIDED, f"undecided: the ratio is {_short(ratio)}, whose error is not known"
        )
    if ratio is None or z is None or not null_deviation:
        return Verdict(ComparisonFinding.ZERO, "the true Fisher is zero: there is nothing to compare with")
    null = f"labels from the model: 1.00 ± {_short(null_deviation)}"
    rough = ""
    if carriers is not None and carriers < FEW_CARRIERS:
        rough = f"; {_examples(max(1, round(carriers)))} this null, so that its ± is rough"
    figure, z_text = f"{_short(ratio)}", f"z = {z:.1f}"
    if abs(z) < DECISIVE and null_deviation > TOO_WIDE:
        alone = "can be as large" if abs(z) < HINT else "is seldom as large"
        text = f"undecided: the ratio is {figure}, and label noise alone {alone} ({null}): take more examples{rough}"
        return Verdict(ComparisonFinding.UNDECIDED, text)
    stand_in = f"do not use it as a stand-in{rough}"
    if z <= -DECISIVE and ratio < 1 - NEAR_ONE:
        why = "labels are fitted" if ratio < FITTED else "labels surprise the network less than it expects"
        text = f"the empirical Fisher is {figure} of the true one ({null}): {why}; {stand_in}"
        return Verdict(ComparisonFinding.FITTED, text)
    if z >= DECISIVE and ratio > 1 + NEAR_ONE:
        why = "labels are noisy, or the network is overconfident"
        text = f"the empirical Fisher is {figure} times the true one ({null}): {why}; {stand_in}"
        return Verdict(ComparisonFinding.SURPRISED, text)
    if abs(z) >= DECISIVE:
        more = "larger" if z > 0 else "smaller"
        start = f"the trace is {abs(ratio - 1):.1%} {more} than the true one's ({z_text}), a small difference"
        return Verdict(
            ComparisonFinding.SHIFTED, f"{start}; {_as_a_matrix(difference_norm)}{_elsewhere(natural_gradient)}{rough}"
        )
    start = f"cannot be told from the true one by its trace ({figure}, {null})"
    if abs(z) >= HINT:
        more = "larger" if z > 0 else "smaller"
        start = (
            f"the trace may be {more} than the true one's ({figure}, {z_text}, {null}): take more examples to decide"
        )
    return Verdict(
        ComparisonFinding.INDISTINGUISHABLE,
        f"{start}; {_as_a_matrix(difference_norm)}{_elsewhere(natural_gradient)}{rough}",
    )


def _examples(count: int) -> str:
    return "about 1 example carries" if count == 1 else f"about {count} examples carry"


def _as_a_matrix(difference: AgainstNull | None) -> str:
    """How far the matrices are apart, and whether label noise alone explains it."""
    if difference is None or difference.null is None:
        return "the matrices were not compared"
    value, noise = difference.value.value, difference.null
    limit = TIMES_NOISE * noise if difference.null_deviation is None else noise + DECISIVE * difference.null_deviation
    figures = f"as a matrix it is {value:.0%} off, label noise alone {noise:.0%}"
    error = DECISIVE * (difference.value.estimator_error or 0.0)
    return f"{figures}: not a stand-in for the matrix" if value - error > limit else figures


def _elsewhere(cosine: AgainstNull | None) -> str:
    """Whether the two natural gradients differ in direction by more than label noise explains; "" where not."""
    if cosine is None or cosine.null is None or cosine.null_deviation is None:
        return ""
    value = cosine.value.value
    if not value < cosine.null - DECISIVE * cosine.null_deviation:
        return ""
    figures = f"cosine {_short(value)}, label noise alone {_short(cosine.null)}"
    return f"; its natural gradient points elsewhere ({figures})"


def _short(value: float) -> str:
    """Two digits behind the point, more where these would be zeros."""
    return f"{value:.2f}" if value >= 0.1 or value == 0 or math.isnan(value) else f"{value:.2g}"
