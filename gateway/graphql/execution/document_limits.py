"""What one operation may hold: counted on the syntax tree, before anything that takes longer looks at it.

A fragment counts wherever it is spread, so that nesting them hides nothing.
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

# A validator compares every two fields, and every two fragments, that share a place in the answer: the square of how
# often one is repeated. This is a tenth of a second, and about 220 times the same field.
overlapping_fields_can_be_merged.MAX_COMPLEXITY_BUDGET = 50_000


class Size(NamedTuple):
    """How much there is in a selection."""

    levels: int = 0
    aliases: int = 0
    directives: int = 0
    fields: int = 0


def check_size(document: DocumentNode, settings: Settings) -> None:
    """Raises RequestError for an operation that holds more than `settings` allow. The document need not be valid."""
    most = Size(settings.max_depth, settings.max_aliases, settings.max_directives, settings.max_fields)
    measure = _Measure(document)
    for node in document.definitions:
        if not isinstance(node, OperationDefinitionNode):
            continue
        try:
            size = measure.selection(node.selection_set)
        except RecursionError:  # through hundreds of fragments
            raise _too_much("levels", most.levels, node) from None
        size = size._replace(directives=size.directives + len(node.directives or ()))
        for name, found, allowed in zip(Size._fields, size, most, strict=True):
            if found > allowed:
                raise _too_much(name, allowed, node)


def _too_much(name: str, allowed: int, node: OperationDefinitionNode) -> RequestError:
    return RequestError([GraphQLError(f"The operation has more than {allowed} {name}.", node)], LIMIT_EXCEEDED)


class _Measure:
    def __init__(self, document: DocumentNode) -> None:
        self._fragments: Mapping[str, FragmentDefinitionNode] = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self._measured: dict[str, Size] = {}

    def selection(self, selection_set: SelectionSetNode) -> Size:
        levels = aliases = directives = fields = 0
        for node in selection_set.selections:
            inner, own = Size(), 0
            if isinstance(node, FragmentSpreadNode):
                inner = self._fragment(node.name.value)
            elif isinstance(node, InlineFragmentNode):
                inner = self.selection(node.selection_set)
            elif isinstance(node, FieldNode):
                own = 1
                fields += 1
                aliases += node.alias is not None
                if node.selection_set is not None:
                    inner = self.selection(node.selection_set)
            fields += inner.fields
            levels = max(levels, own + inner.levels)
            aliases += inner.aliases
            directives += inner.directives + len(node.directives or ())
        return Size(levels, aliases, directives, fields)

    def _fragment(self, name: str) -> Size:
        """Each is measured once. One that is unknown, or spreads itself, is for the validator to refuse."""
        if name not in self._measured:
            self._measured[name] = Size()
            if name in self._fragments:
                self._measured[name] = self.selection(self._fragments[name].selection_set)
        return self._measured[name]
