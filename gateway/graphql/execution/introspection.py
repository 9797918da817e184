"""The limit on introspection: on the number of fields of the schema that an operation may select.

graphql-core executes introspection field by field, at about 5 us each, and a short document with aliases can select
millions of them. So their number is estimated from the lengths that the lists have in the schema of the gateway, and
limited to three times that of the query that GraphiQL and code generators send.
"""

from collections.abc import Mapping

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

from gateway.graphql.error_format import LIMIT_EXCEEDED, RequestError

MAX_FIELDS = 40_000
ROOTS = frozenset({"__schema", "__type"})

# The typical number of objects under a field. Below `ofType` it is that of types which have one at all, and a type that
# is named has more fields than the average.
_LENGTHS = {
    "types": 100,
    "fields": 3.4,
    "args": 1.2,
    "inputFields": 2,
    "enumValues": 1.2,
    "directives": 5,
    "ofType": 0.4,
    "__type": 8,
}


def check_introspection(node: OperationDefinitionNode, fragments: Mapping[str, FragmentDefinitionNode]) -> None:
    """Raises RequestError if a valid operation selects too many fields of the schema."""
    if _count(node.selection_set, fragments, inside=False) > MAX_FIELDS:
        message = f"The operation selects more than {MAX_FIELDS} fields of the schema by introspection. Select fewer."
        raise RequestError([GraphQLError(message, node)], LIMIT_EXCEEDED)


def _count(selection_set: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode], *, inside: bool) -> float:
    """The fields in a selection set that are `inside` one of ROOTS. Fragments count at every spread."""
    count = 0.0
    for node in selection_set.selections:
        if isinstance(node, FragmentSpreadNode):
            count += _count(fragments[node.name.value].selection_set, fragments, inside=inside)
        elif isinstance(node, InlineFragmentNode):
            count += _count(node.selection_set, fragments, inside=inside)
        elif isinstance(node, FieldNode) and (inside or node.name.value in ROOTS):
            below = 0.0 if node.selection_set is None else _count(node.selection_set, fragments, inside=True)
            count += 1 + _LENGTHS.get(node.name.value, 1) * below
    return count
