"""Places errors of fields in a response, as the GraphQL specification prescribes (section "Handling Execution Errors").

The value of a field that failed is an exception. Null takes its place or, if the field is non-null, the place of the
nearest value around it that may be null. What was selected after it inside that value is not looked at.

Values do not have type names here, so the fields of an object are those of all types that it may have. That is exact:
validation guarantees that fields with one response key have types of one shape, and the exception of a field below the
root names that field (`FieldError`).
"""

from collections.abc import Sequence
from typing import Any

from graphql import GraphQLError

from gateway.reads.selection import Field, FieldError

Path = tuple[str | int, ...]


def place_errors(fields: Sequence[Field], values: dict[str, Any]) -> tuple[dict[str, Any] | None, list[GraphQLError]]:
    """The data of a response whose root `fields` have these values, which are changed in place, and its errors."""
    errors: list[GraphQLError] = []
    try:
        _place_in_object(fields, values, (), errors)
    except GraphQLError as error:
        return None, [*errors, error]
    return values, errors


def error_at(error: Exception, field: Field, path: Path) -> GraphQLError:
    """The error with this path, and with the location of `field` unless it has one."""
    if isinstance(error, GraphQLError):
        nodes = error.nodes or field.ast_nodes
        return GraphQLError(error.message, nodes=nodes, path=path, original_error=error.original_error)
    if isinstance(error, FieldError):
        field = error.field
    return GraphQLError(str(error), nodes=field.ast_nodes, path=path, original_error=error)


def _place_in_object(fields: Sequence[Field], values: dict[str, Any], path: Path, errors: list[GraphQLError]) -> None:
    by_key: dict[str, list[Field]] = {}
    for field in fields:
        by_key.setdefault(field.key, []).append(field)
    for key, value in values.items():
        selected = by_key[key]
        values[key] = _place(selected, selected[0].nullable, value, (*path, key), errors)


def _place(
    fields: Sequence[Field], nullable: Sequence[bool], value: Any, path: Path, errors: list[GraphQLError]
) -> Any:
    """The value of `fields`, which have one response key. Raises the error of a null that `nullable` does not allow."""
    try:
        if isinstance(value, Exception):
            raise error_at(value, fields[0], path)
        if isinstance(value, list):
            return [_place(fields, nullable[1:], item, (*path, n), errors) for n, item in enumerate(value)]
        if isinstance(value, dict):
            inner = [one for field in fields for selected in field.selection.values() for one in selected]
            _place_in_object(inner, value, path, errors)
    except GraphQLError as error:
        if not nullable[0]:
            raise
        errors.append(error)
        return None
    return value
