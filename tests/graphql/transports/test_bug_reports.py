"""Requests of public bug reports about other servers and clients, which the gateway answers as the report expects."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from graphql import get_introspection_query
from websockets.sync.client import connect

from gateway.config import Settings
from tests.databases import Databases
from tests.serving import Served, served


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite", demo=True))) as gateway:
        yield gateway


@pytest.mark.parametrize("only", [True, False])
@pytest.mark.parametrize("inner", ["name", "... on Vm { name }", "... on Machine { name }"])
def test_a_fragment_under_both_skip_and_include(gateway: Served, only: bool, inner: str) -> None:
    """https://github.com/zalando-incubator/graphql-jit/issues/111 and 118: the field is an empty object."""
    query = (
        'query ($only: Boolean!) { a: vm(id: "vm-11") @skip(if: $only) { ...f } b: vm(id: "vm-12") @include(if: $only)'
        f" {{ ...f }} }} fragment f on Vm {{ {inner} }}"
    )
    assert gateway.ask(query, only=only) == ({"b": {"name": "db-01"}} if only else {"a": {"name": "web-01"}})


def test_a_field_that_an_excluded_fragment_repeats(gateway: Served) -> None:
    """https://github.com/ChilliCream/graphql-platform/issues/5970: the field is left out.

    https://github.com/apollographql/router/issues/3503: the condition of one occurrence applies to all.
    """
    query = (
        'query ($s: Boolean!) { vm(id: "vm-11") { name } ...f @include(if: false) ...g }'
        ' fragment f on Query { vm(id: "vm-11") { id } }'
        ' fragment g on Query { vm(id: "vm-11") @skip(if: $s) { state: id } }'
    )
    assert gateway.ask(query, s=True) == {"vm": {"name": "web-01"}}
    assert gateway.ask(query, s=False) == {"vm": {"name": "web-01", "state": "vm-11"}}


def test_conditions_of_fragments_on_an_interface(gateway: Served) -> None:
    """https://github.com/graphile/crystal/pull/3025: conditions of fragments in an abstract position are ignored."""
    query = (
        'query ($s: Boolean!) { machine(id: "vm-11") { id ...f @skip(if: $s) ... on Vm @include(if: $s) { name } } }'
        " fragment f on Machine { powerState }"
    )
    assert gateway.ask(query, s=True) == {"machine": {"id": "vm-11", "name": "web-01"}}
    assert gateway.ask(query, s=False) == {"machine": {"id": "vm-11", "powerState": "ON"}}


def test_one_relation_with_different_arguments(gateway: Served) -> None:
    """https://github.com/join-monster/join-monster/issues/481 and 126: all aliases show the last one."""
    query = (
        'query { vm(id: "vm-11") { a: snapshots(first: 1) { nodes { id } }'
        " b: snapshots(first: 1, offset: 1) { nodes { id } } snapshots(last: 1) { nodes { id } }"
        ' c: snapshots(filter: {name: {like: "*base*"}}) { totalCount nodes { id parent { id } } } } }'
    )
    assert gateway.ask(query)["vm"] == {
        "a": {"nodes": [{"id": "snapshot-5"}]},
        "b": {"nodes": [{"id": "snapshot-4"}]},
        "snapshots": {"nodes": [{"id": "snapshot-3"}]},
        "c": {"totalCount": 1, "nodes": [{"id": "snapshot-3", "parent": None}]},
    }


def test_null_members_and_an_empty_operation_name(gateway: Served) -> None:
    """https://github.com/apollographql/apollo-server/pull/7203 and
    https://github.com/graphql-java-kickstart/graphql-java-servlet/issues/34: 400 and 500.
    """
    for members in (
        {"operationName": None, "variables": None, "extensions": None},
        {"operationName": ""},
        {"operationName": "", "variables": {}, "extensions": {}},
    ):
        assert gateway.post("query A { viewer { name } }", **members) == {"data": {"viewer": {"name": "local"}}}
    response = gateway.http.get("/graphql", params={"query": "query A { viewer { name } }", "operationName": ""})
    assert response.json() == {"data": {"viewer": {"name": "local"}}}


