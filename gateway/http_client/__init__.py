"""Reads responses: their limits (`responses`, and `urllib3_limits` for libraries on urllib3), and their JSON."""
