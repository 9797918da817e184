"""Two finishers, one meaning: the compiled answer to a query is what graphql-core makes of the same query."""

import os
from collections.abc import Iterator

import orjson
import pytest
from graphql import parse, validate

from gateway.access.caller import local_caller
from gateway.access.origin import RequestOrigin
from gateway.changes.change_feed import ChangeFeed
from gateway.config import Settings
from gateway.graphql.execution.executor import GraphQLExecutor
from gateway.graphql.requests import GraphQLRequest
from gateway.graphql.schema.build import build_schema, executable
from gateway.models import Surface
from gateway.operations.audit_refusals import RefusalLog
from gateway.operations.service import Operations
from tests.databases import SLOW_KINDS, Databases
from tests.reads.queries import Queries
from tests.reads.world import World, ids, planted
from tests.serving import Served, served

EXAMPLES = 5 * int(os.environ.get("GATEWAY_TEST_EXAMPLES", "20"))
SEED = int(os.environ.get("GATEWAY_TEST_SEED", "1"))

SCHEMA = executable(build_schema())


@pytest.fixture(scope="module", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[tuple[Served, World]]:
    with served(Settings(database_url=databases.new(request.param))) as gateway:
        yield gateway, planted(gateway)


def test_both_finishers_answer_alike(gateway: tuple[Served, World]) -> None:
    serving, world = gateway
    database = serving.gateway.database
    operations = Operations(database, {}, Settings(), lambda: None, RefusalLog(database, "default"))
    compiled, walked = (
        GraphQLExecutor(database, operations, ChangeFeed(database), compiled=choice) for choice in (True, False)
    )
    caller, origin = local_caller("default"), RequestOrigin(Surface.GRAPHQL)
    queries = Queries(SCHEMA, [*ids(world.machines), *ids(world.snapshots)[:20]], SEED)
    valid = failed = 0

    async def compare() -> None:
        nonlocal valid, failed
        for number in range(EXAMPLES):
            query, variables = queries.next()
            if validate(SCHEMA, parse(query)):
                continue  # fields that cannot be merged, which only the validator can tell
            request = GraphQLRequest(query, None, variables)
            one, other = [await one.execute(request, caller, origin) for one in (compiled, walked)]
            context = f"seed {SEED}, query {number}:\n{query}\n{orjson.dumps(variables).decode()}"
            assert orjson.loads(one.body) == orjson.loads(other.body), context
            assert one.ran == other.ran, context
            valid += 1
            failed += b'"errors"' in one.body

    serving.run(compare(), 600)
    print(f"{database.dialect}: seed {SEED}, {valid} queries compared, {failed} of them with errors")
    assert valid > EXAMPLES // 3
    assert 0 < failed < valid
