"""The loaders of root fields: by id, by a list of ids, a page or all rows of an entity, or a resolver's payload."""

from collections.abc import Awaitable
from typing import Any, Protocol

from gateway.errors import Forbidden, InvalidInput
from gateway.reads.connections import PageNode
from gateway.reads.context import Context
from gateway.reads.fetch_nodes import AllRowsNode
from gateway.reads.ids import PREFIXES, Id, parse_id
from gateway.reads.payload_shapes import MultiEntityNode, PayloadShape
from gateway.reads.selection import Field, Variables

MAX_IDS = 1_000


class RootLoader(Protocol):
    """Loads the value of a root field. `payload` is what the field's resolver returned, if it has one."""

    def __call__(self, context: Context, variables: Variables, payload: Any = None, /) -> Awaitable[Any]: ...


def page_root(node: PageNode) -> RootLoader:
    """A connection of all rows. The loader raises Forbidden if only administrators may read the entity."""

    async def load(context: Context, _variables: Variables, _payload: Any = None) -> Any:
        if node.entity.admin_only and not context.caller.administers:
            raise Forbidden("Only administrators may read the audit log.")
        return (await node.load(context, None))[None]

    return load


def all_rows_root(node: AllRowsNode) -> RootLoader:
    """A list of all rows."""

    async def load(context: Context, _variables: Variables, _payload: Any = None) -> Any:
        return await node.load(context)

    return load


def row_by_id_root(node: MultiEntityNode, field: Field, noun: str | None) -> RootLoader:
    """The row that the argument `id` names. A field of one type finds nothing by the id of another type."""
    prefixes = {PREFIXES[type_name] for type_name in field.selection if type_name in PREFIXES}

    async def load(context: Context, variables: Variables, _payload: Any = None) -> Any:
        text = field.arguments(variables)["id"]
        id_ = parse_id(text, ("id",))
        if noun is not None and text.partition("-")[0] not in prefixes:
            return None
        return (await node.load(context, [id_])).get(id_)

    return load


def rows_by_ids_root(node: MultiEntityNode, field: Field) -> RootLoader:
    """The rows that the argument `ids` names, in that order, with None for ids that find nothing."""

    async def load(context: Context, variables: Variables, _payload: Any = None) -> Any:
        texts = field.arguments(variables)["ids"]
        if len(texts) > MAX_IDS:
            raise InvalidInput(f"`ids` may have at most {MAX_IDS} items, not {len(texts)}.", path=("ids",))
        ids = [_id_or_none(text) for text in texts]
        found = await node.load(context, [id_ for id_ in ids if id_ is not None])
        return [None if id_ is None else found.get(id_) for id_ in ids]

    return load


def _id_or_none(text: str) -> Id | None:
    try:
        return parse_id(text)
    except InvalidInput:
        return None


def payload_root(shape: PayloadShape, name: str | None) -> RootLoader:
    """The value `name` of the resolver's payload or, without a name, the payload itself."""

    async def load(context: Context, _variables: Variables, payload: Any = None) -> Any:
        return (await shape.load(context, [payload if name is None else payload[name]]))[0]

    return load
