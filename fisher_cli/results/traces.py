"""Traces of the Fisher matrices, predictions and the gradient: values with their errors."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error over examples; None where the error is not known.

    `standard_error` is sd / √N with N − 1 in the sd: the error of the mean as an estimate over the data's
    distribution; None also where what the estimator adds hides it. `estimator_error` is what sampling of labels or
    signs adds: 0 when the estimator is exact, None where all labels that were drawn agree and nothing is known.
    """

    value: float
    standard_error: float | None = None
    estimator_error: float | None = 0.0


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """The share of one parameter tensor in both traces, and the rule that computed it."""

    name: str
    parameters: int
    method: str
    true: Estimate
    empirical: Estimate


@dataclass(frozen=True, slots=True)
class Trace:
    """Both Fisher traces of one network on one set of examples.

    true: tr F = mean_n Σ_k ‖J_nᵀ s_nk‖²; empirical: tr F̂ = mean_n ‖J_nᵀ (p_n − e_y)‖²;
    ratio: tr F̂ / tr F with its delta-method error over the same examples, None when tr F = 0;
    per_example_*: the N terms of the two means, in order of the examples; hidden_error: what of the estimator's error
    their spread does not show, since labels drawn from a confident network miss the rare ones; None if not known.
    """

    estimator: str
    true: Estimate
    empirical: Estimate
    ratio: Estimate | None
    layers: tuple[LayerTrace, ...]
    per_example_true: tuple[float, ...]
    per_example_empirical: tuple[float, ...]
    hidden_error: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Gradient:
    """The mean gradient ḡ against the spread of the per-example gradients.

    norm_squared: ‖ḡ‖²; covariance: tr Σ = tr F̂ − ‖ḡ‖²; signal_to_noise: (‖ḡ‖² − s²/N) / s² with
    s² = N/(N − 1) · tr Σ, None where it is not above zero or not defined.
    """

    norm_squared: float
    covariance: float
    signal_to_noise: Estimate | None

    @property
    def noise_scale(self) -> Estimate | None:
        """B_simple = s²/(‖ḡ‖² − s²/N), the inverse of the signal-to-noise ratio: a batch size, in examples.

        Source: McCandlish et al. 2018 (arXiv:1812.06162), equation 2.9.
        """
        ratio = self.signal_to_noise
        if ratio is None:
            return None
        error = None if ratio.standard_error is None else ratio.standard_error / ratio.value**2
        return Estimate(1 / ratio.value, error)


@dataclass(frozen=True, slots=True)
class Predictions:
    """How well the network predicts: loss = mean −log p(y), accuracy a fraction, entropy of p, in nats.

    accuracy is None where the likelihood has no classes.
    """

    loss: Estimate
    accuracy: Estimate | None
    entropy: Estimate


@dataclass(frozen=True, slots=True)
class FilterMeans:
    """The mean of the true Fisher's diagonal over each filter, output unit or row of one weight tensor, in order."""

    name: str
    means: tuple[float, ...]
