"""Variables: simple ones are taken as they come, anything else is graphql-core's to coerce and to explain."""

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

_MOST_ERRORS = 20
_LARGEST_INT = 2**31

# By name of the scalar: whether a value needs no coercion.
_SIMPLE: Mapping[str, Callable[[Any], bool]] = {
    "ID": lambda value: type(value) is str,
    "String": lambda value: type(value) is str,
    "Boolean": lambda value: type(value) is bool,
    "Int": lambda value: type(value) is int and -_LARGEST_INT <= value < _LARGEST_INT,
}


class VariableBinder:
    """Coerces the variables of one operation."""

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode, *, hide_suggestions: bool) -> None:
        self._schema = schema
        self._hide_suggestions = hide_suggestions
        self._definitions = operation.variable_definitions or ()
        self._simple: list[tuple[str, GraphQLVariableSignature, Callable[[Any], bool], bool]] | None = []
        for definition in self._definitions:
            signature = get_variable_signature(schema, definition)
            if isinstance(signature, GraphQLError) or signature.default is not None:
                self._simple = None
                return
            required = isinstance(signature.type, GraphQLNonNull)
            inner: Any = signature.type.of_type if isinstance(signature.type, GraphQLNonNull) else signature.type
            simple = _SIMPLE.get(getattr(inner, "name", ""), lambda _value: False)
            self._simple.append((signature.name, signature, simple, required))

    def bind(self, given: Mapping[str, Any]) -> VariableValues | list[GraphQLError]:
        """The coerced values, or every fault."""
        if self._simple is not None:
            sources: dict[str, VariableValueSource] = {}
            coerced: dict[str, Any] = {}
            for name, signature, simple, required in self._simple:
                value = given.get(name)
                if value is None:
                    if required:
                        break
                    if name not in given:
                        continue
                elif not simple(value):
                    break
                sources[name] = VariableValueSource(signature, value)
                coerced[name] = value
            else:
                return VariableValues(sources, coerced)
        return get_variable_values(
            self._schema,
            self._definitions,
            dict(given),
            max_errors=_MOST_ERRORS,
            hide_suggestions=self._hide_suggestions,
        )
