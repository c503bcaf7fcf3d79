"""What a run is asked to do: `Settings` change its numbers, `Resources` change only its speed and place."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any


class Estimator(StrEnum):
    """How the true Fisher's scores are made; `auto` is exact."""

    AUTO = "auto"
    EXACT = "exact"


class LikelihoodName(StrEnum):
    """The predictive distribution that the network's outputs parameterise."""

    AUTO = "auto"
    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    GAUSSIAN = "gaussian"


class Precision(StrEnum):
    """The floating-point type in which the network is evaluated."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that changes a number of the report.

    `limit` None means all examples. `model` None means: take the architecture that the checkpoint names.
    `normalize` None means the dataset's own constants. `include` and `exclude` are shell patterns on
    parameter names; a parameter is analysed when it matches one of `include` and none of `exclude`.
    """

    data: str = "digits"
    split: str | None = None
    limit: int | None = 1000
    labels: str | None = None
    normalize: str | None = None
    model: str | None = None
    model_arguments: tuple[tuple[str, str], ...] = ()
    state_key: str | None = None
    estimator: Estimator = Estimator.AUTO
    eigenvalues: int = 5
    eigenvalue_tolerance: float = 1e-3
    likelihood: LikelihoodName = LikelihoodName.AUTO
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    precision: Precision = Precision.FLOAT32
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values, in declaration order."""
        return asdict(self)

    def digest(self) -> str:
        """SHA-256 of the settings: two runs with equal digests were asked the same question."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where and how fast to compute; no number of the report depends on these beyond rounding.

    `batch_size` None means: chosen from the network's shapes and the machine's memory.
    """

    batch_size: int | None = None
    device: str = "auto"
    data_dir: str | None = None
    download: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The resources as plain JSON values, in declaration order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
