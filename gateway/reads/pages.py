"""The page arguments of a connection: `first`/`after`, `last`/`before` and `offset`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import InvalidInput
from gateway.reads.conditions import Condition
from gateway.reads.sorts import SortOrder

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list: at most `size` rows from its start or its end, between two cursors, both exclusive."""

    size: int = DEFAULT_PAGE_SIZE
    from_end: bool = False
    after: str | None = None
    before: str | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class BoundPage:
    """The checked arguments of a connection in one request. `after` and `before` are the cursors' sort values.

    `reusable`: later requests may have the same condition object, so statements for it are worth caching. A cached
    statement keeps its condition and its parameters in memory.
    """

    page: Page
    order: SortOrder
    condition: Condition | None
    after: Sequence[Any] | None
    before: Sequence[Any] | None
    reusable: bool = True


def parse_page(arguments: Mapping[str, Any]) -> Page:
    """Raises InvalidInput for a size or offset out of range, and for arguments that exclude each other."""
    given = {name: arguments[name] for name in _NAMES if arguments.get(name) is not None}
    if "first" in given and "last" in given:
        raise InvalidInput("`first` and `last` cannot be combined. Pass one of them.", path=("last",))
    for name in ("first", "last"):
        if name in given and not 0 <= given[name] <= MAX_PAGE_SIZE:
            raise InvalidInput(f"`{name}` must be between 0 and {MAX_PAGE_SIZE}, not {given[name]}.", path=(name,))
    if "offset" in given:
        if given["offset"] < 0:
            raise InvalidInput(f"`offset` must not be negative, but is {given['offset']}.", path=("offset",))
        if other := next((name for name in ("last", "after", "before") if name in given), None):
            raise InvalidInput(f"`offset` can only be combined with `first`, not with `{other}`.", path=("offset",))
    return Page(
        size=given.get("first", given.get("last", DEFAULT_PAGE_SIZE)),
        from_end="last" in given,
        after=given.get("after"),
        before=given.get("before"),
        offset=given.get("offset", 0),
    )


_NAMES = ("first", "last", "after", "before", "offset")
