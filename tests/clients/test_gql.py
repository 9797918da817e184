"""The Python client gql, over HTTP with httpx2 and over one WebSocket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gql import Client, GraphQLRequest
from gql.client import AsyncClientSession
from gql.transport.exceptions import TransportQueryError
from gql.transport.httpx import HTTPXAsyncTransport
from gql.transport.websockets import WebsocketsTransport
from graphql import GraphQLError

from tests.serving import Served
from tests.waiting import PATIENCE

VM = "vm-11"

SNAPSHOTS = "query ($id: ID!) { vm(id: $id) { name snapshots { totalCount nodes { id } } } }"
CREATE = """mutation ($input: CreateSnapshotInput!) { createSnapshot(input: $input) {
    snapshot { id name } operation { id } errors { code path } } }"""
FOLLOW = "subscription ($id: ID!) { operationUpdated(id: $id) { id state isDone snapshotId } }"
DELETE = "mutation ($ids: [ID!]!) { deleteSnapshots(input: {ids: $ids}) { acceptedCount } }"
CHANGES = "subscription ($id: ID!) { snapshotChanged(machineId: $id) { kind deletedSnapshotId } }"

TRANSPORTS = ("http", "websocket")


@asynccontextmanager
async def connected(gateway: Served, transport: str) -> AsyncIterator[AsyncClientSession]:
    """A session that validates documents against the introspected schema."""
    url = f"{gateway.url}/graphql"
    by: Any = (
        HTTPXAsyncTransport(url, timeout=30)
        if transport == "http"
        else WebsocketsTransport(url.replace("http", "ws", 1), connect_args={"proxy": None})
    )
    async with Client(transport=by, fetch_schema_from_transport=True, execute_timeout=30) as session:
        yield session


def ask(document: str, **variables: Any) -> GraphQLRequest:
    return GraphQLRequest(document, variable_values=variables)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_queries_mutations_and_errors(gateway: Served, transport: str) -> None:
    async def scenario() -> None:
        async with connected(gateway, transport) as session:
            found = await session.execute(ask(SNAPSHOTS, id=VM))
            nodes = [{"id": "snapshot-5"}, {"id": "snapshot-4"}, {"id": "snapshot-3"}]
            assert found == {"vm": {"name": "web-01", "snapshots": {"totalCount": 3, "nodes": nodes}}}

            made = await session.execute(ask(CREATE, input={"machineId": VM, "name": "by gql"}))
            assert (made["createSnapshot"]["snapshot"]["name"], made["createSnapshot"]["errors"]) == ("by gql", [])
            refused = await session.execute(ask(CREATE, input={"machineId": VM, "name": " "}))
            refusal = {"code": "INVALID", "path": ["input", "name"]}
            assert refused == {"createSnapshot": {"snapshot": None, "operation": None, "errors": [refusal]}}

            with pytest.raises(GraphQLError, match="Cannot query field 'nmae' on type 'Vm'"):
                await session.execute(
                    ask('{ vm(id: "vm-11") { nmae } }')
                )  # found by the client, with the introspected schema
            with pytest.raises(TransportQueryError) as raised:
                await session.execute(ask('{ vm(id: "eleven") { name } __typename }'))
            (error,) = raised.value.errors or []
            assert (error["path"], error["extensions"]["code"]) == (["vm"], "BAD_USER_INPUT")
            assert raised.value.data == {"vm": None, "__typename": "Query"}

    asyncio.run(scenario())


def test_request_error_of_the_gateway(gateway: Served) -> None:
    async def scenario() -> None:
        async with Client(transport=HTTPXAsyncTransport(f"{gateway.url}/graphql", timeout=30)) as session:
            with pytest.raises(TransportQueryError) as raised:
                await session.execute(ask('{ vm(id: "vm-11") { nmae } }'))
            (error,) = raised.value.errors or []
            assert error["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}

    asyncio.run(scenario())


def test_operation_is_followed_until_it_is_complete(gateway: Served) -> None:
    async def scenario() -> None:
        async with connected(gateway, "websocket") as session:
            made = (await session.execute(ask(CREATE, input={"machineId": VM, "name": "subscribed"})))["createSnapshot"]
            updates = [
                update["operationUpdated"]
                async for update in session.subscribe(ask(FOLLOW, id=made["operation"]["id"]))
            ]
            assert updates[-1] == {
                "id": made["operation"]["id"],
                "state": "SUCCEEDED",
                "isDone": True,
                "snapshotId": made["snapshot"]["id"],
            }
            assert [update["isDone"] for update in updates].count(True) == 1

    asyncio.run(scenario())


def test_closing_a_subscription_does_not_affect_other_operations(gateway: Served) -> None:
    async def scenario() -> None:
        async with connected(gateway, "websocket") as session:
            changes = session.subscribe(ask(CHANGES, id=VM))
            coming = asyncio.ensure_future(anext(changes))
            for _ in range(2):  # the subscription is sent during the first query and has started before the second
                await session.execute(ask("{ __typename }"))
            await session.execute(ask(DELETE, ids=["snapshot-5"]))
            change = (await coming)["snapshotChanged"]
            async with asyncio.timeout(PATIENCE):
                while change["kind"] != "DELETED":
                    change = (await anext(changes))["snapshotChanged"]
            assert change == {"kind": "DELETED", "deletedSnapshotId": "snapshot-5"}
            await changes.aclose()
            found = await session.execute(ask(SNAPSHOTS, id=VM))
            assert found["vm"]["snapshots"]["totalCount"] == 2

    asyncio.run(scenario())
