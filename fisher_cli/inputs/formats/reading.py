"""How checkpoints are to be read: the user's choices, which go down as one argument."""

from dataclasses import dataclass

from fisher_cli.settings import Resources, Settings


@dataclass(frozen=True)
class ReadOptions:
    """What to take out of a checkpoint.

    `state_key` is the dotted key of the weights, None for the usual places; `use_ema` takes a moving average of the
    weights in place of the weights; `trust_pickle` lets files run their own code while they are read.
    """

    state_key: str | None = None
    use_ema: bool = False
    trust_pickle: bool = False

    @classmethod
    def of(cls, settings: Settings, resources: Resources) -> "ReadOptions":
        """What a run's settings say about reading."""
        return cls(settings.state_key, settings.use_ema, resources.trust_pickle)
