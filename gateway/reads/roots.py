"""The loaders of root fields: by id, by a list of ids, a list of rows or groups, computed, or a resolver's payload."""

from collections.abc import Awaitable
from inspect import iscoroutinefunction
from typing import Any, Protocol

from gateway.errors import InvalidInput
from gateway.reads.connections import PageNode
from gateway.reads.context import Context
from gateway.reads.ids import PREFIXES, Id, parse_id
from gateway.reads.payload_shapes import MultiEntityNode, PayloadShape
from gateway.reads.selection import Field, Variables
from gateway.reads.sources import ComputedRoot

MAX_IDS = 1_000


class RootLoader(Protocol):
    """Loads the value of a root field or, with a list of `payloads` that resolvers returned, a list of values."""

    def __call__(self, context: Context, variables: Variables, payloads: Any = None, /) -> Awaitable[Any]: ...


def page_root(node: PageNode) -> RootLoader:
    """A connection or list of all rows."""

    async def load(context: Context, _variables: Variables, _payloads: Any = None) -> Any:
        return (await node.load(context, None))[None]

    return load


def row_by_id_root(node: MultiEntityNode, field: Field, noun: str | None) -> RootLoader:
    """The row that the argument `id` names. A field of one type finds nothing by the id of another type."""
    prefixes = {PREFIXES[type_name] for type_name in field.selection if type_name in PREFIXES}

    async def load(context: Context, variables: Variables, _payloads: Any = None) -> Any:
        text = field.arguments(variables)["id"]
        id_ = parse_id(text, ("id",))
        if noun is not None and text.partition("-")[0] not in prefixes:
            return None
        return (await node.load(context, [id_])).get(id_)

    return load


def rows_by_ids_root(node: MultiEntityNode, field: Field) -> RootLoader:
    """The rows that the argument `ids` names, in that order, with None for ids that find nothing."""

    async def load(context: Context, variables: Variables, _payloads: Any = None) -> Any:
        texts = field.arguments(variables)["ids"]
        if len(texts) > MAX_IDS:
            raise InvalidInput(f"`ids` may have at most {MAX_IDS} items, not {len(texts)}.", path=("ids",))
        await context.transaction.pause()  # there may be many such fields, which send no statement if no id is valid
        ids = [_id_or_none(text) for text in texts]
        found = await node.load(context, [id_ for id_ in ids if id_ is not None])
        return [None if id_ is None else found.get(id_) for id_ in ids]

    return load


def _id_or_none(text: str) -> Id | None:
    try:
        return parse_id(text)
    except InvalidInput:
        return None


def computed_root(source: ComputedRoot, field: Field, shape: PayloadShape | None) -> RootLoader:
    """What the source computes. `shape` is that of its payload; None for a leaf."""
    waits = iscoroutinefunction(source.compute)

    async def load(context: Context, _variables: Variables, _payloads: Any = None) -> Any:
        value = source.compute(context) if source.bind is None else source.compute(context, context.bound[field])
        if waits:
            value = await value
        if shape is None or value is None:
            return value
        if isinstance(value, list):
            return await shape.load(context, value)
        return (await shape.load(context, [value]))[0]

    return load


def payload_root(shape: PayloadShape) -> RootLoader:
    """The payloads that resolvers returned, as a list."""

    async def load(context: Context, _variables: Variables, payloads: Any = None) -> Any:
        return await shape.load(context, payloads)

    return load
