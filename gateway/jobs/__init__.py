"""Periodic background work: jobs, the leases of those that one process runs for all, and the loop that runs them."""
