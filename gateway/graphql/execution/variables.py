"""Coerces the variables of a request.

Strings, booleans, integers and ids that need no coercion are used unchanged, which is much faster than graphql-core. If
an operation has other types or defaults, or a value is invalid, graphql-core coerces all variables and formats the
errors.
"""

from collections.abc import Callable, Mapping
from typing import Any

from graphql import (
    GraphQLError,
    GraphQLNonNull,
    GraphQLSchema,
    OperationDefinitionNode,
    get_variable_values,
)
from graphql.execution.get_variable_signature import GraphQLVariableSignature, get_variable_signature
from graphql.execution.values import VariableValues, VariableValueSource

from gateway.graphql.execution.document_limits import MAX_ERRORS, check_variables
from gateway.graphql.input_messages import with_json_value

_INT_LIMIT = 2**31

# By the name of a scalar: whether a value needs no coercion.
_IS_COERCED: Mapping[str, Callable[[Any], bool]] = {
    "ID": lambda value: type(value) is str,
    "String": lambda value: type(value) is str,
    "Boolean": lambda value: type(value) is bool,
    "Int": lambda value: type(value) is int and -_INT_LIMIT <= value < _INT_LIMIT,
}


class VariableBinder:
    """Coerces the variables of one operation."""

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode, *, hide_suggestions: bool) -> None:
        self._schema = schema
        self._hide_suggestions = hide_suggestions
        self._definitions = operation.variable_definitions or ()
        self._scalars: list[tuple[str, GraphQLVariableSignature, Callable[[Any], bool], bool]] | None = []
        for definition in self._definitions:
            signature = get_variable_signature(schema, definition)
            if isinstance(signature, GraphQLError) or signature.default is not None:
                self._scalars = None
                return
            required = isinstance(signature.type, GraphQLNonNull)
            inner: Any = signature.type.of_type if isinstance(signature.type, GraphQLNonNull) else signature.type
            is_coerced = _IS_COERCED.get(getattr(inner, "name", ""), lambda _value: False)
            self._scalars.append((signature.name, signature, is_coerced, required))

    def bind(self, values: Mapping[str, Any]) -> VariableValues | list[GraphQLError]:
        """The coerced values, or a limited number of errors. Raises RequestError if there are too many values."""
        if self._scalars is not None:
            sources: dict[str, VariableValueSource] = {}
            coerced: dict[str, Any] = {}
            for name, signature, is_coerced, required in self._scalars:
                value = values.get(name)
                if value is None:
                    if required:
                        break
                    if name not in values:
                        continue
                elif not is_coerced(value):
                    break
                sources[name] = VariableValueSource(signature, value)
                coerced[name] = value
            else:
                return VariableValues(sources, coerced)
        check_variables(values)
        found = get_variable_values(
            self._schema,
            self._definitions,
            dict(values),
            max_errors=MAX_ERRORS,
            hide_suggestions=self._hide_suggestions,
        )
        return [with_json_value(error, values) for error in found] if isinstance(found, list) else found
