"""uvicorn, TLS, connections, the supervisor and its worker processes."""
