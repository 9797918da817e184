"""Writes: accept a wish, run it, reconcile it."""
