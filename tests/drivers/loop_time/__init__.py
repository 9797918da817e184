"""How long drivers hold the event loop. `python -m tests.drivers.loop_time` prints it for large providers."""
