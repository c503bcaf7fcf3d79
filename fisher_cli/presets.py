"""Presets: the settings that reproduce the definitions of published papers, by name."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fisher_cli.errors import UsageError
from fisher_cli.settings import Estimator, Precision, Settings


@dataclass(frozen=True)
class Preset:
    """The settings that a paper's definition takes, other than ours, what it is about in one line, and its source."""

    settings: Mapping[str, Any]
    about: str
    source: str


PRESETS: Final[Mapping[str, Preset]] = {
    "ye2022": Preset(
        {
            "estimator": Estimator.SAMPLED,
            "samples": 5,
            "limit": 1000,
            "weights_only": True,
            "eigenvalues": 0,
        },
        "tr F of linear and convolutional weights inside their pruning masks, 5 sampled labels, 1000 training examples",
        "Ye, Wang, Ding and Chen 2022, The Price of Sparsity (SNN workshop)",
    ),
    "achille2019": Preset(
        {"estimator": Estimator.EXACT, "limit": None, "eigenvalues": 0},
        "tr F over all training examples, exact over the model's labels; each layer's share of it in the layer table",
        "Achille, Rovere and Soatto 2019 (arXiv:1711.08856)",
    ),
    "kunstner2019": Preset(
        {"estimator": Estimator.EXACT, "limit": None, "precision": Precision.FLOAT64},
        "the exact Fisher against the uncentred empirical Fisher, both means over all examples, in float64",
        "Kunstner, Hennig and Balles 2019 (arXiv:1905.12558)",
    ),
    "task2vec": Preset(
        {
            "estimator": Estimator.EXACT,
            "weights_only": True,
            "without_head": True,
            "task2vec": True,
            "eigenvalues": 0,
        },
        "the mean of the Fisher's diagonal over each filter, without the head, as NAME.task2vec beside the report",
        "Achille et al. 2019 (arXiv:1902.03545)",
    ),
    "mccandlish2018": Preset(
        {"limit": None, "eigenvalues": 0},
        "the gradient noise scale B_simple = tr Σ/|G|², unbiased from per-example gradients, in column noise_scale",
        "McCandlish et al. 2018 (arXiv:1812.06162)",
    ),
    "jastrzebski2021": Preset(
        {"estimator": Estimator.SAMPLED, "samples": 1, "eigenvalues": 0},
        "tr F by one sampled label per example; their Fisher penalty on batches of B is tr F/B in expectation",
        "Jastrzębski et al. 2021 (arXiv:2012.14193)",
    ),
}


def settings_of(preset: str | None = None, given: Mapping[str, Any] | None = None, **defaults: Any) -> Settings:
    """The settings of a preset; what was `given` wins over it, and it over `defaults`.

    Raises:
        UsageError: there is no such preset.
        TypeError: there is no setting of one of the names.
    """
    if preset is None:
        return Settings.of(**{**defaults, **(given or {})})
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset.lower(), PRESETS, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        msg = f"--preset {preset!r}: unknown; {guess}there are {', '.join(PRESETS)}"
        raise UsageError(msg)
    return Settings.of(**{**defaults, **PRESETS[preset].settings, **(given or {}), "preset": preset})


def listing() -> list[str]:
    """One line per preset."""
    width = max(map(len, PRESETS))
    return [f"{name:<{width}}  {preset.about}: {preset.source}" for name, preset in PRESETS.items()]
