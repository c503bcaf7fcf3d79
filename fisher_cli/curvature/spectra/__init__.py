"""Eigenvalues and eigenvectors of the true and the empirical Fisher, and what they say."""
