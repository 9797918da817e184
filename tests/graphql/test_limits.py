"""Limits on the size and cost of an operation. An operation over a limit is not executed at all."""

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Settings
from gateway.graphql.execution.documents import PROBATIONARY_CAPACITY, PROTECTED_CAPACITY
from gateway.telemetry.metrics import DOCUMENTS
from tests.databases import Databases
from tests.graphql.error_assertions import literal
from tests.graphql.subscription_clients import subscribe_by_sse, subscribe_by_websocket
from tests.serving import Served, served
from tests.statement_counts import count_statements_by_request

COST_EXTENSION = {"cost": True}
LIMIT = Settings().max_cost


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite", demo=True))) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def strict(databases: Databases) -> Iterator[Served]:
    settings = Settings(
        database_url=databases.new("sqlite", demo=True),
        max_tokens=60,
        max_fields=12,
        max_depth=5,
        max_aliases=3,
        max_directives=2,
        max_cost=100,
        credentials_trusted=3_600,  # otherwise the check whether users are configured needs a statement
    )
    with served(settings) as gateway:
        gateway.ask("{ viewer { name } }")
        yield gateway


def request_errors(gateway: Served, query: str, variables: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    body = gateway.post(query, variables)
    assert list(body) == ["errors"]
    return [(error["extensions"]["code"], error["message"]) for error in body["errors"]]


# ---- size


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ('{ vm(id: "vm-11") { snapshots { nodes { parent { parent { id } } } } } }', "5 levels"),
        ('{ vm(id: "vm-11") { ...F } } fragment F on Vm { snapshots { nodes { parent { parent { id } } } } }',
         "5 levels"),
        ("{ a: __typename b: __typename c: __typename d: __typename }", "3 aliases"),
        ("{ ...F ...F ...F ...F } fragment F on Query { a: __typename }", "3 aliases"),
        ("{ a: __typename ... { b: __typename ...F } } fragment F on Query { c: __typename d: __typename }",
         "3 aliases"),
        ("query A { __typename } query B { a: __typename b: __typename c: __typename d: __typename }", "3 aliases"),
        ("query @skip(if: true) { __typename @include(if: true) @skip(if: false) }", "2 directives"),
        ("{ ...F @a } fragment F on Query { a: __typename @b b: __typename @c }", "2 directives"),
        ("{ __typename @a @b @c }", "2 directives"),
        ("{ " + "__typename " * 13 + "}", "12 fields"),
        ("{ ...F ...F ...F } fragment F on Query { viewer { name roles tenant } __typename }", "12 fields"),
    ],
)  # fmt: skip
def test_size_limits(strict: Served, query: str, what: str) -> None:
    """The size is checked before validation: the last document is invalid."""
    assert request_errors(strict, query) == [("LIMIT_EXCEEDED", f"The operation has more than {what}.")]


def test_operation_at_the_size_limits_is_accepted(strict: Served) -> None:
    query = """query { a: vm(id: "vm-11") @include(if: true) { b: snapshots(first: 1) @skip(if: false) {
        nodes { machine { c: id } } } } }"""
    assert strict.ask(query) == {"a": {"b": {"nodes": [{"machine": {"c": "vm-11"}}]}}}


def test_token_limit(strict: Served) -> None:
    assert "60 tokens" in request_errors(strict, "{ viewer { " + "name " * 60 + "} }")[0][1]


def test_depth_and_aliases_are_counted_through_fragments(gateway: Served) -> None:
    chain = " ".join(f"fragment F{number} on Query {{ ...F{number + 1} }}" for number in range(600))
    query = f"{{ ...F0 }} {chain} fragment F600 on Query {{ __typename }}"
    assert request_errors(gateway, query) == [("LIMIT_EXCEEDED", "The operation has more than 20 levels.")]
    doubling = " ".join(f"fragment F{number} on Query {{ ...F{number + 1} ...F{number + 1} }}" for number in range(60))
    query = f"{{ ...F0 }} {doubling} fragment F60 on Query {{ a: __typename }}"
    assert request_errors(gateway, query) == [("LIMIT_EXCEEDED", "The operation has more than 100 aliases.")]
    loop = "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }"
    assert request_errors(gateway, loop)[0][0] == "GRAPHQL_VALIDATION_FAILED"


