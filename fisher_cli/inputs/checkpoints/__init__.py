"""Checkpoints: which files there are, what is stored in them, where in a training they stand."""
