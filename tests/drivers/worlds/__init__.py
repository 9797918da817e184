"""The providers that the contract tests run against: one module each, discovered by name.

A module has `PART`, the name of its requirement in `GATEWAY_TEST_REQUIRE`; `lacking()`, the reason why it cannot run
here, or None; and `world(directory)`, an asynchronous context manager of a `Subject`.
"""
