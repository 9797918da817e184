"""The limit on the arguments of all lists of one operation.

A variable is one value in the request, but each field that uses it checks it, makes a condition of it, and binds it to
its statements. So a variable counts each time it is used.
"""

from collections.abc import Mapping
from typing import Any

from gateway.errors import RequestTooLarge
from gateway.reads.selection import ConstantArguments

MAX_VALUES = 20_000  # lists and objects included; each takes a few microseconds
MAX_CHARACTERS = 2_000_000


class ArgumentBudget:
    """What the arguments of one operation may still have."""

    def __init__(self) -> None:
        self._values = MAX_VALUES
        self._characters = MAX_CHARACTERS

    def spend(self, arguments: Mapping[str, Any]) -> None:
        """Counts the arguments of one field; those without variables are free, because documents are limited.

        Raises RequestTooLarge if that exceeds the budget.
        """
        if isinstance(arguments, ConstantArguments):
            return
        stack: list[Any] = [arguments]
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                self._characters -= len(value)
            elif isinstance(value, dict | list):
                self._values -= len(value)
                if self._values >= 0:
                    stack += value.values() if isinstance(value, dict) else value
        if self._values < 0:
            raise _too_large(f"{MAX_VALUES} values, including those in lists and objects")
        if self._characters < 0:
            raise _too_large(f"{MAX_CHARACTERS} characters")


def _too_large(limit: str) -> RequestTooLarge:
    return RequestTooLarge(
        f"The arguments of the operation have more than {limit}. A variable counts each time it is used."
    )
