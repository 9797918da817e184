"""Random filters and sorts that are valid by the schema."""

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from gateway.models import MachineKind, PowerState, SnapshotState
from tests.reads.world import CALLERS, DESCRIPTIONS, NAMES, SIZES, START

Strategy = st.SearchStrategy[dict[str, Any]]

_ALPHABET = st.sampled_from("teTE-1ab*%_[]?\\ßsSSäÄ日😀 ")
_texts = st.one_of(
    st.sampled_from([text for text in [*NAMES, *DESCRIPTIONS, *CALLERS] if text is not None]),
    st.text(_ALPHABET, max_size=4),
)
_patterns = st.lists(
    st.sampled_from(["*", "\\*", "\\\\", "t", "T", "e", "-", "a", "%", "_", "ß", "s"]), max_size=5
).map("".join)


def _operators(required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> Strategy:
    """A filter with one to three of the required operators."""
    names = sorted(required)
    return st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({name: required[name] for name in chosen}, optional=optional)
    )


_bool = st.booleans()
strings = _operators(
    {
        **dict.fromkeys(("eq", "ne", "contains", "startsWith", "endsWith"), _texts),
        **{name: st.lists(_texts, max_size=3) for name in ("in", "notIn")},
        "like": _patterns,
        "isNull": _bool,
    },
    ignoreCase=_bool,
)
_moments = st.integers(0, 20).map(lambda minutes: (START + timedelta(minutes=minutes)).isoformat())
_sizes = st.sampled_from([str(size) for size in SIZES if size is not None])
moments = _operators({**dict.fromkeys(("eq", "ne", "gt", "gte", "lt", "lte"), _moments), "isNull": _bool})
big_ints = _operators({**dict.fromkeys(("eq", "ne", "gt", "gte", "lt", "lte"), _sizes), "isNull": _bool})
ints = _operators({name: st.integers(0, 40) for name in ("eq", "ne", "gt", "gte", "lt", "lte")})
booleans = _operators({"eq": _bool})


def _choices(enum: Any) -> Strategy:
    members = st.sampled_from([member.value for member in enum])
    lists = st.lists(members, max_size=3)
    return _operators({"eq": members, "ne": members, "in": lists, "notIn": lists})


def identifiers(known: list[str]) -> Strategy:
    members = st.sampled_from([*known, "vm-999999", "instance-1", "snapshot-999999", "operation-3"])
    lists = st.lists(members, max_size=4)
    return _operators({"eq": members, "ne": members, "in": lists, "notIn": lists, "isNull": _bool})


def _composed(members: dict[str, Strategy]) -> Strategy:
    leaves = st.fixed_dictionaries({}, optional=members)
    return st.recursive(
        leaves,
        lambda inner: st.fixed_dictionaries(
            {}, optional={"and": st.lists(inner, max_size=2), "or": st.lists(inner, max_size=2), "not": inner}
        ),
        max_leaves=4,
    )


def filters(snapshots: list[str], machines: list[str]) -> tuple[Strategy, Strategy]:
    """Filters of snapshots and of machines, nested in each other."""
    plain_machine: dict[str, Strategy] = {
        "id": identifiers(machines),
        "kind": _choices(MachineKind),
        "name": strings,
        "description": strings,
        "host": strings,
        "powerState": _choices(PowerState),
        "createdAt": moments,
        "goneAt": moments,
        "snapshotCount": ints,
    }
    plain_snapshot: dict[str, Strategy] = {
        "id": identifiers(snapshots[:10]),
        "name": strings,
        "description": strings,
        "state": _choices(SnapshotState),
        "memory": booleans,
        "isCurrent": booleans,
        "sizeBytes": big_ints,
        "createdAt": moments,
        "parentId": identifiers(snapshots[:10]),
        "machineId": identifiers(machines),
        "createdBy": strings,
        "providerRef": strings,
    }
    machine = _composed({**plain_machine, "someSnapshot": _composed(plain_snapshot)})
    snapshot = _composed({**plain_snapshot, "machine": machine})
    return snapshot, machine


def sorts(fields: list[str], texts: set[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Lists of sort keys without repetition, with `ignoreCase` on text only."""

    def key(field: str) -> Strategy:
        optional: dict[str, st.SearchStrategy[Any]] = {
            "direction": st.sampled_from(["ASC", "DESC"]),
            "nulls": st.sampled_from(["FIRST", "LAST"]),
        }
        if field in texts:
            optional["ignoreCase"] = _bool
        return st.fixed_dictionaries({"field": st.just(field)}, optional=optional)

    return st.lists(st.sampled_from(fields), min_size=1, max_size=3, unique=True).flatmap(
        lambda chosen: st.tuples(*(key(field) for field in chosen)).map(list)
    )
