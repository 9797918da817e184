"""Random ManageIQ filters, each with the equivalent GraphQL filter."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from hypothesis import strategies as st

from gateway.models import PowerState, SnapshotState
from tests.reads.world import CALLERS, DESCRIPTIONS, NAMES, SIZES, START


class Pair(NamedTuple):
    """A filter of the REST API and the equivalent GraphQL filter."""

    rest: str
    graphql: dict[str, Any]


Pairs = st.SearchStrategy[Pair]
Request = tuple[list[str], dict[str, Any]]  # the filters of a request, and the equivalent GraphQL filter

_words = st.one_of(
    st.sampled_from([text for text in [*NAMES, *DESCRIPTIONS, *CALLERS] if text is not None]),
    st.text(st.sampled_from("teTE-1a*%_[]?\\ßsSäÄ日😀 '\""), max_size=5),
)
_quotes = st.sampled_from("'\"")


def _like(text: str) -> dict[str, str]:
    """The GraphQL operator for `=` and a text, with or without wildcards."""
    if not re.search(r"[*%]", text):
        return {"eq": text}
    return {"like": "*".join(part.replace("\\", "\\\\") for part in re.split(r"[*%]", text))}


def _quoted(attribute: str, member: str) -> Pairs:
    def pair(operator: str, text: str, quote: str) -> Pair:
        positive = {"==": {"eq": text}, "!==": {"eq": text}}.get(operator, _like(text))
        wanted: dict[str, Any] = {member: positive}
        return Pair(f"{attribute}{operator}{quote}{text}{quote}", {"not": wanted} if "!" in operator else wanted)

    return st.builds(pair, st.sampled_from(["=", "!=", "==", "!=="]), _words, _quotes)


_plain = _words.map(lambda text: text.strip(" ")).filter(
    lambda text: not re.fullmatch(r"'.*'|\".*\"|\[.*\]|null|nil|[=~].*", text, re.DOTALL | re.IGNORECASE)
)


def _unquoted(attribute: str, member: str) -> Pairs:
    def pair(operator: str, text: str) -> Pair:
        wanted: dict[str, Any] = {member: _like(text)}
        return Pair(f"{attribute} {operator} {text}", {"not": wanted} if operator == "!=" else wanted)

    return st.builds(pair, st.sampled_from(["=", "!="]), _plain)


def _array(attribute: str, member: str) -> Pairs:
    items = st.lists(_words.filter(lambda text: not re.search(r"[*%,]", text) and text != ""), max_size=3)
    return items.map(lambda texts: Pair(f"{attribute}=[{','.join(texts)}]", {member: {"in": texts}}))


def _regex(attribute: str, member: str) -> Pairs:
    """Patterns of letters whose case folding is one letter each."""

    def pair(negated: bool, anchored: bool, ignore_case: bool, text: str) -> Pair:
        pattern = ("/\\A" if anchored else "/") + re.escape(text) + ("/i" if ignore_case else "/")
        operator = "startsWith" if anchored else "contains"
        wanted: dict[str, Any] = {member: {operator: text, "ignoreCase": ignore_case}}
        return Pair(f"{attribute}{'!~' if negated else '=~'}{pattern}", {"not": wanted} if negated else wanted)

    letters = st.text(st.sampled_from("teTE1*a.日"), min_size=1, max_size=2)
    return st.builds(pair, st.booleans(), st.booleans(), st.booleans(), letters)


def _null(attribute: str, member: str) -> Pairs:
    words = st.sampled_from(["NULL", "nil", "Null"])
    signs = st.sampled_from([("=", True), ("==", True), ("!=", False), ("!==", False)])
    return st.builds(
        lambda sign, word: Pair(f"{attribute}{sign[0]}{word}", {member: {"isNull": sign[1]}}), signs, words
    )


def texts(attribute: str, member: str) -> Pairs:
    kinds = (_quoted, _unquoted, _array, _regex, _null)
    return st.one_of(*(kind(attribute, member) for kind in kinds))


_RELATIONS = {"=": "eq", "==": "eq", "!=": "ne", "!==": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def numbers(attribute: str, member: str, values: list[int], *, big: bool = False) -> Pairs:
    def pair(operator: str, number: int) -> Pair:
        return Pair(f"{attribute}{operator}{number}", {member: {_RELATIONS[operator]: str(number) if big else number}})

    return st.builds(pair, st.sampled_from(sorted(_RELATIONS)), st.sampled_from(values))


def times(attribute: str, member: str) -> Pairs:
    """A time means its whole second. In quotes it means the exact time."""

    def pair(operator: str, minutes: int, quote: str) -> Pair:
        moment = START + timedelta(minutes=minutes)
        text = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
        if quote:
            return Pair(f"{attribute}{operator}{quote}{text}{quote}", {member: {_RELATIONS[operator]: text}})
        end = (moment + timedelta(seconds=1)).isoformat()
        wanted = {"=": {"gte": text, "lt": end}, "<": {"lt": text}, ">": {"gte": end}}
        return Pair(f"{attribute}{operator}{text}", {member: wanted[operator]})

    minutes = st.integers(-1, 21)
    return st.one_of(
        st.builds(pair, st.sampled_from("=<>"), minutes, st.just("")),
        st.builds(pair, st.sampled_from(sorted(_RELATIONS)), minutes, _quotes),
    )


def choices(attribute: str, member: str, values: dict[str, Any]) -> Pairs:
    """Values that REST and GraphQL write differently."""

    def pair(operator: str, word: str) -> Pair:
        wanted: dict[str, Any] = {member: {"eq": values[word]}}
        return Pair(f"{attribute}{operator}{word}", {"not": wanted} if "!" in operator else wanted)

    return st.builds(pair, st.sampled_from(["=", "!=", "==", "!=="]), st.sampled_from(sorted(values)))


def across(association: str, member: str, inner: Pairs) -> Pairs:
    return inner.map(lambda pair: Pair(f"{association}.{pair.rest.lstrip()}", {member: pair.graphql}))


_FLAGS = {"true": True, "false": False, "1": True, "f": False}


def machine_pairs(snapshot: Pairs) -> Pairs:
    return st.one_of(
        texts("name", "name"),
        texts("description", "description"),
        texts("host.name", "host"),
        times("created_on", "createdAt"),
        choices("power_state", "powerState", {str(state).lower(): str(state) for state in PowerState}),
        numbers("v_total_snapshots", "snapshotCount", [0, 10, 20, 25]),
        across("snapshots", "someSnapshot", snapshot),
    )


def snapshot_pairs(snapshot_ids: Sequence[int]) -> Pairs:
    return st.one_of(
        texts("name", "name"),
        texts("description", "description"),
        texts("created_by", "createdBy"),
        texts("ems_ref", "providerRef"),
        times("create_time", "createdAt"),
        choices("state", "state", {str(state).lower(): str(state) for state in SnapshotState}),
        choices("memory", "memory", _FLAGS),
        choices("current", "isCurrent", {"1": True, "0": False}),
        numbers("total_size", "sizeBytes", [size for size in SIZES if size is not None], big=True),
        _null("total_size", "sizeBytes"),
        choices("parent_id", "parentId", {str(id): f"snapshot-{id}" for id in snapshot_ids}),
        _null("parent_id", "parentId"),
    )


@st.composite
def requests(draw: st.DrawFn, pairs: Pairs) -> Request:
    """Several filters in any order, and the equivalent GraphQL filter."""
    found = draw(st.lists(st.tuples(st.sampled_from(["", "", "or ", "OR "]), pairs), min_size=1, max_size=4))
    together = [pair.graphql for prefix, pair in found if not prefix]
    alternatives = [pair.graphql for prefix, pair in found if prefix]
    group = [{"and": together}] if together else []
    return [f"{prefix}{pair.rest}" for prefix, pair in found], {"or": [*group, *alternatives]}
