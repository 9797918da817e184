"""Limits on the size of a request, checked before the slower steps: parsing, validation and coercing variables.

The size of an operation is counted on the syntax tree. The selections of a fragment count at every spread, so nested
fragments cannot hide fields.

The errors of an invalid request are limited too. Validation and coercion stop after `MAX_ERRORS`. graphql-core prints
the object around each unknown member in the message, so that time and size grow with the square of the members;
`_print_for_error` prints the beginning of a large one.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
)
from graphql.language import printer
from graphql.validation.rules import overlapping_fields_can_be_merged

from gateway.config import Settings
from gateway.graphql.error_format import LIMIT_EXCEEDED, RequestError

# The validation rule compares all pairs of fields, and of fragments, with the same response position, so its time grows
# with the square of the repetitions. This budget is spent in about 0.1 s, by about 220 repetitions of one field.
overlapping_fields_can_be_merged.MAX_COMPLEXITY_BUDGET = 50_000

MAX_ERRORS = 20  # of one document, and of the variables of one request
LENGTH_PER_TOKEN = 20  # a document may have this many characters, and one line, for each token that it may have
# In the variables of a request. graphql-core takes 3 us for a value in a list, and up to 100 us for an object.
MAX_VARIABLE_VALUES = 10_000  # lists and objects included
MAX_VARIABLE_OBJECTS = 1_000
_MAX_PRINTED = 1_000  # characters of a literal that are printed in an error


def _print_for_error(node: Node) -> str:
    """Prints a literal as graphql-core does, unless it is long: then the beginning of its text in the document."""
    place = node.loc
    if place is None or place.end - place.start <= _MAX_PRINTED:
        return printer.print_for_error(node)
    return place.source.body[place.start : place.start + _MAX_PRINTED] + "…"


# The package exports a function of the same name, so the module must be imported by its name.
_validate_input_value: Any = import_module("graphql.utilities.validate_input_value")
_validate_input_value.print_for_error = _print_for_error


def check_length(text: str, settings: Settings) -> None:
    """Raises RequestError if a document is too long to be parsed. Locations of errors cost time for each line."""
    limits = {"characters": LENGTH_PER_TOKEN * settings.max_tokens, "lines": settings.max_tokens}
    sizes = {"characters": len(text), "lines": text.count("\n") + text.count("\r")}
    for name, limit in limits.items():
        if sizes[name] > limit:
            raise RequestError([GraphQLError(f"The document has more than {limit} {name}.")], LIMIT_EXCEEDED)


def check_variables(values: Mapping[str, Any]) -> None:
    """Raises RequestError if the variables of a request have too many values or objects, however they are nested."""
    value_count = object_count = 0
    stack: list[Any] = [values]
    while stack:
        value = stack.pop()
        value_count += len(value)
        object_count += isinstance(value, dict)
        if value_count > MAX_VARIABLE_VALUES:
            raise _variables_error(f"{MAX_VARIABLE_VALUES} values, including those in lists and objects")
        if object_count > MAX_VARIABLE_OBJECTS:
            raise _variables_error(f"{MAX_VARIABLE_OBJECTS} objects")
        stack += [
            member
            for member in (value.values() if isinstance(value, dict) else value)
            if isinstance(member, dict | list)
        ]


def _variables_error(limit: str) -> RequestError:
    return RequestError([GraphQLError(f"The variables have more than {limit}.")], LIMIT_EXCEEDED)


class SelectionSize(NamedTuple):
    """The size of a selection set, with everything nested in it."""

    levels: int = 0
    aliases: int = 0
    directives: int = 0
    fields: int = 0


def check_size(document: DocumentNode, settings: Settings) -> list[SelectionSize]:
    """The size of each operation. Raises RequestError if it exceeds a limit of `settings`.

    The document need not be valid.
    """
    sizes = []
    limits = SelectionSize(settings.max_depth, settings.max_aliases, settings.max_directives, settings.max_fields)
    counter = _SizeCounter(document)
    for node in document.definitions:
        if not isinstance(node, OperationDefinitionNode):
            continue
        try:
            size = counter.count(node.selection_set)
        except RecursionError:  # hundreds of nested fragments
            raise _limit_error("levels", limits.levels, node) from None
        size = size._replace(directives=size.directives + len(node.directives or ()))
        for name, count, limit in zip(SelectionSize._fields, size, limits, strict=True):
            if count > limit:
                raise _limit_error(name, limit, node)
        sizes.append(size)
    return sizes


def _limit_error(name: str, limit: int, node: OperationDefinitionNode) -> RequestError:
    return RequestError([GraphQLError(f"The operation has more than {limit} {name}.", node)], LIMIT_EXCEEDED)


class _SizeCounter:
    def __init__(self, document: DocumentNode) -> None:
        self._fragments: Mapping[str, FragmentDefinitionNode] = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self._fragment_sizes: dict[str, SelectionSize] = {}

    def count(self, selection_set: SelectionSetNode) -> SelectionSize:
        levels = aliases = directives = fields = 0
        for node in selection_set.selections:
            inner, own = SelectionSize(), 0
            if isinstance(node, FragmentSpreadNode):
                inner = self._count_fragment(node.name.value)
            elif isinstance(node, InlineFragmentNode):
                inner = self.count(node.selection_set)
            elif isinstance(node, FieldNode):
                own = 1
                fields += 1
                aliases += node.alias is not None
                if node.selection_set is not None:
                    inner = self.count(node.selection_set)
            fields += inner.fields
            levels = max(levels, own + inner.levels)
            aliases += inner.aliases
            directives += inner.directives + len(node.directives or ())
        return SelectionSize(levels, aliases, directives, fields)

    def _count_fragment(self, name: str) -> SelectionSize:
        """Counts each fragment once. Unknown and recursive fragments count as empty here; validation rejects them."""
        if name not in self._fragment_sizes:
            self._fragment_sizes[name] = SelectionSize()
            if name in self._fragments:
                self._fragment_sizes[name] = self.count(self._fragments[name].selection_set)
        return self._fragment_sizes[name]
