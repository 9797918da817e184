"""The `simulated` driver: a provider whose machines are rows of the gateway's own database."""
