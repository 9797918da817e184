"""Differential test: for random queries, compiled responses equal those of graphql-core.

Random queries select from the schema of the gateway, and from one that has every kind of source (`declared_sources`).
"""

from collections.abc import Iterator

import orjson
import pytest
from graphql import GraphQLSchema, parse, validate

from gateway.access.caller import local_caller
from gateway.access.origin import RequestOrigin
from gateway.changes.change_feed import ChangeFeed
from gateway.config import Settings
from gateway.graphql.execution.executor import GraphQLExecutor
from gateway.graphql.requests import GraphQLRequest
from gateway.graphql.schema.build import executable_schema
from gateway.http.load_shedding import LoopTurns
from gateway.models import Surface
from gateway.operations.audit_refusals import RefusalLog
from gateway.operations.service import Operations
from tests.databases import SLOW_KINDS, Databases
from tests.examples import EXAMPLES, SEED
from tests.reads.declared_sources import declared_schema
from tests.reads.queries import Queries
from tests.reads.world import World, ids, populate
from tests.serving import Served, served

QUERIES = 3 * EXAMPLES

SCHEMAS = {"gateway": executable_schema(), "declared sources": declared_schema()}


@pytest.fixture(scope="module", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[tuple[Served, World]]:
    """The rows of a World, of which machines that are gone are not cleared away."""
    with served(Settings(database_url=databases.new(request.param), keep_gone=1e9)) as gateway:
        yield gateway, populate(gateway)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_compiled_responses_equal_those_of_graphql_core(gateway: tuple[Served, World], schema: GraphQLSchema) -> None:
    served_gateway, world = gateway
    database = served_gateway.gateway.database
    refusals = RefusalLog(database, "default")
    operations = Operations(database, {}, Settings(), wake=lambda: None, refusals=refusals)
    compiled, executed = (
        GraphQLExecutor(database, operations, ChangeFeed(database), LoopTurns(), compiled=choice, schema=schema)
        for choice in (True, False)
    )
    caller, origin = local_caller("default"), RequestOrigin(Surface.GRAPHQL)
    queries = Queries(schema, [*ids(world.machines), *ids(world.snapshots)[:20]], SEED)
    valid = failed = 0

    async def compare() -> None:
        nonlocal valid, failed
        for number in range(QUERIES):
            query, variables = queries.next()
            if validate(schema, parse(query)):
                continue  # it has fields that cannot be merged, which only the validator finds
            request = GraphQLRequest(query, None, variables)
            left, right = [await left.execute(request, caller, origin) for left in (compiled, executed)]
            context = f"seed {SEED}, query {number}:\n{query}\n{orjson.dumps(variables).decode()}"
            assert orjson.loads(left.body) == orjson.loads(right.body), context
            assert left.ran == right.ran, context
            assert b"INTERNAL_SERVER_ERROR" not in left.body, context
            valid += 1
            failed += b'"errors"' in left.body

    served_gateway.run(compare(), 600)
    print(f"{database.dialect}: seed {SEED}, {valid} queries compared, {failed} of them with errors")
    assert valid > QUERIES // 3
    assert 0 < failed < valid