def repeated(number: int) -> list[str]:
    """Documents that a validator compares pairwise: fields, also those of an unused fragment, and fragments."""
    numbers = range(number)
    return [
        f"{{ {'__typename ' * number} }}",
        f"{{ {'viewer { name }' * number} }}",
        f"{{ __typename }} fragment F on Query {{ {'__typename ' * number} }}",
        f"{{ {' '.join(f'...F{n}' for n in numbers)} }} "
        + " ".join(f"fragment F{n} on Query {{ __typename }}" for n in numbers),
    ]


@pytest.mark.parametrize("query", repeated(380), ids=["field", "object", "unused", "fragments"])
def test_too_many_repeated_fields_are_refused(gateway: Served, query: str) -> None:
    message = "The document repeats fields or fragments too often to be validated. Remove repetitions."
    assert request_errors(gateway, query) == [("LIMIT_EXCEEDED", message)]


def test_moderately_repeated_fields_are_accepted(gateway: Served) -> None:
    field, object_, unused, fragments = repeated(90)
    assert gateway.ask(field) == gateway.ask(fragments) == {"__typename": "Query"}
    assert gateway.ask(object_) == {"viewer": {"name": "local"}}
    assert request_errors(gateway, unused) == [("GRAPHQL_VALIDATION_FAILED", "Fragment 'F' is never used.")]


def test_branching_fragments_are_refused(gateway: Served) -> None:
    """Each fragment spreads the next one several times, so that a small document expands exponentially."""
    inner = "parent { ...S%d } children { nodes { ...S%d } } machine { currentSnapshot { ...S%d } }"
    levels = [f"fragment S{n} on Snapshot {{ {inner.replace('%d', str(n + 1))} }}" for n in range(6)]
    query = f'{{ node(id: "snapshot-1") {{ ...S0 }} }} {" ".join(levels)} fragment S6 on Snapshot {{ id }}'
    assert request_errors(gateway, query) == [("LIMIT_EXCEEDED", "The operation has more than 1000 fields.")]


def test_introspection_is_within_the_limits(gateway: Served) -> None:
    """GraphiQL's introspection query selects nine nested wrappers of a type."""
    wrapped = "ofType { " * 9 + "name" + " }" * 9
    query = f"{{ __schema {{ types {{ fields {{ args {{ type {{ {wrapped} }} }} }} }} }} }}"
    body = gateway.post(query, extensions=COST_EXTENSION)
    assert body["extensions"] == {"cost": {"requested": 0, "limit": LIMIT}}
    assert "errors" not in body


# ---- cost

IDS = ["vm-11", "instance-201", "x"]
CREATE_TWO = """mutation ($ids: [ID!]!) { createSnapshots(input: {machineIds: $ids, name: "n"}) {
    results { operation { machine { snapshots(first: 3) { nodes { id } } } } } } }"""
BY_TYPE = """query ($i: [ID!]!) { nodes(ids: $i) { ... on Vm { currentSnapshot { id } }
    ... on Snapshot { machine { snapshots(first: 2) { nodes { id } } } } } }"""
BY_KIND = """{ node(id: "vm-11") { ... on Vm { snapshots(first: 2) { nodes { id } } }
    ... on Instance { snapshots(first: 9) { nodes { id } } } } }"""
MERGED = """{ vm(id: "vm-11") { ...F ...F } vm(id: "vm-11") { ...F } }
    fragment F on Machine { snapshots(first: 5) { nodes { id } } }"""
SKIPPED = 'query ($s: Boolean!) { vm(id: "vm-11") { snapshots @skip(if: $s) { nodes { id } } } }'


