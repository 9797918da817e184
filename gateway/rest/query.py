"""The page and the row shape that a URL's query selects. Invalid values raise RestError."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.reads.conditions import Condition
from gateway.rest.classes import ResourceClass
from gateway.rest.errors import bad_request
from gateway.rest.parameters import Query

MAX_LIMIT = 1_000  # ManageIQ's max_results_per_page; as there, a larger limit is reduced to it without an error
_DIGITS = re.compile(r"[0-9]*")
_MAX_OFFSET = 2**62

ACTIONS, HREF, ID = "actions", "href", "id"


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a list to return. With a `limit` of 0 only the counts."""

    limit: int = MAX_LIMIT
    offset: int = 0


def parse_window(query: Query) -> Window:
    """The window of `limit` and `offset`. Raises RestError."""
    for name in ("limit", "offset"):
        if not _DIGITS.fullmatch(query.get(name)):
            raise bad_request(f"Non numeric parameter: {name}")
    if query.has("limit") and not query.get("limit"):  # it is 0 in ManageIQ, and refused there
        raise bad_request("Non numeric parameter: limit")
    limit = min(_number(query.get("limit")), MAX_LIMIT) if query.has("limit") else MAX_LIMIT
    if limit == 0 and query.get("offset"):
        raise bad_request("Limit must be greater than zero if offset is specified")
    return Window(limit, min(_number(query.get("offset")), _MAX_OFFSET))


def _number(digits: str) -> int:
    return int(digits or "0") if len(digits) < 1_000 else _MAX_OFFSET


def parse_hidden(query: Query) -> bool:
    """Whether the rows are hidden, which is all that `hide` can name. Raises RestError."""
    words = query.words("hide")
    if unknown := [word for word in words if word != "resources"]:
        raise bad_request(f"Only resources can be hidden, not '{','.join(unknown)}'.")
    return bool(words)


def check_collection_parameters(class_: ResourceClass, query: Query) -> Condition | None:
    """The condition of `collection_class`, which narrows the collection and its count. None if it is the whole one.

    Raises RestError for another class.
    """
    selected = query.get("collection_class")
    if not selected or selected in (class_.name, class_.base_class):
        return None
    if selected in class_.subclasses:
        return class_.subclasses[selected]
    raise bad_request(f"Invalid collection_class {selected} specified for the {class_.collection} collection")


@dataclass(frozen=True, slots=True)
class RowShape:
    """What a response shows of each row. Hashable, because plans are cached by it."""

    expanded: bool
    attributes: tuple[str, ...] = ()  # physical and virtual ones, in the order of the response
    associations: tuple[tuple[str, tuple[str, ...]], ...] = ()
    subcollections: tuple[str, ...] = ()
    actions: bool = True


LINKS_ONLY = RowShape(expanded=False)


def parse_shape(class_: ResourceClass, query: Query, *, expanded: bool) -> RowShape:
    """The shape of a row of a list or, if `expanded`, of a resource. Raises RestError."""
    given = query.words("attributes")
    if invalid := [name for name in dict.fromkeys(given) if not _is_known(class_, name)]:
        raise bad_request(f"Invalid attributes specified: {','.join(invalid)}")
    names = list(dict.fromkeys(_unknown_association(class_, name) or name for name in given))
    embedded = [name for name in query.words("expand") if name in class_.subcollections]
    if both := next((name for name in embedded if name in names), None):
        raise bad_request(f"Cannot expand subcollection {both} by name and virtual attribute")
    if not expanded and "resources" not in query.words("expand"):
        return LINKS_ONLY
    physical = [name for name in names if name in class_.attributes and not class_.attributes[name].virtual]
    shown = physical or [name for name, attribute in class_.attributes.items() if attribute.is_shown]
    shown += [name for name in names if name in class_.attributes and class_.attributes[name].virtual]
    return RowShape(
        expanded=True,
        attributes=tuple(dict.fromkeys((ID, *shown))),
        associations=tuple(_associations(class_, names)),
        subcollections=tuple(dict.fromkeys([*embedded, *(name for name in names if name in class_.subcollections)])),
        actions=not physical or ACTIONS in names,
    )


def _is_known(class_: ResourceClass, name: str) -> bool:
    if name in class_.attributes or name in class_.subcollections or name in (ACTIONS, HREF):
        return True
    if _unknown_association(class_, name):
        return True
    first, _, rest = name.partition(".")
    association = class_.associations.get(first)
    # Subcollections are shown with all attributes, so their attributes cannot be named.
    if association is None or first in class_.subcollections:
        return False
    return not rest or rest in association.attributes()


def _unknown_association(class_: ResourceClass, name: str) -> str:
    """The association in a name such as `hardware.memory_mb`, if only ManageIQ knows it. Else empty."""
    first, _, rest = name.partition(".")
    attribute = class_.attributes.get(first) if rest else None
    return first if attribute is not None and attribute.unknown and attribute.kind == "opaque" else ""


def _associations(class_: ResourceClass, names: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The named associations with their named attributes: all physical ones if only the association is named."""
    selected: dict[str, list[str]] = {}
    for name in names:
        first, _, rest = name.partition(".")
        if first not in class_.associations or first in class_.subcollections:
            continue
        physical_names = [
            own for own, attribute in class_.associations[first].attributes().items() if attribute.is_shown
        ]
        selected.setdefault(first, []).extend([rest] if rest else physical_names)
    for first, attributes in selected.items():
        yield first, tuple(dict.fromkeys(attributes))
