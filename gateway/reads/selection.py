"""What a client asked for, free of GraphQL: fields by concrete type, with their arguments still to be bound."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Variables = Any  # of one request; only a field's `arguments` know what they look like
Arguments = Mapping[str, Any]  # coerced; what was left out is absent, an explicit null is None


def no_arguments(_variables: Variables) -> Arguments:
    return {}


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of a selection. The same object may stand in the selections of several concrete types."""

    key: str  # its name in the answer
    name: str
    selection: "Selection"
    arguments: Callable[[Variables], Arguments] = no_arguments
    origin: Any = None  # where it stands in its document, for errors


Selection = Mapping[str, Sequence[Field]]  # by the name of the concrete type; empty for a leaf


def leaf(name: str, key: str | None = None) -> Field:
    """A field without arguments or selection."""
    return Field(key or name, name, {})
