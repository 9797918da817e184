"""Mistakes to seed into one gateway process, to show that the checks find them. Nothing in `gateway` knows of it."""
