"""torch as the mathematics needs it: deterministic kernels, precision, memory, vector–Jacobian products."""
