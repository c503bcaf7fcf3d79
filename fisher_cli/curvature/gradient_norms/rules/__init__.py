"""How each family of layers turns an input and a cotangent into per-example gradients."""
