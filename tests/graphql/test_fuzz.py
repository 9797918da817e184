"""Fuzz tests with schemathesis: every request gets a valid response, and no response leaks internals."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis_graphql import nodes
from schemathesis.core.result import Ok

from gateway.errors import MEANINGS, ErrorCode
from tests.cli.programs import Program, serving
from tests.databases import SLOW_KINDS, Databases
from tests.examples import EXAMPLES, SEED

pytestmark = pytest.mark.thorough

CASES = 5 * EXAMPLES

KNOWN = {meaning.extensions_code for code, meaning in MEANINGS.items() if code is not ErrorCode.INTERNAL} | {
    "GRAPHQL_PARSE_FAILED",
    "GRAPHQL_VALIDATION_FAILED",
}
# Traces of SQL, Python and the file system.
LEAKS = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|sqlite|psycopg|asyncpg|sqlalchemy|Traceback|NoneType|object at 0x)"
    r"|\w+Error\(|\.py\b|site-packages|/(usr|home|root|tmp|opt|work)/"
)

IDS = ["vm-11", "vm-12", "instance-201", "instance-202", "snapshot-3", "snapshot-4", "operation-1", "vm-999999"]
TIMES = [
    "2026-01-01T00:00:00Z",
    "2026-11-02T19:48:00.5+01:00",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-12:00",
]
whole_numbers = st.integers(-(2**64), 2**64)

# Otherwise nearly every id would be malformed, and only the id parser would be tested.
schemathesis.graphql.scalar("ID", st.one_of(st.sampled_from(IDS), st.text(max_size=8)).map(nodes.String))
schemathesis.graphql.scalar("DateTime", st.one_of(st.sampled_from(TIMES), st.text(max_size=8)).map(nodes.String))
schemathesis.graphql.scalar("BigInt", whole_numbers.map(nodes.Int) | whole_numbers.map(str).map(nodes.String))


EAGER = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize=False,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[tuple[str, Program]]:
    """In a separate process, because Hypothesis complains if another thread draws random numbers."""
    url = databases.new(request.param)
    with serving("--demo", "--database-url", url, drain_timeout=0.1, log_level="error") as program:
        yield request.param, program


def test_valid_requests(gateway: tuple[str, Program]) -> None:
    kind, program = gateway
    schema = schemathesis.graphql.from_url(f"{program.url}/graphql")
    fields = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert {field.label.partition(".")[0] for field in fields} == {"Query", "Mutation"}
    counts: Counter[str] = Counter()

    @seed(SEED)
    @EAGER
    @given(case=st.one_of([field.as_strategy() for field in fields]))
    def ask(case: Any) -> None:
        headers = {"accept": "application/graphql-response+json"}
        answer = program.http.post("/graphql", json={"query": case.body}, headers=headers)
        check_response(answer.status_code, answer.json(), f"seed {SEED}:\n{case.body}\n{answer.text}")
        counts.update({"cases": 1, "answered": "errors" not in answer.json(), str(answer.status_code): 1})

    began = time.perf_counter()
    ask()
    seconds = time.perf_counter() - began
    print(f"{kind}: seed {SEED}, {dict(counts)}, {len(fields)} root fields, {seconds:.0f} s")
    assert counts["cases"] >= CASES
    assert counts["answered"] > CASES // 5


NAMES = ["id", "n", "s", "filter", "sort", "after", "ids", "input", "machineId", "name", "not", "and", "eq", "field"]
DOCUMENTS = [
    """query Q($id: ID!, $n: Int = 3, $s: Boolean = true) { vm(id: $id) @include(if: $s) { snapshots(first: $n) {
        nodes { ...F } } } } fragment F on Snapshot { id name parent { id } }""",
    """query Q($filter: MachineFilter, $sort: [MachineSort!], $after: String) { machines(filter: $filter, sort: $sort,
        after: $after) { edges { cursor node { id ... on Vm { name } } } pageInfo { endCursor } } }""",
    """query Q($id: ID, $name: String) { snapshots(filter: {id: {eq: $id}, not: {name: {like: $name}}}) {
        totalCount } }""",
    "query ($ids: [ID!]!) { nodes(ids: $ids) { id __typename } __schema { queryType { name } } }",
    "mutation M($input: CreateSnapshotInput!) { createSnapshot(input: $input) { operation { id } errors { code } } }",
    "mutation M($input: DeleteSnapshotsInput!) { deleteSnapshots(input: $input) { results { snapshotId } } }",
    "subscription S($id: ID!) { operationUpdated(id: $id) { state } }",
]
TOKENS = ["{", "}", "(", ")", "...", "$id", "$n", "!", "@skip(if: $s)", "on Vm", "F", ":", "null", '""', "-1", "1e400",
          "fragment F on Vm { ...F }", "query Q { id }", "[", "]", "{}", "#", '"\\u0000"', "\u2028"]  # fmt: skip
names = st.sampled_from(NAMES)
anything = st.recursive(
    st.none() | st.booleans() | whole_numbers | st.floats(allow_nan=False) | st.text(max_size=8) | st.sampled_from(IDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fitting = st.fixed_dictionaries(
    {"id": st.sampled_from(IDS), "ids": st.lists(st.sampled_from(IDS))},
    optional={
        "n": st.integers(-1, 5),
        "s": st.none() | st.booleans(),
        "name": st.none() | st.text(max_size=5),
        "after": st.text(max_size=9),
        "filter": st.dictionaries(names, st.dictionaries(names, anything, max_size=2) | anything, max_size=2),
        "sort": st.lists(st.fixed_dictionaries({"field": st.sampled_from(["NAME", "ID", "x"])}), max_size=3),
        "input": st.dictionaries(names, anything),
    },
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A document with a few words removed, moved or replaced."""
    words = draw(st.sampled_from(DOCUMENTS)).split(" ")
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(words) - 1))
        words[place : place + draw(st.integers(0, 2))] = draw(
            st.lists(st.sampled_from([*words, *TOKENS]) | st.text(max_size=3), max_size=2)
        )
        words = words or ["{"]
    return " ".join(words)


