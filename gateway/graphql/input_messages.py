"""Messages of graphql-core about values that a client sent, with the values in the client's notation.

graphql-core writes them as Python does: `None`, `True`, `{'eq': 'x'}`. A client sent JSON, and reads null, true and
`{"eq": "x"}`.
"""

import json
import re
from collections.abc import Mapping
from functools import reduce
from typing import Any

from graphql import GraphQLError
from graphql.pyutils import inspect

# As in graphql-core's `inspect`.
_MAX_DEPTH = 2
_MAX_ITEMS = 10
_MAX_CHARACTERS = 240

_PLACE = re.compile(r"Variable '\$(\w+)' has invalid value(?: at ((?:\.\w+|\[\d+\])+))?: ")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_PYTHON_NULL, _NULL = "not to be None.", "not to be null."


def with_json_null(message: str) -> str:
    """The message, where it says at its end that a value must not be null."""
    return message.removesuffix(_PYTHON_NULL) + _NULL if message.endswith(_PYTHON_NULL) else message


def with_json_value(error: GraphQLError, variables: Mapping[str, Any]) -> GraphQLError:
    """The error of a variable, with the value that it shows as JSON. Other errors are returned unchanged."""
    place = _PLACE.match(error.message)
    if place is None or place[1] not in variables:
        return error
    value = reduce(_descend, _STEP.findall(place[2] or ""), variables[place[1]])
    before, python, after = error.message.rpartition(inspect(value))
    if not python or not before.endswith(": "):  # the message does not show the value
        return error
    return GraphQLError(before + json_text(value) + after, error.nodes, original_error=error.original_error)


def _descend(value: Any, step: tuple[str, str]) -> Any:
    name, index = step
    return value[name] if name else value[int(index)]


def json_text(value: Any, depth: int = 0) -> str:
    """A value as JSON. Long texts and lists are shortened, and what is nested deeper than two levels is left out."""
    match value:
        case list():
            items = [json_text(item, depth + 1) for item in value[:_MAX_ITEMS]] if depth < _MAX_DEPTH else []
            return f"[{_joined(items, len(value))}]"
        case dict():
            pairs = list(value.items())[:_MAX_ITEMS] if depth < _MAX_DEPTH else []
            items = [f"{json_text(name)}: {json_text(item, depth + 1)}" for name, item in pairs]
            return f"{{{_joined(items, len(value))}}}"
        case _:
            return _shortened(json.dumps(value, ensure_ascii=False))


def _joined(items: list[str], count: int) -> str:
    return ", ".join(items if len(items) == count else [*items, "..."])


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."
