"""Limits of the responses that the gateway reads: `responses`, and `urllib3_limits` for libraries on urllib3."""
