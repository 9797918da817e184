"""Fleets with odd machines, of every driver. `python -m tests.drivers.odd_fleet` prints what the gateway shows of them.

Each module of `tests.drivers.odd` is the fleet of a driver. It has

* `PART`, the name of its requirement in `GATEWAY_TEST_REQUIRE`, and `lacking()`, why it cannot run here, or None;
* `ODDITIES`, a mapping from what is odd to the `Oddity` that is expected;
* `fleet(directory, size)`, a context manager of a `Fleet`.
"""
