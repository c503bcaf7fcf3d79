"""What a network predicts, example by example."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fisher_cli.curvature.problem.likelihoods import Likelihood
from fisher_cli.curvature.problem.moments import Moments, as_floats, over_ranks
from fisher_cli.curvature.problem.process_group import ProcessGroup
from fisher_cli.results import PerExample, Predictions


def predicted_classes(likelihood: Likelihood, outputs: Tensor, labels: Tensor) -> Tensor | None:
    """argmax_c z_c, (B,) int64, or 1 where a single output is above zero; None where labels are no classes."""
    if labels.dim() != 1 or labels.is_floating_point() or likelihood.correct(outputs, labels) is None:
        return None
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(dim=1)


@dataclass
class RunningPredictions:
    """Loss, accuracy and entropy of the batches so far: their means, and each example's.

    Attributes:
        loss: −log q(y | z), in nats.
        accuracy: the fraction predicted right; without a value where the likelihood has no classes.
        entropy: −E_q log q, in nats.
    """

    loss: Moments = field(default_factory=Moments)
    accuracy: Moments = field(default_factory=Moments)
    entropy: Moments = field(default_factory=Moments)
    _reals: dict[str, list[Tensor]] = field(default_factory=dict)
    _classes: dict[str, list[Tensor]] = field(default_factory=dict)
    _is_probability: bool = True

    def add(self, likelihood: Likelihood, outputs: Tensor, labels: Tensor) -> None:
        """Take in the outputs (B, C) and labels of a batch."""
        loss, entropy = -likelihood.log_likelihood(outputs, labels), likelihood.entropy(outputs)
        self.loss.add(loss)
        self.entropy.add(entropy)
        self._keep(self._reals, loss=loss, entropy=entropy)
        correct = likelihood.correct(outputs, labels)
        if correct is not None:
            self.accuracy.add(correct)
            self._keep(self._reals, correct=correct)
        predicted = predicted_classes(likelihood, outputs, labels)
        if predicted is not None:
            self._keep(self._classes, labels=labels, predicted=predicted)
        self._is_probability = likelihood.name != "gaussian"

    def over_ranks(self, process_group: ProcessGroup) -> "RunningPredictions":
        """The predictions of all ranks, in order of the examples; collective."""
        if process_group.size == 1:
            return self
        loss, accuracy, entropy = over_ranks([self.loss, self.accuracy, self.entropy], process_group)
        kept = [self._reals, self._classes]
        names = process_group.exchange([list(each) for each in kept])
        reals, classes = (
            {name: [process_group.gather(kept[i].get(name, []))] for name in max((each[i] for each in names), key=len)}
            for i in range(2)
        )
        is_probability = all(process_group.exchange(self._is_probability))
        return RunningPredictions(loss, accuracy, entropy, reals, classes, is_probability)

    def predictions(self) -> Predictions:
        """Loss, accuracy and entropy: means with their standard errors over examples; no accuracy without classes."""
        accuracy = self.accuracy.estimate() if self.accuracy.count else None
        return Predictions(self.loss.estimate(), accuracy, self.entropy.estimate())

    def per_example(self) -> PerExample:
        """Loss, entropy and predicted class of each example, in order."""
        reals = {name: as_floats(torch.cat(parts)) for name, parts in self._reals.items()}
        classes: dict[str, tuple[int, ...]] = {
            name: tuple(torch.cat(parts).tolist()) for name, parts in self._classes.items()
        }
        return PerExample(
            loss=reals["loss"],
            entropy=reals["entropy"],
            correct=reals.get("correct"),
            labels=classes.get("labels"),
            predicted=classes.get("predicted"),
            is_probability=self._is_probability,
        )

    @staticmethod
    def _keep(kept: dict[str, list[Tensor]], **values: Tensor) -> None:
        for name, value in values.items():
            kept.setdefault(name, []).append(value.detach())
