"""The parameters of a request's URL, and the shape of the answer that they ask for. Raises RestError for wrong ones."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from gateway.rest.classes import Class
from gateway.rest.errors import bad_request

LARGEST_PAGE = 1_000  # ManageIQ's max_results_per_page; more is silently cut to this, there as here
_DIGITS = re.compile(r"[0-9]*")
_LARGEST_OFFSET = 2**62

ACTIONS, HREF, ID = "actions", "href", "id"


class Query:
    """A URL's query, as it came and by name."""

    def __init__(self, query_string: bytes) -> None:
        try:
            self.pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict")
        except ValueError:
            raise bad_request("The query of the URL must be percent-encoded UTF-8") from None
        self._values = dict(self.pairs)

    def get(self, name: str) -> str:
        """The last one by this name, empty without one."""
        return self._values.get(name, "")

    def has(self, name: str) -> bool:
        return name in self._values

    def words(self, name: str) -> list[str]:
        """A comma-separated list."""
        return [word for word in (part.strip() for part in self.get(name).split(",")) if word]

    def filters(self) -> list[str]:
        return [value for name, value in self.pairs if name in ("filter[]", "filter")]


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows of a list are wanted. A `limit` of 0 wants only the counts."""

    limit: int = LARGEST_PAGE
    offset: int = 0


def parse_window(query: Query) -> Window:
    for name in ("limit", "offset"):
        if not _DIGITS.fullmatch(query.get(name)):
            raise bad_request(f"Non numeric parameter: {name}")
    limit = min(_number(query.get("limit")), LARGEST_PAGE) if query.has("limit") else LARGEST_PAGE
    if limit == 0 and query.get("offset"):
        raise bad_request("Limit must be greater than zero if offset is specified")
    return Window(limit, min(_number(query.get("offset")), _LARGEST_OFFSET))


def _number(digits: str) -> int:
    return int(digits or "0") if len(digits) < 1_000 else _LARGEST_OFFSET


def check_scope(class_: Class, query: Query) -> None:
    """Of a top-level list: what would narrow it, if the gateway knew of it. Raises RestError."""
    wanted = query.get("collection_class")
    if wanted and wanted != class_.name:
        raise bad_request(f"Invalid collection_class {wanted} specified for the {class_.collection} collection")
    if query.words("by_tag"):
        raise bad_request("Unsupported parameter: by_tag (the gateway keeps no tags)")


@dataclass(frozen=True, slots=True)
class Shape:
    """What of each row is wanted. Hashable, so that its plan can be kept."""

    expanded: bool
    attributes: tuple[str, ...] = ()  # physical and virtual ones, in the order of the answer
    associations: tuple[tuple[str, tuple[str, ...]], ...] = ()
    subcollections: tuple[str, ...] = ()
    actions: bool = True


LINKS_ONLY = Shape(expanded=False)


def parse_shape(class_: Class, query: Query, *, expanded: bool) -> Shape:
    """The shape of a row of a list, or, `expanded`, of a resource."""
    names = list(dict.fromkeys(query.words("attributes")))
    if invalid := [name for name in names if not _is_known(class_, name)]:
        raise bad_request(f"Invalid attributes specified: {','.join(invalid)}")
    embedded = [name for name in query.words("expand") if name in class_.subcollections]
    if both := next((name for name in embedded if name in names), None):
        raise bad_request(f"Cannot expand subcollection {both} by name and virtual attribute")
    if not expanded and "resources" not in query.words("expand"):
        return LINKS_ONLY
    physical = [name for name in names if name in class_.attributes and not class_.attributes[name].virtual]
    shown = physical or [name for name, attribute in class_.attributes.items() if not attribute.virtual]
    shown += [name for name in names if name in class_.attributes and class_.attributes[name].virtual]
    return Shape(
        expanded=True,
        attributes=tuple(dict.fromkeys((ID, *shown))),
        associations=tuple(_associations(class_, names)),
        subcollections=tuple(dict.fromkeys([*embedded, *(name for name in names if name in class_.subcollections)])),
        actions=not physical or ACTIONS in names,
    )


def _is_known(class_: Class, name: str) -> bool:
    if name in class_.attributes or name in class_.subcollections or name in (ACTIONS, HREF):
        return True
    first, _, rest = name.partition(".")
    association = class_.associations.get(first)
    # Of many associated rows, only whole ones are shown.
    if association is None or first in class_.subcollections:
        return False
    return not rest or rest in association.attributes()


def _associations(class_: Class, names: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each association that is named, with the attributes that are wanted of it: all of them if only it is named."""
    wanted: dict[str, list[str]] = {}
    for name in names:
        first, _, rest = name.partition(".")
        if first not in class_.associations or first in class_.subcollections:
            continue
        every = [own for own, attribute in class_.associations[first].attributes().items() if not attribute.virtual]
        wanted.setdefault(first, []).extend([rest] if rest else every)
    for first, attributes in wanted.items():
        yield first, tuple(dict.fromkeys(attributes))
