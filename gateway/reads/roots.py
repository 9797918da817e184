"""How a plan starts: from an id, a list of ids, a whole list, or what a resolver gives."""

from collections.abc import Awaitable
from typing import Any, Protocol

from gateway.errors import Forbidden, InvalidInput
from gateway.reads.connections import ManyLevel
from gateway.reads.context import Context
from gateway.reads.fetch_nodes import EveryLevel
from gateway.reads.ids import PREFIXES, Id, parse_id
from gateway.reads.payload_shapes import NodeLevels, PayloadShape
from gateway.reads.selection import Field, Variables

MOST_IDS = 1_000


class Root(Protocol):
    """Loads the value of a root field. `given` is what its resolver gives, when it does."""

    def __call__(self, context: Context, variables: Variables, given: Any = None, /) -> Awaitable[Any]: ...


def many_root(level: ManyLevel) -> Root:
    """Raises Forbidden for what is for administrators alone: for others there is no such list."""

    async def load(context: Context, _variables: Variables, _given: Any = None) -> Any:
        if level.entity.administered and not context.caller.administers:
            raise Forbidden("only administrators may read the record of who did what")
        return (await level.load(context, None))[None]

    return load


def every_root(level: EveryLevel) -> Root:
    async def load(context: Context, _variables: Variables, _given: Any = None) -> Any:
        return await level.load(context)

    return load


def lookup_root(levels: NodeLevels, field: Field, noun: str | None) -> Root:
    """By the argument `id`. Where the field has one type, an id of another finds nothing."""
    prefixes = {PREFIXES[type_name] for type_name in field.selection if type_name in PREFIXES}

    async def load(context: Context, variables: Variables, _given: Any = None) -> Any:
        text = field.arguments(variables)["id"]
        id_ = parse_id(text, ("id",))
        if noun is not None and text.partition("-")[0] not in prefixes:
            return None
        return (await levels.load(context, [id_])).get(id_)

    return load


def lookups_root(levels: NodeLevels, field: Field) -> Root:
    """By the argument `ids`, in that order."""

    async def load(context: Context, variables: Variables, _given: Any = None) -> Any:
        texts = field.arguments(variables)["ids"]
        if len(texts) > MOST_IDS:
            raise InvalidInput(f"ids: at most {MOST_IDS} can be asked for at once, not {len(texts)}", path=("ids",))
        ids = [_id_or_none(text) for text in texts]
        found = await levels.load(context, [id_ for id_ in ids if id_ is not None])
        return [None if id_ is None else found.get(id_) for id_ in ids]

    return load


def _id_or_none(text: str) -> Id | None:
    try:
        return parse_id(text)
    except InvalidInput:
        return None


def given_root(shape: PayloadShape, name: str | None) -> Root:
    async def load(context: Context, _variables: Variables, given: Any = None) -> Any:
        return (await shape.load(context, [given if name is None else given[name]]))[0]

    return load
