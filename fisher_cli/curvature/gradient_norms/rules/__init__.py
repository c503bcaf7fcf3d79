"""How each family of layers turns inputs and cotangents into per-example gradients: every module here is found."""

import importlib
import pkgutil

from fisher_cli.curvature.gradient_norms.grad_factors import EmbeddingRows, ExplicitGradients, OuterProducts
from fisher_cli.curvature.gradient_norms.rules.registry import Rule, rule

__all__ = ["EmbeddingRows", "ExplicitGradients", "OuterProducts", "Rule", "rule"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
