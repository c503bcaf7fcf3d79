"""Squared per-example gradient norms of every parameter tensor, without per-example gradients.

One rule per layer family turns a layer's inputs and output cotangents into squared norms; whatever no rule
covers exactly goes through per-example gradients; a ledger says which parameter went where.
"""
