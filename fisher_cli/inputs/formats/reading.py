"""How checkpoints are to be read: the user's choices, which go down as one argument."""

from dataclasses import dataclass

from fisher_cli.settings import Resources, Settings


@dataclass(frozen=True)
class ReadOptions:
    """What to take out of a checkpoint, and how far to trust it.

    Attributes:
        state_key: the dotted key of the weights in the file; None for the usual places.
        use_ema: whether a moving average of the weights is taken in their place.
        trust_pickle: whether files may run their own code while they are read.
    """

    state_key: str | None = None
    use_ema: bool = False
    trust_pickle: bool = False

    @classmethod
    def of(cls, settings: Settings, resources: Resources) -> "ReadOptions":
        """Take the options of reading out of a run's settings and resources."""
        return cls(settings.state_key, settings.use_ema, resources.trust_pickle)
