"""Products of the Jacobian, the true Fisher and the empirical Fisher with vectors."""
