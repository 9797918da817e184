"""An API as a user would write it by hand in an afternoon: Strawberry, SQLModel, async sessions and DataLoaders.

It has the part of the gateway's schema that the workloads need, on the gateway's own tables: reads without rights or
limits, writes that record the same rows.
"""
