"""Providers with many machines, one of which has a long chain of snapshots: one module per driver.

A module has `PART`, the name of its requirement in `GATEWAY_TEST_REQUIRE`; `lacking()`, why it cannot run here, or
None; and `world(directory, machines, snapshots)`, a context manager of a `LargeWorld`.
"""