@pytest.mark.parametrize(
    ("query", "variables", "cost"),
    [
        ("{ __typename viewer { name roles } }", {}, 0),
        ("{ providers { name machineCount } }", {}, 1 + 10),
        ('{ vm(id: "vm-11") { id name capabilities { action } } }', {}, 1),
        ('{ vm(id: "vm-11") { currentSnapshot { parent { id } } } }', {}, 3),
        ("{ snapshots { totalCount } }", {}, 1),
        ("{ snapshots(first: 0) { nodes { id } } }", {}, 1),
        ("{ snapshots(first: 0) { nodes { id } totalBytes unknownSizeCount } }", {}, 1 + 10),
        ("{ snapshots { totalBytes totalCount } }", {}, 1 + 10),
        ("{ machines(first: 5) { nodes { snapshots(first: 2) { unknownSizeCount nodes { parent { id } } } } } }", {},
         1 + 5 * (1 + 1 + 10 + 2 * 2)),
        ('{ machine(id: "vm-11") { capability(action: DELETE) { supported } } }', {}, 1),
        ("{ snapshots { nodes { id } } }", {}, 1 + 50),
        ("{ snapshots { edges { cursor node { id } } pageInfo { endCursor } totalCount } }", {}, 1 + 50),
        ("{ snapshots(last: 7) { nodes { machine { id } } edges { node { parent { id } } } } }", {}, 1 + 7 * 3),
        ("{ machines(first: 50) { nodes { snapshots(first: 10) { nodes { id } } } } }", {}, 1 + 50 * (1 + 1 + 10)),
        ("query ($n: Int) { snapshots(first: $n) { nodes { id } } }", {}, 1 + 50),
        ("query ($n: Int) { snapshots(first: $n) { nodes { id } } }", {"n": 3}, 1 + 3),
        ("query ($n: Int = 4) { vms(first: $n) { nodes { snapshots(first: $n) { nodes { id } } } } }", {},
         1 + 4 * (1 + 1 + 4)),
        ("query ($i: [ID!]!) { nodes(ids: $i) { id } }", {"i": IDS}, 1 + 3),
        (BY_TYPE, {"i": IDS}, 1 + 3 * (1 + 1 + 1 + 2)),
        (BY_KIND, {}, 1 + 1 + 9),
        ('{ a: vm(id: "vm-11") { id } b: vm(id: "vm-11") { id } }', {}, 2),
        (MERGED, {}, 1 + 1 + 5),
        (SKIPPED, {"s": True}, 1),
        (SKIPPED, {"s": False}, 1 + 1 + 50),
        ('mutation { cancelOperation(input: {operationId: "x"}) { operation { machine { id } } } }', {}, 10 + 2),
        (CREATE_TWO, {"ids": ["x", "y"]}, 2 * (10 + 1 + 1 + 1 + 3)),
        (CREATE_TWO, {"ids": []}, 10 + 1 + 1 + 1 + 3),
    ],
)  # fmt: skip
def test_reported_cost(gateway: Served, query: str, variables: dict[str, Any], cost: int) -> None:
    body = gateway.post(query, variables, extensions=COST_EXTENSION)
    assert "errors" not in body
    assert body["extensions"] == {"cost": {"requested": cost, "limit": LIMIT}}
    for other in ({}, {"cost": False}, {"cost": "yes"}, {"other": True}):
        assert "extensions" not in gateway.post(query, variables, extensions=other)


def test_reported_cost_by_get(gateway: Served) -> None:
    parameters = {"query": "{ snapshots(first: 2) { nodes { id } } }", "extensions": '{"cost": true}'}
    body = gateway.http.get("/graphql", params=parameters, headers={"accept": "application/json"}).json()
    assert body["extensions"] == {"cost": {"requested": 3, "limit": LIMIT}}


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
def test_reported_cost_of_a_subscription(gateway: Served, subscribe: Any) -> None:
    operation = gateway.ask('mutation { refreshMachine(input: {machineId: "vm-11"}) { operation { id } } }')
    id_ = operation["refreshMachine"]["operation"]["id"]
    query = "subscription ($id: ID!) { operationUpdated(id: $id) { machine { snapshots(first: 4) { nodes { id } } } } }"
    with subscribe(gateway, query, members={"extensions": COST_EXTENSION}, id=id_) as bodies:
        assert [body["extensions"] for body in bodies][-1] == {"cost": {"requested": 1 + 1 + 1 + 4, "limit": LIMIT}}


TOO_EXPENSIVE = "the limit is 100. Request smaller pages or fewer nested fields."