def test_a_single_value_for_a_list(gateway: Served) -> None:
    """https://github.com/99designs/gqlgen/issues/1732, https://github.com/ChilliCream/graphql-platform/issues/9749 and
    https://github.com/wundergraph/graphql-go-tools/issues/855: a single enum, a single id, and null are refused.
    """
    query = "query ($states: [SnapshotState!]) { snapshots(filter: {state: {in: $states}}) { totalCount } }"
    assert gateway.ask(query, states="READY") == gateway.ask(query, states=["READY"])
    sorted_ = "query ($sort: [SnapshotSort!]) { snapshots(first: 1, sort: $sort) { nodes { id } } }"
    assert gateway.ask(sorted_, sort={"field": "ID"}) == gateway.ask(sorted_, sort=[{"field": "ID"}])
    assert gateway.ask(sorted_, sort=None) == gateway.ask(sorted_)
    nodes = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert gateway.ask(nodes, ids="vm-11") == {"nodes": [{"id": "vm-11"}]}


def test_media_types_and_methods(gateway: Served) -> None:
    """https://github.com/ChilliCream/graphql-platform/pull/10392: names of media types are case-insensitive and whole,
    405 has `Allow`, and unknown members are ignored.
    """
    body = json.dumps({"query": "{ viewer { name } }", "unknown": 1})

    def status(content_type: str) -> int:
        return gateway.http.post("/graphql", content=body, headers={"content-type": content_type}).status_code

    for accepted in ("Application/JSON", "application/json;charset=UTF-8", 'application/json; charset="utf-8"; a=b'):
        assert status(accepted) == 200, accepted
    for refused in ("application/json-patch+json", "application/json garbage", "text/plain", ""):
        assert status(refused) == 415, refused
    mutation = "mutation { __typename }"
    for method in ("GET", "HEAD"):
        response = gateway.http.request(method, "/graphql", params={"query": mutation})
        assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_byte_order_marks_and_divided_characters(gateway: Served) -> None:
    """https://github.com/microsoft/cppgraphqlgen/issues/304: U+FEFF is ignored everywhere in a document.

    https://github.com/graphql/graphql-http/issues/118: characters at the border of two chunks are corrupted.
    """
    assert gateway.ask("\ufeff{\ufeffviewer\ufeff{ name } }") == {"viewer": {"name": "local"}}
    text = "å€😀" * 500
    body = json.dumps(
        {
            "query": "query ($n: String!) { snapshots(filter: {name: {eq: $n}}) { totalCount } }",
            "variables": {"n": text},
        },
        ensure_ascii=False,
    ).encode()
    chunks = (body[start : start + 7] for start in range(0, len(body), 7))
    response = gateway.http.post("/graphql", content=chunks, headers={"content-type": "application/json"})
    assert response.json() == {"data": {"snapshots": {"totalCount": 0}}}


@pytest.mark.parametrize("deprecated", [True, False])
def test_introspection_with_deprecated_arguments(gateway: Served, deprecated: bool) -> None:
    """https://github.com/async-graphql/async-graphql/issues/1621 and https://github.com/graphql/graphql-js/issues/2895:
    the argument `includeDeprecated` is unknown for arguments of fields and of directives.
    """
    query = get_introspection_query(
        specified_by_url=True,
        directive_is_repeatable=True,
        schema_description=True,
        input_value_deprecation=deprecated,
        one_of=True,
    )
    schema: dict[str, Any] = gateway.ask(query)["__schema"]
    assert {"Query", "Vm", "Operation"} <= {type_["name"] for type_ in schema["types"]}


def test_completing_a_query_over_websocket(gateway: Served) -> None:
    """https://github.com/strawberry-graphql/strawberry/issues/1731: `complete` for a query closes the connection.

    https://github.com/enisdenjo/graphql-ws/issues/592: messages after the client's `complete`.
    """
    url = gateway.url.replace("http://", "ws://") + "/graphql"
    with connect(url, subprotocols=["graphql-transport-ws"], proxy=None) as socket:  # type: ignore[list-item]

        def send(**message: Any) -> None:
            socket.send(json.dumps(message))

        def receive() -> Any:
            return json.loads(socket.recv(20))

        send(type="connection_init", payload=None)
        assert receive() == {"type": "connection_ack"}
        payload = {"query": "{ viewer { name } }"}
        send(type="complete", id="never begun")
        send(type="subscribe", id="1", payload=payload)
        send(type="complete", id="1")  # before or after the result, which is sent or not
        send(type="complete", id="1")
        send(type="subscribe", id="2", payload=payload)
        messages = list(iter(receive, {"type": "complete", "id": "2"}))
        assert {"type": "next", "id": "2", "payload": {"data": {"viewer": {"name": "local"}}}} in messages
        assert {message["id"] for message in messages} <= {"1", "2"}
