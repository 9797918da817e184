"""Runs the gateway on uvicorn: listening sockets, connection limits, TLS, the supervisor and its worker processes."""