@pytest.mark.parametrize(
    ("query", "variables", "cost"),
    [
        ("{ vms(first: 100) { nodes { id } } }", {}, 101),
        ("query ($n: Int!) { vms(first: $n) { nodes { id } } }", {"n": 1000}, 1001),
        ("query ($n: Int!) { a: vms(first: $n) { nodes { id } } b: vms(first: $n) { nodes { id } } }", {"n": 50}, 102),
        ("query ($i: [ID!]!) { nodes(ids: $i) { id } }", {"i": ["vm-11"] * 100}, 101),
    ],
)
def test_too_expensive_query_is_refused(
    strict: Served, monkeypatch: pytest.MonkeyPatch, query: str, variables: dict[str, Any], cost: int
) -> None:
    counts = count_statements_by_request(strict, monkeypatch)
    assert request_errors(strict, query, variables) == [
        ("LIMIT_EXCEEDED", f"The operation costs {cost}, and {TOO_EXPENSIVE}")
    ]
    assert counts.keys() <= {"-"}
    if "n" in variables:
        assert strict.ask(query, n=1)


def test_too_expensive_mutation_is_not_executed(strict: Served) -> None:
    ids = ["vm-11", "vm-12"] * 5
    expensive = (
        f'createSnapshots(input: {{machineIds: {literal(ids)}, name: "expensive"}})'
        " { results { operation { id } } }"
    )
    cheap = 'cancelOperation(input: {operationId: "operation-1"}) { errors { code } }'
    message = f"The operation costs 120, and {TOO_EXPENSIVE}"
    assert request_errors(strict, f"mutation {{ {cheap} {expensive} }}") == [("LIMIT_EXCEEDED", message)]
    found = strict.ask('{ snapshots(filter: {name: {eq: "expensive"}}) { totalCount } }')
    assert found == {"snapshots": {"totalCount": 0}}


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
def test_too_expensive_subscription_is_refused(strict: Served, subscribe: Any) -> None:
    query = "subscription { snapshotChanged { machine { snapshots(first: 99) { edges { cursor } } } } }"
    with subscribe(strict, query) as bodies:
        (body,) = bodies
    (error,) = body["errors"]
    assert (error["extensions"]["code"], error["message"]) == (
        "LIMIT_EXCEEDED",
        f"The operation costs 101, and {TOO_EXPENSIVE}",
    )


@pytest.mark.parametrize("condition", ["skip", "include"])
def test_null_condition_of_skip_or_include_is_refused(gateway: Served, condition: str) -> None:
    query = f"query ($s: Boolean = true) {{ viewer @{condition}(if: $s) {{ name }} }}"
    ((code, message),) = request_errors(gateway, query, {"s": None})
    assert code == "BAD_USER_INPUT"
    assert message.endswith("Expected variable '$s' provided to non-null type 'Boolean!' not to be null.")


# ---- the size of a response

WIDE = "id name description state createdAt sizeBytes createdBy"
NESTED = "query ($n: Int) { machines(first: 1000) { nodes { snapshots(first: $n) { nodes { %s } } } } }"


def requested(gateway: Served, query: str, variables: dict[str, Any] | None = None) -> int:
    cost: int = gateway.post(query, variables, extensions=COST_EXTENSION)["extensions"]["cost"]["requested"]
    return cost


def test_a_large_response_costs_more_than_its_rows(gateway: Served) -> None:
    """1 for each 200 bytes beyond the first million, which are estimated from the keys and the types of the fields."""
    rows = 1 + 1_000 * (2 + 20)
    assert requested(gateway, NESTED % "id", {"n": 20}) == rows
    by_hand = {"id": 20, "name": 60, "description": 200, "state": 15, "createdAt": 30, "sizeBytes": 20, "createdBy": 60}
    row = 3 + sum(len(key) + 4 + width for key, width in by_hand.items())
    size = len("machines") + 4 + 2 + len("nodes") + 4 + 2
    size += 1_000 * (3 + len("snapshots") + 4 + 2 + len("nodes") + 4 + 2 + 20 * row)
    assert requested(gateway, NESTED % WIDE, {"n": 20}) == rows + (size - 1_000_000) // 200


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        (NESTED % WIDE, {"n": 190}),  # 190,000 rows: 60 MB
        (NESTED % f"{'x' * 5_000}: id", {"n": 20}),  # a key of 5,000 characters in 20,000 rows: 100 MB
        ("{ snapshots(first: 1000) { nodes { " + " ".join(f"{'x' * 700}{n}: id" for n in range(100)) + " } } }", {}),
        ("{ vms(first: 1000) { nodes { "
         + " ".join(f"a{n}: capabilities {{ action supported reason }}" for n in range(100)) + " } } }", {}),
        ("{ snapshots(first: 1000) { edges { "
         + " ".join(f"{'x' * 300}{n}: cursor" for n in range(100)) + " } } }", {}),
        ("{ " + " ".join(f"a{n}: snapshots(first: 1000) {{ nodes {{ {WIDE} }} }}" for n in range(100)) + " }", {}),
    ],
    ids=["rows", "a long key", "many keys", "computed lists", "cursors", "root fields"],
)  # fmt: skip
def test_too_large_a_response_is_refused(gateway: Served, query: str, variables: dict[str, Any]) -> None:
    ((code, message),) = request_errors(gateway, query, variables)
    assert code == "LIMIT_EXCEEDED"
    assert message.endswith(f"the limit is {LIMIT}. Request smaller pages or fewer nested fields.")


