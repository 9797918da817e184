"""One module per world that the contract is tried in, found by its name.

It has `PART`, what `GATEWAY_TEST_REQUIRE` calls what it needs; `lacking()`, why it cannot be had here, or None; and
`world(directory)`, an asynchronous context manager of a `Subject`.
"""
