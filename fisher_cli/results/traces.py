"""Traces of the Fisher matrices, predictions and the gradient: values with their errors."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error over examples.

    Attributes:
        value: the estimate, in the unit of what it estimates.
        standard_error: sd/√N with N − 1 in the sd, the error of the mean as an estimate over the data's distribution,
            in the unit of the value. None where it is not known, and where what the estimator adds hides it.
        estimator_error: the error that sampling of labels, signs or probes adds, in the same unit. It is 0 when the
            estimator is exact, and None where nothing is known about it, as when all labels that were drawn agree.
    """

    value: float
    standard_error: float | None = None
    estimator_error: float | None = 0.0


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """The part of one parameter tensor in both traces.

    Attributes:
        name: the parameter's name in the network.
        parameters: how many numbers the tensor holds.
        method: the rule that computed its gradient norms.
        true: its part of tr F, in 1/weight²; the parts of all tensors add up to the trace.
        empirical: its part of tr F̂.
    """

    name: str
    parameters: int
    method: str
    true: Estimate
    empirical: Estimate


@dataclass(frozen=True, slots=True)
class Trace:
    """Both Fisher traces of one network on one set of examples, means over the N examples, in 1/weight².

    Attributes:
        estimator: how tr F was computed: `exact`, `deflated` or `sampled`.
        true: tr F = mean_n Σ_k ‖J_nᵀ s_nk‖².
        empirical: tr F̂ = mean_n ‖J_nᵀ (p_n − e_y)‖².
        ratio: tr F̂/tr F with its delta-method error over the same examples; None when tr F = 0.
        layers: the part of each analysed parameter tensor.
        per_example_true: the N terms of the mean that is tr F, in order of the examples.
        per_example_empirical: the N terms of the mean that is tr F̂, in the same order.
        hidden_error: what of the estimator's error the spread of the terms does not show, since labels drawn from a
            confident network miss the rare ones; None if not known.
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
    """The mean gradient ḡ of the loss against the spread of the per-example gradients.

    Attributes:
        norm_squared: ‖ḡ‖², in 1/weight².
        covariance: tr Σ = tr F̂ − ‖ḡ‖², with N and not N − 1; at least 0.
        signal_to_noise: (‖ḡ‖² − s²/N)/s² with s² = N/(N − 1) · tr Σ, a pure number; None where it is not above zero or
            not defined.
    """

    norm_squared: float
    covariance: float
    signal_to_noise: Estimate | None

    @property
    def noise_scale(self) -> Estimate | None:
        """B_simple = s²/(‖ḡ‖² − s²/N), the inverse of the signal-to-noise ratio: a batch size, in examples.

        Returns:
            The scale with the delta-method error of an inverse; None where the signal-to-noise ratio is None.

        Source: McCandlish et al. 2018 (arXiv:1812.06162), equation 2.9.
        """
        ratio = self.signal_to_noise
        if ratio is None:
            return None
        error = None if ratio.standard_error is None else ratio.standard_error / ratio.value**2
        return Estimate(1 / ratio.value, error)


@dataclass(frozen=True, slots=True)
class Predictions:
    """How well the network predicts, as means over the examples.

    Attributes:
        loss: mean −log p(y), in nats.
        accuracy: the fraction of the labels that are right; None where the likelihood has no classes.
        entropy: mean entropy of p, in nats.
    """

    loss: Estimate
    accuracy: Estimate | None
    entropy: Estimate


@dataclass(frozen=True, slots=True)
class FilterMeans:
    """The mean of the true Fisher's diagonal over each filter of one weight tensor.

    Attributes:
        name: the parameter's name in the network.
        means: one value per index of the tensor's first dimension (a filter, an output unit or a row), in order, in
            1/weight².

    Source: Achille et al. 2019 (arXiv:1902.03545), section 3.
    """

    name: str
    means: tuple[float, ...]
