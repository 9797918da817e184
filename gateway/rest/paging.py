"""The envelope of a list: its counts, how many pages there are, and the links between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

from gateway.rest.query import Query, Window

_SAFE = "[]'*,:="  # what people write into filters and want to recognise


@dataclass(frozen=True, slots=True)
class Listing:
    """What was read of a list."""

    name: str
    count: int  # all rows below this parent that the caller may see
    matched: int | None  # those that match the filter, None without one
    resources: Sequence[Any] | None  # None when they are hidden
    actions: Sequence[Any]


def envelope(listing: Listing, window: Window, query: Query, url: str) -> dict[str, Any]:
    """`url` is the list's own, without a query."""
    total = listing.count if listing.matched is None else listing.matched
    body: dict[str, Any] = {"name": listing.name, "count": listing.count, "subcount": _subcount(listing, window, total)}
    if listing.matched is not None:
        body["subquery_count"] = listing.matched
    body["pages"] = -(-total // window.limit) if window.limit else 0
    if listing.resources is not None:
        body["resources"] = listing.resources
    body["actions"] = listing.actions
    body["links"] = _links(window, query, url, total)
    return body


def _subcount(listing: Listing, window: Window, total: int) -> int:
    if listing.resources is not None:
        return len(listing.resources)
    return max(0, min(window.limit, total - window.offset))


def _links(window: Window, query: Query, url: str, total: int) -> dict[str, str]:
    written = [(name, _written(name, value)) for name, value in query.pairs]
    kept = [text for name, text in written if name not in ("limit", "offset")]

    def at(offset: int) -> str:
        return f"{url}?{'&'.join((*kept, f'limit={window.limit}', f'offset={offset}'))}"

    links = {"self": f"{url}?{'&'.join(text for _, text in written)}" if written else url}
    if not window.limit:
        return links | {"first": links["self"], "last": links["self"]}
    if window.offset + window.limit < total:
        links["next"] = at(window.offset + window.limit)
    if window.offset > 0:
        links["previous"] = at(max(0, window.offset - window.limit))
    last = (total - 1) // window.limit * window.limit if total else 0
    return links | {"first": at(0), "last": at(last)}


def _written(name: str, value: str) -> str:
    return f"{quote_plus(name, '[]')}={quote_plus(value, _SAFE)}"
