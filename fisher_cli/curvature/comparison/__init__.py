"""The empirical Fisher against the true one, each figure beside its null."""
