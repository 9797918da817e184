"""Fleets with odd machines: one module per driver. See `tests.drivers.odd_fleet`."""
