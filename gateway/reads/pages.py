"""Pages: the arguments `first`/`after`, `last`/`before` and `offset`, checked, and a page ready to be fetched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import InvalidInput
from gateway.reads.conditions import Condition
from gateway.reads.sorts import Order

DEFAULT_SIZE = 50
LARGEST = 1_000


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list: `size` rows from its front, or from its back, between two places, each exclusive."""

    size: int = DEFAULT_SIZE
    from_end: bool = False
    after: str | None = None
    before: str | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class BoundPage:
    """The arguments of a connection in one request."""

    page: Page
    order: Order
    condition: Condition | None
    after: Sequence[Any] | None
    before: Sequence[Any] | None


def parse_page(arguments: Mapping[str, Any]) -> Page:
    """Raises InvalidInput for sizes out of range and for arguments that do not go together."""
    given = {name: arguments[name] for name in _NAMES if arguments.get(name) is not None}
    if "first" in given and "last" in given:
        raise InvalidInput("first and last do not go together: ask for one end of the list", path=("last",))
    for name in ("first", "last"):
        if name in given and not 0 <= given[name] <= LARGEST:
            raise InvalidInput(f"{name} must be between 0 and {LARGEST}, not {given[name]}", path=(name,))
    if "offset" in given:
        if given["offset"] < 0:
            raise InvalidInput(f"offset must not be negative, but is {given['offset']}", path=("offset",))
        if other := next((name for name in ("last", "after", "before") if name in given), None):
            raise InvalidInput(f"offset goes with first only, not with {other}", path=("offset",))
    return Page(
        size=given.get("first", given.get("last", DEFAULT_SIZE)),
        from_end="last" in given,
        after=given.get("after"),
        before=given.get("before"),
        offset=given.get("offset", 0),
    )


_NAMES = ("first", "last", "after", "before", "offset")
