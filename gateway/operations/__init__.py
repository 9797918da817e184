"""Writes: accept commands, run them as operations, recover them after a crash."""