requests = st.one_of(
    st.fixed_dictionaries({"query": damaged(), "variables": fitting}),
    st.fixed_dictionaries({"query": st.sampled_from(DOCUMENTS), "variables": fitting}),
    st.fixed_dictionaries(
        {"query": st.sampled_from(DOCUMENTS), "variables": st.dictionaries(names, anything, max_size=4)},
        optional={"extensions": st.dictionaries(st.sampled_from(["cost", "persistedQuery"]), anything)},
    ),
    st.fixed_dictionaries(
        {"query": anything},
        optional=dict.fromkeys(("variables", "operationName", "extensions", "documentId"), anything),
    ),
)


def test_invalid_requests(gateway: tuple[str, Program]) -> None:
    kind, program = gateway
    counts: Counter[str] = Counter()

    @seed(SEED)
    @EAGER
    @given(request=requests)
    def ask(request: Any) -> None:
        try:
            content = orjson.dumps(request)
        except TypeError:  # an integer of more than 64 bits
            content = json.dumps(request).encode()
        headers = {"accept": "application/graphql-response+json", "content-type": "application/json"}
        answer = program.http.post("/graphql", content=content, headers=headers)
        body = answer.json()
        counts.update({"cases": 1, str(answer.status_code): 1})
        if answer.status_code == 406:  # a subscription, which needs an `Accept` header for event streams
            assert "subscription" in request["query"], request
        else:
            check_response(answer.status_code, body, f"seed {SEED}:\n{request}\n{answer.text}")

    ask()
    print(f"{kind}: seed {SEED}, {dict(counts)}")


def check_response(status: int, body: Any, context: str) -> None:
    assert status in {200, 400}, context
    for error in body.get("errors", ()):
        assert error["extensions"]["code"] in KNOWN, context
        # Quoted parts may repeat arbitrary input of the client.
        assert not LEAKS.search(re.sub(r"'[^']*'|\"[^\"]*\"", "", error["message"])), context
    assert status == 200 or "data" not in body, context
