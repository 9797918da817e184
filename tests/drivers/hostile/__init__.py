"""Hostile providers of every kind. `python -m tests.drivers.hostile` prints what the gateway does about them."""