# ---- arguments

IDS = [f"vm-{number}" for number in range(9_000)]
TEXTS = ["x" * 4_000] * 240  # just below the largest body
CURSOR = "x" * 900_000


def aliased(field: str, count: int) -> str:
    return " ".join(f"a{number}: {field}" for number in range(count))


@pytest.mark.parametrize(
    ("operation", "variable", "value", "accepted"),
    [
        ("query ($v: MachineFilter) { %s }", "vms(filter: $v, first: 1) { nodes { id } }", {"id": {"in": IDS}}, 2),
        ("query ($v: [ID!]!) { %s }", "vms(filter: {id: {in: $v}}, first: 1) { nodes { id } }", IDS, 2),
        ("query ($v: MachineFilter) { %s }", "vms(filter: $v, first: 1) { nodes { id } }", {"name": {"in": TEXTS}}, 2),
        ('query ($v: SnapshotFilter) { vm(id: "vm-11") { %s } }', "snapshots(filter: $v) { totalCount }",
         {"machine": {"id": {"in": IDS}}}, 2),
        ("query ($v: String!) { %s }", "vms(after: $v) { nodes { id } }", CURSOR, 2),
    ],
    ids=["filter", "member", "texts", "nested", "cursor"],
)  # fmt: skip
def test_a_variable_counts_each_time_it_is_used(
    gateway: Served, operation: str, variable: str, value: Any, accepted: int
) -> None:
    texts = value in (CURSOR, {"name": {"in": TEXTS}})
    unit = "2000000 characters" if texts else "20000 values, including those in lists and objects"
    message = f"The arguments of the operation have more than {unit}. A variable counts each time it is used."
    body = gateway.post(operation % aliased(variable, accepted), {"v": value})
    codes = [error["extensions"]["code"] for error in body.get("errors", ())]
    assert codes == (["BAD_USER_INPUT"] if value is CURSOR else [])  # of a field that must not be null
    found = request_errors(gateway, operation % aliased(variable, accepted + 1), {"v": value})
    assert found == [("LIMIT_EXCEEDED", message)]


def test_a_variable_counts_each_time_it_is_used_in_a_subscription(gateway: Served) -> None:
    lists = aliased("snapshots(filter: $v) { totalCount }", 3)
    query = f"subscription ($v: SnapshotFilter) {{ snapshotChanged {{ machine {{ {lists} }} }} }}"
    with subscribe_by_sse(gateway, query, v={"machine": {"id": {"in": IDS}}}) as bodies:
        (body,) = bodies
    assert [error["extensions"]["code"] for error in body["errors"]] == ["LIMIT_EXCEEDED"]


def test_the_requests_of_subscriptions_of_a_caller_are_limited_together(gateway: Served) -> None:
    """They stay in memory while the subscriptions are open."""
    query = "subscription ($f: MachineFilter) { machineChanged(filter: $f) { kind } }"
    large = {"name": {"in": TEXTS}}  # 960,000 characters
    with subscribe_by_websocket(gateway, query, f=large), subscribe_by_sse(gateway, query, f=large):
        with subscribe_by_sse(gateway, query, f=large) as bodies:
            (body,) = bodies
        (error,) = body["errors"]
        assert error["extensions"]["code"] == "LIMIT_EXCEEDED"
        assert error["message"] == (
            "The documents and variables of your subscriptions have more than 2000000 characters. End some of them, or"
            " use shorter ones."
        )
        with subscribe_by_sse(gateway, query):
            pass
    with subscribe_by_sse(gateway, query, f=large):
        pass


