"""The `simulated` driver: a provider whose machines live in tables of the gateway's own database."""
