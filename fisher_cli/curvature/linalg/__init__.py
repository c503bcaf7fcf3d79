"""Eigenvalues and spectral densities of any symmetric positive semidefinite product; nothing of networks."""
