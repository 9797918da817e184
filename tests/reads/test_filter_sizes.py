"""Filters of every size: up to the documented limits they work on both databases, and beyond them they are refused.

SQLite limits the depth of an expression and of its parser. What it cannot process is refused as a limit, never as a
bug.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config import Settings
from gateway.reads.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_RELATED
from gateway.rest.filters import MAX_VALUES
from tests.databases import SLOW_KINDS, Databases
from tests.examples import EXAMPLES
from tests.reads.world import World, populate
from tests.rest.world import Rest, rest_served

Filter = dict[str, Any]

SNAPSHOTS = "query ($filter: SnapshotFilter) { snapshots(filter: $filter, first: 1) { totalCount nodes { id } } }"
MACHINES = "query ($filter: MachineFilter) { machines(filter: $filter, first: 1) { totalCount nodes { id } } }"
SAFE_DEPTH = 12  # levels of conditions that every supported SQLite can process, whatever is nested
FEW = EXAMPLES // 10  # of requests that take long, besides the explicit ones


@pytest.fixture(scope="module", params=SLOW_KINDS)
def sized(request: pytest.FixtureRequest, databases: Databases) -> Iterator[tuple[Rest, World]]:
    with rest_served(Settings(database_url=databases.new(request.param), keep_gone=1e9)) as rest:
        yield rest, populate(rest.gateway)


def outcome(rest: Rest, query: str, value: Filter) -> int | str:
    """The number of rows, or the code of the only error."""
    body = rest.gateway.post(query, {"filter": value})
    if "errors" in body:
        (error,) = body["errors"]
        code: str = error["extensions"]["code"]
        assert "retryable" not in error["extensions"], error
        return code
    (found,) = body["data"].values()
    total: int = found["totalCount"]
    return total


# ---- GraphQL


@given(count=st.integers(1, 300), word=st.sampled_from(["and", "or"]), negated=st.booleans())
@example(count=249, word="or", negated=False)
@example(count=249, word="and", negated=True)
@example(count=250, word="or", negated=False)
def test_a_list_of_conditions(sized: tuple[Rest, World], count: int, word: str, negated: bool) -> None:
    rest, world = sized
    value: Filter = {word: [{"name": {"eq": "test"}}] * count}
    conditions = 1 + 2 * count + negated
    named = sum(row["name"] == "test" for row in world.snapshots)
    expected = len(world.snapshots) - named if negated else named
    found = outcome(rest, SNAPSHOTS, {"not": value} if negated else value)
    assert found == (expected if conditions <= MAX_CONDITIONS else "BAD_USER_INPUT")


def alternating(depth: int, leaf: Filter) -> Filter:
    """`and` and `or` in turn, each with a second operand that does not change the result."""
    value = leaf
    for number in range(depth):
        value = {"and": [{"id": {"notIn": []}}, value]} if number % 2 else {"or": [{"id": {"in": []}}, value]}
    return value


@given(depth=st.integers(1, MAX_DEPTH + 4))
@example(depth=SAFE_DEPTH)
@example(depth=MAX_DEPTH - 2)
def test_nested_conditions(sized: tuple[Rest, World], depth: int) -> None:
    rest, world = sized
    found = outcome(rest, SNAPSHOTS, alternating(depth, {"name": {"eq": "test"}}))
    named = sum(row["name"] == "test" for row in world.snapshots)
    if depth + 2 > MAX_DEPTH:
        assert found == "BAD_USER_INPUT"
    elif depth <= SAFE_DEPTH or rest.gateway.gateway.database.dialect == "postgresql":
        assert found == named
    else:
        assert found in {named, "LIMIT_EXCEEDED"}


@given(pairs=st.integers(1, MAX_DEPTH // 2 + 2))
@example(pairs=MAX_RELATED // 2)
@example(pairs=9)
def test_nested_related_rows(sized: tuple[Rest, World], pairs: int) -> None:
    rest, world = sized
    value: Filter = {"name": {"eq": "test"}}
    for _ in range(pairs):
        value = {"machine": {"someSnapshot": value}}
    machines = {row["machine_id"] for row in world.snapshots if row["name"] == "test"}
    expected = sum(row["machine_id"] in machines for row in world.snapshots)
    assert outcome(rest, SNAPSHOTS, value) == (expected if 2 * pairs <= MAX_RELATED else "BAD_USER_INPUT")


def test_a_large_filter_of_many_kinds(sized: tuple[Rest, World]) -> None:
    """The most conditions, nested, with related rows and texts in every operator."""
    rest, world = sized
    one: Filter = {"name": {"startsWith": "t", "endsWith": "t", "contains": "es", "like": "t*t", "ne": "x"}}
    related: Filter = {"someSnapshot": {"or": [one] * 40, "and": [{"not": one}] * 30}}
    found = outcome(rest, MACHINES, {"or": [related, {"name": {"eq": "web"}}]})
    assert found == sum(row["name"] == "web" for row in world.machines)


# ---- REST

KINDS_OF_FILTERS = {
    "required": lambda count: ["name=test"] * count,
    "alternatives": lambda count: ["or name=test"] * count,
    "both": lambda count: ["name=test", *["or name=test"] * (count - 1)],
    "nullable": lambda count: ["name=test", *["description!=nothing like it"] * (count - 1)],
    "wildcards": lambda count: ["name=test", *["name='t*'"] * (count - 1)],
    "associations": lambda count: ["name=test", *["vm_or_template.name!=nothing like it"] * (count - 1)],
    "subqueries": lambda count: ["name=test", *["or parent.name=nothing like it"] * (count - 1)],
}


def listed(rest: Rest, machine: int, filters: list[str]) -> int | str:
    """The number of snapshots of a VM that match, or "refused" for a 400 that the client can understand."""
    response = rest.http.get(f"{rest.root}/vms/{machine}/snapshots", params={"filter[]": filters})
    body = response.json()
    if response.status_code == 400:
        assert body["error"]["kind"] == "bad_request"
        return "refused"
    assert response.status_code == 200, body
    count: int = body["subcount"]
    return count


def named(world: World) -> tuple[int, int]:
    """A VM that has snapshots named `test`, and their number."""
    counts = Counter(row["machine_id"] for row in world.snapshots if row["name"] == "test")
    vms = {machine["number"] for machine in world.machines if machine["id"].startswith("vm-")}
    return next((machine, count) for machine, count in sorted(counts.items()) if machine in vms)


@pytest.mark.parametrize("kind", KINDS_OF_FILTERS)
@given(count=st.integers(2, MAX_CONDITIONS + 20))
@example(count=495)
@example(count=MAX_CONDITIONS)
@example(count=MAX_CONDITIONS + 1)
@settings(max_examples=FEW)
def test_a_number_of_rest_filters(sized: tuple[Rest, World], kind: str, count: int) -> None:
    rest, world = sized
    machine, expected = named(world)
    found = listed(rest, machine, KINDS_OF_FILTERS[kind](count))
    assert found == (expected if count <= MAX_CONDITIONS else "refused")


@pytest.mark.parametrize("other", ["x", "x*y"])
@given(count=st.integers(1, MAX_CONDITIONS + 20), arrays=st.integers(1, 4))
@example(count=495, arrays=1)
@example(count=MAX_CONDITIONS, arrays=MAX_VALUES // MAX_CONDITIONS)
@example(count=MAX_CONDITIONS, arrays=MAX_VALUES // MAX_CONDITIONS + 1)
@settings(max_examples=FEW)
def test_a_number_of_values_in_arrays(sized: tuple[Rest, World], other: str, count: int, arrays: int) -> None:
    rest, world = sized
    machine, expected = named(world)
    array = f"name=[{','.join(['test', *(f'{other}{number}' for number in range(count - 1))])}]"
    found = listed(rest, machine, [array] * arrays)
    assert found == (expected if count <= MAX_CONDITIONS and count * arrays <= MAX_VALUES else "refused")
