"""Documents: parsed, validated and kept, so that this is paid once per document and not per request.

A document earns its place. A new one is kept among a few newcomers; only one that is asked for again moves to the
regulars, so a flood of documents that are used once pushes out nobody but its like, and memory stays bounded.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSchema,
    InlineFragmentNode,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    parse,
    specified_rules,
    validate,
)
from graphql.validation.validate import ValidationAbortedError

from gateway.config import Settings
from gateway.graphql.error_format import LIMIT_EXCEEDED, VALIDATION_FAILED, RequestError
from gateway.graphql.execution.document_limits import check_size
from gateway.graphql.execution.persisted_documents import PersistedDocuments
from gateway.graphql.execution.variables import VariableBinder
from gateway.graphql.requests import GraphQLRequest, OperationKind

NEWCOMERS = 128
REGULARS = 1_024
LONGEST_KEPT = 20_000  # characters; a longer document is parsed every time


@dataclass(slots=True, eq=False)
class Operation:
    """One operation of a valid document."""

    document: DocumentNode
    node: OperationDefinitionNode
    kind: OperationKind
    fragments: Mapping[str, FragmentDefinitionNode]
    introspects: bool  # asks for `__schema` or `__type`
    conditions: tuple[str, ...]  # the variables that `@skip` and `@include` look at
    variables: VariableBinder
    plans: dict[tuple[Any, ...], Any] = field(default_factory=dict)  # by the values of `conditions`


class Documents:
    """The operations of the documents that were asked for lately."""

    def __init__(self, schema: GraphQLSchema, settings: Settings, persisted: PersistedDocuments) -> None:
        self._schema = schema
        self._settings = settings
        self._persisted = persisted
        self._rules = [*specified_rules, *([] if settings.introspection else [NoSchemaIntrospectionCustomRule])]
        # A suggestion tells of the schema what introspection would.
        self.hide_suggestions = not (settings.suggestions and settings.introspection)
        self._newcomers: OrderedDict[str, Mapping[str | None, Operation]] = OrderedDict()
        self._regulars: OrderedDict[str, Mapping[str | None, Operation]] = OrderedDict()
        self.kept = 0  # times that one was in memory
        self.read = 0  # times that one had to be read

    def operation(self, request: GraphQLRequest) -> Operation:
        """The operation that would run. Raises RequestError."""
        operations = self._operations(self._persisted.text(request))
        try:
            return operations[request.operation_name]
        except KeyError:
            if request.operation_name is None:
                message = "The document has several operations: name one in `operationName`."
            else:
                message = f"The document has no operation named {request.operation_name!r}."
            raise RequestError([GraphQLError(message)]) from None

    @property
    def sizes(self) -> tuple[int, int]:
        """How many regulars and newcomers there are."""
        return len(self._regulars), len(self._newcomers)

    def label(self, request: GraphQLRequest) -> tuple[str, str]:
        """Kind and name of what was run, for counting: only names of regulars are told apart."""
        try:
            text = self._persisted.text(request)
        except RequestError:
            return "unknown", "other"
        if (kept := self._regulars.get(text)) is None:
            operation = self._newcomers.get(text, {}).get(request.operation_name)
            return "unknown" if operation is None else operation.kind, "other"
        operation = kept.get(request.operation_name)
        if operation is None:
            return "unknown", "other"
        return operation.kind, operation.node.name.value if operation.node.name else "other"

    def _operations(self, query: str) -> Mapping[str | None, Operation]:
        if (kept := self._regulars.get(query)) is not None:
            self._regulars.move_to_end(query)
            self.kept += 1
            return kept
        if (again := self._newcomers.pop(query, None)) is not None:
            self._regulars[query] = again
            if len(self._regulars) > REGULARS:
                self._regulars.popitem(last=False)
            self.kept += 1
            return again
        self.read += 1
        operations = self._read(query)
        if len(query) <= LONGEST_KEPT:
            self._newcomers[query] = operations
            if len(self._newcomers) > NEWCOMERS:
                self._newcomers.popitem(last=False)
        return operations

    def _read(self, query: str) -> Mapping[str | None, Operation]:
        """Every operation by its name; an only one also by None."""
        try:
            document = parse(query, max_tokens=self._settings.max_tokens, allow_empty_selection_sets=False)
        except GraphQLError as error:
            raise RequestError([error]) from None
        check_size(document, self._settings)
        if errors := validate(self._schema, document, self._rules, hide_suggestions=self.hide_suggestions):
            if isinstance(errors[0], ValidationAbortedError):
                message = "The document repeats fields or fragments so often that it takes too long to compare them."
                raise RequestError([GraphQLError(message)], LIMIT_EXCEEDED)
            raise RequestError(errors, VALIDATION_FAILED)
        fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
        operations: dict[str | None, Operation] = {}
        nodes = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        for node in nodes:
            found = _Survey(fragments)
            found.visit(node.selection_set)
            kind: Any = node.operation.value
            operation = Operation(
                document,
                node,
                kind,
                fragments,
                found.introspects,
                tuple(sorted(found.conditions)),
                VariableBinder(self._schema, node, hide_suggestions=self.hide_suggestions),
            )
            operations[node.name.value if node.name else None] = operation
            if len(nodes) == 1:
                operations[None] = operation
        return operations


class _Survey:
    """What an operation has anywhere in it, fragments included."""

    def __init__(self, fragments: Mapping[str, FragmentDefinitionNode]) -> None:
        self._fragments = fragments
        self._seen: set[str] = set()
        self.introspects = False
        self.conditions: set[str] = set()

    def visit(self, selection_set: SelectionSetNode) -> None:
        for node in selection_set.selections:
            for directive in node.directives or ():
                for argument in directive.arguments or ():
                    if isinstance(argument.value, VariableNode):
                        self.conditions.add(argument.value.name.value)
            if isinstance(node, FieldNode):
                self.introspects |= node.name.value in ("__schema", "__type")
                if node.selection_set is not None:
                    self.visit(node.selection_set)
            elif isinstance(node, InlineFragmentNode):
                self.visit(node.selection_set)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in self._seen:
                self._seen.add(node.name.value)
                self.visit(self._fragments[node.name.value].selection_set)
