"""The document cache: each GraphQL document is parsed and validated once, not at every request.

The cache is a segmented LRU. A new document enters the probationary segment (64,000 characters); on its second use it
moves to the protected segment (256,000 characters, which is 128 documents of 2,000). Each segment evicts its least
recently used document. So a flood of documents that are used once evicts only other new documents. The plans of
documents that were used twice are in one more cache, so such a flood does not reach it. Both are limited by what takes
the memory, 60 to 150 bytes for each character and 2 KB for each compiled field, and not by their entries: a document
may have 5 characters or 20,000, and 1 field or 1,000. They are small because a full garbage collection traverses them
while the event loop waits: for about 0.1 s.

Parsing and validating take about 7 us for each character, and up to 0.3 s for a document that repeats one field often.
So only short documents are parsed on the event loop; for the others there is one thread, which callers use in turn. A
request with a long document that is not in the protected segment holds one of a few slots from before the document is
parsed until the request is answered. Otherwise a garbage collection would traverse the documents and plans of all
requests that wait for the database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

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

from gateway.bounded_cache import BoundedCache, CacheSection, CacheStats
from gateway.config import Settings
from gateway.fair_queue import FairThread
from gateway.graphql.error_format import LIMIT_EXCEEDED, VALIDATION_FAILED, RequestError
from gateway.graphql.execution.document_limits import MAX_ERRORS, check_length, check_size
from gateway.graphql.execution.introspection import ROOTS, check_introspection
from gateway.graphql.execution.persisted_documents import PersistedDocuments
from gateway.graphql.execution.positions import release_tokens
from gateway.graphql.execution.variables import VariableBinder
from gateway.graphql.requests import GraphQLRequest, OperationType
from gateway.store.fair_slots import FairSlots, Resource

PROBATIONARY_CAPACITY = 64_000  # characters
PROTECTED_CAPACITY = 256_000
PLANS_CAPACITY = 10_000  # fields, which count once for each variant of their operation
MAX_CACHED_LENGTH = 20_000  # characters; longer documents are parsed at every request
_MAX_SHORT = 500  # characters of a document that is parsed, and whose plans are compiled, on the event loop
NEW_DOCUMENTS = 8  # requests with long documents that are not in the protected segment and may run at once

_NEW_DOCUMENT = Resource(
    "Too many long documents are executed for the first time.",
    "The queue of new documents",
    "your share of the slots for long documents that are executed for the first time",
)


class _WaitLimits(NamedTuple):
    acquire_timeout: float
    max_waiting: int
    longest_wait: float


class Plans(NamedTuple):
    """The compiled root fields of an operation."""

    roots: Sequence[Any]
    fields: int  # of the operation


@dataclass(slots=True, eq=False, kw_only=True)
class ParsedOperation:
    """One operation of a valid document."""

    document: DocumentNode
    is_short: bool  # whether its plans are compiled on the event loop
    node: OperationDefinitionNode
    kind: OperationType
    fragments: Mapping[str, FragmentDefinitionNode]
    introspects: bool  # whether it selects `__schema` or `__type`
    conditions: tuple[str, ...]  # names of the variables in arguments of directives (`@skip`, `@include`)
    variables: VariableBinder
    fields: int  # at every spread of a fragment
    plans: CacheSection[tuple[Any, ...], Plans]  # by values of `conditions`
    uses: int = 0  # if 1, its plans are not cached


Operations = Mapping[str | None, ParsedOperation]  # those of a document, by name; see `DocumentCache._parse`
_Outcome = Operations | RequestError  # of parsing a document


class DocumentCache:
    """Parses and validates documents, and caches their operations."""

    def __init__(
        self, schema: GraphQLSchema, settings: Settings, persisted: PersistedDocuments, thread: FairThread
    ) -> None:
        self._schema = schema
        self._thread = thread
        self._settings = settings
        self._persisted = persisted
        self._rules = [*specified_rules, *([] if settings.introspection else [NoSchemaIntrospectionCustomRule])]
        # Suggestions in validation errors ("Did you mean ...") disclose the schema, as introspection does.
        self.hide_suggestions = not (settings.suggestions and settings.introspection)
        self._probationary = BoundedCache[str, _Outcome](PROBATIONARY_CAPACITY, weigh=_length)
        self._protected = BoundedCache[str, Operations](PROTECTED_CAPACITY, weigh=_length)
        self._plans = BoundedCache[tuple[object, tuple[Any, ...]], Plans](PLANS_CAPACITY, weigh=_field_count)
        limits = _WaitLimits(settings.database_wait, settings.database_queue, settings.longest_wait)
        self.slots = FairSlots(NEW_DOCUMENTS, limits, shared=True, resource=_NEW_DOCUMENT)

    def is_new(self, request: GraphQLRequest) -> bool:
        """Whether the request must hold one of `slots` while it is executed."""
        return len(request.query) > _MAX_SHORT and self._protected.peek(request.query) is None

    async def operation(self, request: GraphQLRequest) -> ParsedOperation:
        """The operation that the request executes. Counts as a use of the document. Raises RequestError."""
        text = self._persisted.text(request)
        operations = self._protected.get(text) or await self._parsed(text)
        operation = _named(operations, request.operation_name)
        operation.uses += 1
        if operation.uses == 2 and self._probationary.pop(text) is not None:
            self._protected.put(text, operations)
        return operation

    async def kind(self, request: GraphQLRequest) -> OperationType:
        """The type of the operation. Does not count as a use of the document. Raises RequestError."""
        text = self._persisted.text(request)
        return _named(self._protected.peek(text) or await self._parsed(text), request.operation_name).kind

    def stats(self) -> tuple[CacheStats, CacheStats]:
        """The lookups and sizes of the protected segment, and of the probationary one, which is looked up second."""
        return self._protected.stats(), self._probationary.stats()

    def metric_labels(self, request: GraphQLRequest) -> tuple[str, str]:
        """Type and name of the executed operation, for metrics and traces.

        Names are only returned for documents in the protected segment, so the number of label values is bounded; the
        name is "other" for all other operations. The type is "unknown" if the document is in neither segment.
        """
        try:
            text = self._persisted.text(request)
        except RequestError:
            return "unknown", "other"
        if (operations := self._protected.peek(text)) is None:
            outcome = self._probationary.peek(text)
            operation = outcome.get(request.operation_name) if isinstance(outcome, Mapping) else None
            return "unknown" if operation is None else operation.kind, "other"
        operation = operations.get(request.operation_name)
        if operation is None:
            return "unknown", "other"
        return operation.kind, operation.node.name.value if operation.node.name else "other"

    async def _parsed(self, text: str) -> Operations:
        """The operations of a document that is in the probationary segment, or else is parsed."""
        outcome = self._probationary.get(text)
        if outcome is None:
            parse_text = partial(self._outcome, text)
            outcome = parse_text() if len(text) <= _MAX_SHORT else await self._thread.run(parse_text)
            if len(text) <= MAX_CACHED_LENGTH:
                self._probationary.put(text, outcome)
        if isinstance(outcome, RequestError):
            raise outcome.with_traceback(None)
        return outcome

    def _outcome(self, text: str) -> _Outcome:
        try:
            return self._parse(text)
        except RequestError as error:
            return error

    def _parse(self, text: str) -> Operations:
        """The operations of a document by name. The only operation of a document also has the key None."""
        check_length(text, self._settings)
        try:
            document = parse(text, max_tokens=self._settings.max_tokens, allow_empty_selection_sets=False)
        except GraphQLError as error:
            raise RequestError([error]) from None
        sizes = check_size(document, self._settings)
        if errors := validate(
            self._schema, document, self._rules, max_errors=MAX_ERRORS, hide_suggestions=self.hide_suggestions
        ):
            if isinstance(errors[0], ValidationAbortedError):
                message = "The document repeats fields or fragments too often to be validated. Remove repetitions."
                raise RequestError([GraphQLError(message)], LIMIT_EXCEEDED)
            raise RequestError(errors, VALIDATION_FAILED)
        release_tokens(document)
        fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
        operations: dict[str | None, ParsedOperation] = {}
        nodes = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        for node, size in zip(nodes, sizes, strict=True):
            features = _OperationFeatures(fragments)
            features.visit(node.selection_set)
            if features.introspects:
                check_introspection(node, fragments)
            kind: Any = node.operation.value
            operation = ParsedOperation(
                document=document,
                is_short=len(text) <= _MAX_SHORT,
                node=node,
                kind=kind,
                fragments=fragments,
                introspects=features.introspects,
                conditions=tuple(sorted(features.conditions)),
                variables=VariableBinder(self._schema, node, hide_suggestions=self.hide_suggestions),
                fields=size.fields,
                plans=CacheSection(self._plans),
            )
            operations[node.name.value if node.name else None] = operation
            if len(nodes) == 1:
                operations[None] = operation
        return operations


def _named(operations: Operations, name: str | None) -> ParsedOperation:
    try:
        return operations[name]
    except KeyError:
        if name is None:
            message = "The document has several operations. Name one of them in `operationName`."
        else:
            message = f"The document has no operation named {name!r}."
        raise RequestError([GraphQLError(message)]) from None


def _length(text: str, _outcome: _Outcome) -> int:
    return max(1, len(text))


def _field_count(_key: Any, plans: Plans) -> int:
    return max(1, plans.fields)


class _OperationFeatures:
    """Collects whether an operation introspects, and the variables of its directives, also in fragments."""

    def __init__(self, fragments: Mapping[str, FragmentDefinitionNode]) -> None:
        self._fragments = fragments
        self._visited: set[str] = set()
        self.introspects = False
        self.conditions: set[str] = set()

    def visit(self, selection_set: SelectionSetNode) -> None:
        for node in selection_set.selections:
            for directive in node.directives or ():
                for argument in directive.arguments or ():
                    if isinstance(argument.value, VariableNode):
                        self.conditions.add(argument.value.name.value)
            if isinstance(node, FieldNode):
                self.introspects |= node.name.value in ROOTS
                if node.selection_set is not None:
                    self.visit(node.selection_set)
            elif isinstance(node, InlineFragmentNode):
                self.visit(node.selection_set)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in self._visited:
                self._visited.add(node.name.value)
                self.visit(self._fragments[node.name.value].selection_set)
