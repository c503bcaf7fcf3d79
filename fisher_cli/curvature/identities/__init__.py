"""Identities between Fisher's different forms, held against the user's own network: what `fisher verify` checks."""
