"""Attacks on a gateway, and what its other callers notice."""
