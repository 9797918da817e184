"""The envelope of a list: its counts, the number of pages, and the links between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

from gateway.rest.parameters import Query
from gateway.rest.query import Window

_SAFE = "[]'*,:="  # characters of filters, left unencoded so that links stay readable


@dataclass(frozen=True, slots=True)
class Listing:
    """The content of a list."""

    name: str
    count: int  # all rows below this parent that the caller may see
    matched: int | None  # the rows that match the filter; None without a filter
    resources: Sequence[Any] | None  # None when they are hidden
    actions: Sequence[Any]


def envelope(listing: Listing, window: Window, query: Query, url: str) -> dict[str, Any]:
    """The body of the response. `url` is that of the list, without a query."""
    total = listing.count if listing.matched is None else listing.matched
    body: dict[str, Any] = {"name": listing.name, "count": listing.count, "subcount": _subcount(listing, window, total)}
    if listing.matched is not None:
        body["subquery_count"] = listing.matched
    body["pages"] = -(-total // window.limit) if window.limit else 0
    if listing.resources is not None:
        body["resources"] = listing.resources
    if listing.actions:
        body["actions"] = listing.actions
    body["links"] = _links(window, query, url, total)
    return body


def _subcount(listing: Listing, window: Window, total: int) -> int:
    if listing.resources is not None:
        return len(listing.resources)
    return max(0, min(window.limit, total - window.offset))


def _links(window: Window, query: Query, url: str, total: int) -> dict[str, str]:
    encoded = [(name, _encoded(name, value)) for name, value in query.pairs]
    kept = [text for name, text in encoded if name not in ("limit", "offset")]

    def page_link(offset: int) -> str:
        return f"{url}?{'&'.join((*kept, f'limit={window.limit}', f'offset={offset}'))}"

    links = {"self": f"{url}?{'&'.join(text for _, text in encoded)}" if encoded else url}
    if not window.limit:
        return links | {"first": links["self"], "last": links["self"]}
    if window.offset + window.limit < total:
        links["next"] = page_link(window.offset + window.limit)
    last = (total - 1) // window.limit * window.limit if total else 0
    if window.offset > 0 and total:  # beyond the end, the previous page is the last one
        links["previous"] = page_link(max(0, min(window.offset - window.limit, last)))
    return links | {"first": page_link(0), "last": page_link(last)}


def _encoded(name: str, value: str) -> str:
    return f"{quote_plus(name, '[]')}={quote_plus(value, _SAFE)}"
