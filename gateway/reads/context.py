"""The context of one request, and statement templates, which are cached and shared by requests."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.access.caller import Caller
from gateway.access.capabilities import CapabilityRules
from gateway.bounded_cache import BoundedCache
from gateway.reads.conditions import Frame
from gateway.reads.dialects import Dialect
from gateway.store.database import Transaction


class BindVariable:
    """A parameter of a statement template whose value each request supplies. Compared by identity."""

    def __init__(self, name: str) -> None:
        self.name = name


# The checked arguments of a request: a BoundPage for each PageNode, and for other Fields what their `bind` returned.
Bound = Mapping[Any, Any]

# The statements of all fetch nodes of the process: one for each shape of a node's arguments.
TEMPLATES = BoundedCache[tuple[object, Hashable], Any](8_000)

TENANT, PARENT, KEY = BindVariable("tenant"), BindVariable("parent"), BindVariable("key")
AFTER = tuple(BindVariable(f"after {number}") for number in range(16))  # the sort values of the cursor `after`
BEFORE = tuple(BindVariable(f"before {number}") for number in range(16))  # the sort values of the cursor `before`


class StatementTemplate(NamedTuple):
    """A statement's text and its parameters. Requests that share it differ only in their bind variables."""

    sql: str
    parameters: Sequence[Any]

    def bind(self, bindings: Mapping[BindVariable, Any]) -> list[Any]:
        """The parameters with each bind variable replaced by its value."""
        return [bindings[value] if type(value) is BindVariable else value for value in self.parameters]


@dataclass(slots=True)
class Context:
    """One request: its transaction, its caller, and its checked arguments."""

    transaction: Transaction
    dialect: Dialect
    caller: Caller
    rules: CapabilityRules
    bound: Bound = field(default_factory=dict)
    computed_cache: dict[Hashable, Any] = field(default_factory=dict)  # values of computed fields that rows share
    # Called with the number of rows that a relation is going to load, if that is known. May raise GatewayError.
    on_related_rows: Callable[[int], None] | None = None

    def frame(self) -> Frame:
        """A frame for a new statement."""
        return Frame(self.dialect, self.dialect.parameters(), self.caller.readable_kinds)

    async def fetch(
        self, template: StatementTemplate, bindings: Mapping[BindVariable, Any] | None = None
    ) -> Sequence[Any]:
        """Runs a statement for this request's caller and returns its rows as tuples."""
        bound = template.bind({TENANT: self.caller.tenant, **(bindings or {})})
        return await self.transaction.rows(template.sql, bound)
