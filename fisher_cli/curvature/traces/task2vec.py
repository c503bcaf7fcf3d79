"""Task2Vec: a vector that says which filters of a network a task depends on."""

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.moments import as_floats
from fisher_cli.curvature.traces.diagonal import fisher_diagonal
from fisher_cli.results import FilterMeans


def task2vec(engine: Engine) -> tuple[FilterMeans, ...]:
    """mean_{j ∈ filter} F_jj for every filter: the first dimension of each weight of two dimensions or more.

    F is exact over the model's labels; the source draws them, and its code squares gradients that are means over a
    batch of B, which gives F/B in expectation. Order of the network's parameters, then of the filters.

    Source: Achille et al. 2019 (arXiv:1902.03545), section 3.
    """
    return tuple(
        FilterMeans(name, as_floats(diagonal.flatten(1).mean(dim=1)))
        for name, diagonal in fisher_diagonal(engine).items()
        if diagonal.dim() > 1
    )
