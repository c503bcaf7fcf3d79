"""What every estimator is asked: a network, its likelihood, the examples, the parameters."""
