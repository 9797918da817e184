"""One module per schema change, numbered in order. A released migration is never changed."""
