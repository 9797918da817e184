"""One file per schema change, in the order of their numbers. A released one is never edited."""