@pytest.mark.parametrize(
    "query",
    [
        f"query ($f: MachineFilter) {{ {aliased('vms(filter: $f, first: 1) { totalCount nodes { id } }', 9)} }}",
        'query ($f: SnapshotFilter) { vm(id: "vm-11") { '
        + aliased("snapshots(filter: $f, first: 1) { totalCount nodes { id } }", 9)
        + " } }",
    ],
    ids=["roots", "nested"],
)
def test_long_filters_are_not_kept(gateway: Served, query: str) -> None:
    def send(number: int) -> None:
        names = [f"{number}-{place}".ljust(1_000, "x") for place in range(100)]
        assert "errors" not in gateway.post(query, {"f": {"name": {"in": names}}})

    for number in range(3):
        send(number)
    tracemalloc.start()
    try:
        for number in range(3, 23):
            send(number)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 20 filters of 100,000 bytes for 9 lists are 18 MB. The rest of the process, such as the captured log, keeps some.
    assert kept < 6_000_000


# ---- the cache of documents


def cached_documents(gateway: Served) -> dict[str, Any]:
    """The number of documents in each segment of the cache."""
    return {labels[0]: value for name, labels, value in gateway.gateway.metrics.samples() if name == DOCUMENTS.name}


def test_long_documents_take_the_place_of_many_short_ones(gateway: Served) -> None:
    """The cache is limited by characters, and not by documents."""
    for number in range(20):
        gateway.ask(f"{{ viewer {{ name }} }} # {number}".ljust(19_000))
    assert cached_documents(gateway)["new"] == PROBATIONARY_CAPACITY // 19_000
    for number in range(120):
        query = f"{{ viewer {{ name }} }} # again {number}".ljust(19_000)
        gateway.ask(query)
        gateway.ask(query)
    assert cached_documents(gateway)["regular"] == PROTECTED_CAPACITY // 19_000


def test_looking_for_subscriptions_is_no_use_of_a_document(gateway: Served) -> None:
    """A request whose text has that word is looked at before it is executed. Else a flood would fill the cache."""
    before = cached_documents(gateway)["regular"]
    query = "{ viewer { name } } # no subscription".ljust(600)
    gateway.ask(query)
    assert cached_documents(gateway)["regular"] == before
    gateway.ask(query)
    assert cached_documents(gateway)["regular"] == before + 1


# ---- introspection


@pytest.mark.parametrize(
    "query",
    [
        "{ " + " ".join(f"a{n}: __schema {{ types {{ fields {{ args {{ name }} }} }} }}" for n in range(99)) + " }",
        "{ __schema { " + " ".join(f"a{n}: types {{ fields {{ name args {{ name }} }} }}" for n in range(90)) + " } }",
        "{ __schema { types { " + " ".join(f"a{n}: fields {{ name args {{ name }} }}" for n in range(90)) + " } } }",
        "{ " + "...F " * 90 + "} fragment F on Query { __schema { types { fields { name args { name } } } } }",
        "query ($n: String!) { " + " ".join(f"a{n}: __type(name: $n) {{ fields {{ args {{ type {{ name }} name }} }} }}"
                                            for n in range(90)) + " }",
    ],
    ids=["roots", "types", "fields", "fragments", "named types"],
)  # fmt: skip
def test_repeated_introspection_is_refused(gateway: Served, query: str) -> None:
    message = "The operation selects more than 40000 fields of the schema by introspection. Select fewer."
    if "$n" in query:
        assert len(gateway.ask(query, n="Query")) == 90
    else:
        assert request_errors(gateway, query, {}) == [("LIMIT_EXCEEDED", message)]


def test_the_rest_of_an_operation_that_introspects_costs_more(gateway: Served) -> None:
    assert requested(gateway, "{ __schema { queryType { name } } vms(first: 9) { nodes { id } } }") == 10 * (1 + 9)
