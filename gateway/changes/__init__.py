"""The change feed: every committed change of a snapshot or operation, once, in one order for all readers."""
