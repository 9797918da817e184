"""Limits on the size of an operation, counted on the syntax tree before the slower validation.

The selections of a fragment count at every spread, so nested fragments cannot hide fields.
"""

from collections.abc import Mapping
from typing import NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)
from graphql.validation.rules import overlapping_fields_can_be_merged

from gateway.config import Settings
from gateway.graphql.error_format import LIMIT_EXCEEDED, RequestError

# The validation rule compares all pairs of fields, and of fragments, with the same response position, so its time grows
# with the square of the repetitions. This budget is spent in about 0.1 s, by about 220 repetitions of one field.
overlapping_fields_can_be_merged.MAX_COMPLEXITY_BUDGET = 50_000


class SelectionSize(NamedTuple):
    """The size of a selection set, with everything nested in it."""

    levels: int = 0
    aliases: int = 0
    directives: int = 0
    fields: int = 0


def check_size(document: DocumentNode, settings: Settings) -> None:
    """Raises RequestError if an operation exceeds a limit of `settings`. The document need not be valid."""
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
