"""The change feed: every change of a published row, once, in commit order."""
