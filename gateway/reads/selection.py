"""A selection, independent of GraphQL: fields by concrete type, whose arguments are bound for each request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import GatewayError

Variables = Any  # of one request; opaque to the compiler, only `Field.arguments` reads them
Arguments = Mapping[str, Any]  # coerced; an omitted argument is absent, an explicit null is None


class ConstantArguments(dict[str, Any]):
    """Arguments without variables: the same object at every request."""


def no_arguments(_variables: Variables) -> Arguments:
    """The arguments of a field without any."""
    return {}


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of a selection. Compared by identity: one object may be in the selections of several types."""

    key: str  # its name in the response
    name: str
    selection: "Selection"
    arguments: Callable[[Variables], Arguments] = no_arguments
    ast_nodes: Sequence[Any] = ()  # its nodes in the document, for the locations of errors
    # Whether null may take the place of a value that failed: of the field's own and, if that is a list, of its items.
    nullable: Sequence[bool] = (True,)


Selection = Mapping[str, Sequence[Field]]  # by the name of the concrete type; empty for a leaf


class FieldError(Exception):
    """The value of `field` cannot be loaded. `error` has the reason."""

    def __init__(self, field: Field, error: GatewayError) -> None:
        super().__init__(error.message)
        self.field = field
        self.error = error


def leaf(name: str, key: str | None = None) -> Field:
    """A field without arguments or a selection."""
    return Field(key or name, name, {})
