"""The version, said once: the package, its records and the distribution ask here."""

__version__ = "0.1.0"
