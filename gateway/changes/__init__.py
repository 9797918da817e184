"""The change feed: every committed change of a published row, once, in one order for all readers."""
