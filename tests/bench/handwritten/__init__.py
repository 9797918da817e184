"""The API that a user would write by hand: Strawberry, SQLModel, async sessions and DataLoaders, in an afternoon.

It has the gateway's names for what the workloads use, on the gateway's own tables: reads without rights or limits,
writes that record the same rows.
"""
