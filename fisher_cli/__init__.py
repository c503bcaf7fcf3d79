"""Fisher information of saved classifier checkpoints."""

__version__ = "0.1.0"
