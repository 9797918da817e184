"""The parameters of a URL: which ones each request has, and the spellings in which they are read.

A `Query` cannot be made without the parameters that its request declares here. Whatever else the URL contains is
refused, so a filter or limit that the gateway does not understand never returns more rows than the client asked for.
A name is case-sensitive. A parameter with several values may be repeated, and spelled `name[]` or `name[0]`, `name[1]`
and so on, as the serializers of web frameworks do.
"""

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from urllib.parse import parse_qsl

from gateway.rest.errors import RestError, bad_request

MAX_PARAMETERS = 1_000  # of a URL; the links of a list repeat them all

_SPELLING = re.compile(r"([^\[\]]+)(?:\[([0-9]{0,3})\])?")
_LONGEST_SHOWN = 100  # characters of a name that an error repeats


class Form(Enum):
    """What the values of a parameter are."""

    ONE = "a single value"
    WORDS = "the items of comma-separated lists"
    TEXTS = "texts, which may contain commas"


Parameters = Mapping[str, Form]

_NONE: Parameters = {}
_ENTRY: Parameters = {"attributes": Form.WORDS}
_AUTH: Parameters = {"requester_type": Form.ONE}
_RESOURCE: Parameters = {"attributes": Form.WORDS, "expand": Form.WORDS}
_LIST: Parameters = {
    **_RESOURCE,
    "filter": Form.TEXTS,
    "hide": Form.WORDS,
    "limit": Form.ONE,
    "offset": Form.ONE,
    "sort_by": Form.WORDS,
    "sort_options": Form.WORDS,
    "sort_order": Form.WORDS,
}
_COLLECTION: Parameters = {**_LIST, "collection_class": Form.ONE}

_UNSUPPORTED = {"by_tag": "The parameter by_tag is not supported, because the gateway stores no tags."}


def parameters_of(method: str, segments: Sequence[str]) -> Parameters:
    """The parameters of a request, by its path after `/api` and the version. A request not named here has none."""
    match (method, *segments):
        case ("GET",):
            return _ENTRY
        case ("GET" | "POST", "auth"):
            return _AUTH
        case ("GET", _):
            return _COLLECTION
        case ("POST", _) | ("GET", _, _) | ("GET", _, _, _, _):
            return _RESOURCE
        case ("GET", _, _, _):
            return _LIST
        case _:
            return _NONE


class Query:
    """A URL's query: `pairs` as they are in the URL, and the values of the declared parameters by name.

    Reading a parameter that is not declared raises KeyError.
    """

    def __init__(self, query_string: bytes, declared: Parameters) -> None:
        """Raises RestError for a malformed query, and for a parameter or a spelling that is not declared."""
        self.pairs = _pairs(query_string)
        self._values: dict[str, list[str]] = {name: [] for name in declared}
        for spelled, value in self.pairs:
            name, index = _split(spelled, declared)
            values = self._values[name]
            if values and declared[name] is Form.ONE:
                raise bad_request(f"The parameter {name} is given more than once.")
            if index and int(index) != len(values):
                raise bad_request(f"The values of {name}[…] must be numbered from 0, in this order.")
            values.append(value)

    def has(self, name: str) -> bool:
        """Whether there is a value of this name."""
        return bool(self._values[name])

    def get(self, name: str) -> str:
        """The value of this name, or the values joined by commas. Empty if there is none, and if it is empty."""
        return ",".join(self._values[name])

    def words(self, name: str) -> list[str]:
        """The items of comma-separated lists, trimmed, without empty ones."""
        return [word for word in (part.strip() for part in self.get(name).split(",")) if word]

    def texts(self, name: str) -> list[str]:
        """The values of this name, without blank ones, which ManageIQ leaves out."""
        return [value for value in self._values[name] if value.strip()]


def _pairs(query_string: bytes) -> list[tuple[str, str]]:
    try:
        text = query_string.decode("ascii")
        if text.count("&") >= MAX_PARAMETERS:
            raise bad_request(f"The URL has more than {MAX_PARAMETERS} parameters.")
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise bad_request("The query of the URL must be percent-encoded UTF-8.") from None


def _split(spelled: str, declared: Parameters) -> tuple[str, str | None]:
    """The name and, for `name[0]`, the index. Raises RestError if it is no spelling of a declared parameter."""
    found = _SPELLING.fullmatch(spelled)
    if found is None or found[1] not in declared or (found[2] is not None and declared[found[1]] is Form.ONE):
        raise _unknown(spelled, declared)
    return found[1], found[2]


def _unknown(spelled: str, declared: Parameters) -> RestError:
    if reason := _UNSUPPORTED.get(spelled.partition("[")[0]):
        return bad_request(reason)
    shown = spelled if len(spelled) <= _LONGEST_SHOWN else f"{spelled[:_LONGEST_SHOWN]}…"
    names = ", ".join(f"{name}[]" if form is Form.TEXTS else name for name, form in sorted(declared.items()))
    others = f"The parameters of this request are: {names}." if names else "This request has no parameters."
    return bad_request(f"Unknown parameter '{shown}'. {others}")
