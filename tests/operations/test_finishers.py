"""Mutations give the same responses and rows with the compiled finisher as with graphql-core."""

from typing import Any

import orjson
import pytest

from gateway.access.caller import Caller
from gateway.changes.change_feed import ChangeFeed
from gateway.graphql.execution.executor import GraphQLExecutor
from gateway.graphql.requests import GraphQLRequest
from gateway.http.load_shedding import LoopTurns
from tests.databases import SLOW_KINDS, Databases
from tests.operations.world import ORIGIN, World, play

F = "... on Snapshot { id name state parent { name } capability(action: DELETE) { action supported reason } }"
M = """... on Machine { __typename id name ... on Vm { host } capability(action: CREATE) { supported reason }
    snapshots(first: 0) { totalCount totalBytes unknownSizeCount } }"""
PAYLOAD = (
    f"operation {{ id kind state snapshotId }} snapshot {{ {F} }} errors {{ code message path conflict {{ id }} }}"
)

# Each starts from the state that the previous one left. At first vm-1 has a <- b <- c and a <- d.
DOCUMENTS = (
    f'mutation {{ made: createSnapshot(input: {{machineId: "vm-1", name: "x"}}) {{ __typename {PAYLOAD} }} }}',
    f'mutation {{ __typename createSnapshot(input: {{machineId: "vm-9", name: "x"}}) {{ {PAYLOAD} }} }}',
    f"""mutation ($input: CreateSnapshotInput!) {{
        one: createSnapshot(input: $input) {{ snapshot {{ id }} other: snapshot {{ name }} machine {{ {M} }} }}
        two: createSnapshot(input: $input) {{ errors {{ code }} snapshotEdge {{ node {{ {F} }} }}
            machine {{ snapshots(first: 3, sort: [{{field: ID}}]) {{ totalCount nodes {{ {F} }} }} }} }} }}""",
    """mutation {
        one: createSnapshot(input: {machineId: "vm-1", name: "kept"}) { snapshot { id } }
        two: createSnapshot(input: {machineId: "vm-1", name: "never"})
            { machine { snapshots(first: -1) { totalCount } } }
        three: createSnapshot(input: {machineId: "vm-1", name: "neither"}) { snapshot { id } } }""",
    f"""mutation {{ createSnapshots(input: {{machineIds: ["vm-1", "x", "vm-2"], name: "z"}})
        {{ acceptedCount results {{ machineId {PAYLOAD} }} }} }}""",
    'mutation { createSnapshot(input: {machineId: "vm-1", name: " "}) { errors { code path } operation { id } } }',
    f'mutation {{ revertVmSnapshot(input: {{snapshotId: "snapshot-1"}}) {{ vm {{ {M} }} {PAYLOAD} }} }}',
    f"""mutation {{ deleteSnapshots(
        input: {{ids: ["snapshot-2", "snapshot-99", "nonsense"], withDescendants: true}})
        {{ acceptedCount refusedCount errors {{ code }} results {{ snapshotId isDescendant {PAYLOAD} }} }} }}""",
    'mutation { deleteSnapshots(input: {ids: ["snapshot-2"]}) { results { operation { id } errors { message } } } }',
    f"""mutation {{ refreshMachine(input: {{machineId: "vm-1"}})
        {{ operation {{ id isDone @skip(if: true) }} machine {{ {M} }} }} }}""",
    'mutation { cancelOperation(input: {operationId: "operation-1"}) { operation { state isDone } } }',
)
VARIABLES = {"input": {"machineId": "vm-1", "name": "y", "description": None}}


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_both_finishers_give_the_same_responses_and_rows(databases: Databases, kind: str) -> None:
    stories = []
    for compiled in (True, False):
        results: list[Any] = []

        async def story(world: World, compiled: bool = compiled, results: list[Any] = results) -> None:
            await world.tree()
            await world.machine("m2")
            executor = GraphQLExecutor(
                world.database, world.operations, ChangeFeed(world.database), LoopTurns(), compiled=compiled
            )
            for document in DOCUMENTS:
                response = await executor.execute(GraphQLRequest(document, variables=VARIABLES), world.caller, ORIGIN)
                results.append((document, orjson.loads(response.body), await world.picture(), await world.states()))

        play(databases.new(kind), story)
        stories.append(results)
    assert stories[0] == stories[1]
    answers: list[Any] = [answer for _, answer, _, _ in stories[0]]
    assert [place for place, answer in enumerate(answers) if "errors" in answer] == [3]
    assert answers[3]["data"] is None
    names = [name for name, *_ in stories[0][3][2]]
    assert "kept" in names
    assert not {"never", "neither"} & set(names)


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_replay_is_limited_to_what_the_caller_may_see_now(databases: Databases, kind: str) -> None:
    document = """mutation { createSnapshot(input: {machineId: "vm-1", name: "x", idempotencyKey: "k"})
        { operation { id } snapshot { id } machine { id } errors { code } } }"""

    async def story(world: World) -> None:
        await world.machine()
        executor = GraphQLExecutor(world.database, world.operations, ChangeFeed(world.database), LoopTurns())
        bound = Caller(world.caller.name, "default", (), frozenset())
        answers = [
            orjson.loads((await executor.execute(GraphQLRequest(document), caller, ORIGIN)).body)["data"][
                "createSnapshot"
            ]
            for caller in (world.caller, bound, world.caller)
        ]
        made = {"operation": {"id": "operation-1"}, "snapshot": {"id": "snapshot-1"}, "machine": {"id": "vm-1"}}
        nothing = dict.fromkeys(made)
        assert answers == [{**made, "errors": []}, {**nothing, "errors": []}, {**made, "errors": []}]

    play(databases.new(kind), story)
