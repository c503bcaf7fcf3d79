"""A catalogue of right networks of all kinds that are in use, small, for the traces of each parameter."""
