"""One caller does not degrade another: half-sent requests, slow reads, and many subscriptions of one caller."""

import asyncio
import gc
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import httpx2
import psycopg
import pytest
from websockets.sync.client import connect

from gateway.access.roles import Roles
from gateway.access.tokens import NewToken, create_token
from gateway.config import Settings
from gateway.fair_queue import CLAIM, Claim
from gateway.http.request_id import REQUEST_ID
from gateway.store.database_url import open_database
from tests.access.clients import bearer
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.client import CREATE, await_running, execute_sql, mutate, stalled
from tests.graphql.subscription_clients import subscribe_by_sse
from tests.serving import Served, http_client, served, without_refreshes
from tests.waiting import until, until_async

VM = {"query": '{ vm(id: "vm-11") { name } }'}
VM_ANSWER = {"data": {"vm": {"name": "web-01"}}}
SLOW = {"query": "{ snapshots(first: 1) { nodes { name } } }"}  # waits for the lock on the table `snapshot`
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
MUTATION = (
    'mutation { createSnapshot(input: {machineId: "vm-11", name: "decided"}) { snapshot { name } errors { code } } }'
)
SHARE = "Your requests use your share of the database: 2 are running and {} are waiting. Retry when some have finished."


def send(gateway: Served, headers: dict[str, str], body: bytes, length: int | None = None) -> socket.socket:
    """Sends a request to `/graphql` on a connection of its own, and does not wait for the response."""
    lines = ["POST /graphql HTTP/1.1", "host: localhost", "content-type: application/json"]
    lines += [f"content-length: {len(body) if length is None else length}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    connection = socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), 30)
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection


def receive(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """The status, headers and body of the response."""
    received = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, json.loads(body)


def test_half_sent_requests_do_not_count_as_load(databases: Databases) -> None:
    """40 bodies that do not arrive, with a limit that any measurable load exceeds."""
    settings = Settings(database_url=databases.new("sqlite", demo=True), longest_wait=1e-9)
    with served(settings) as gateway, ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(send(gateway, {}, b"", length=100))
        # The gateway has read those requests when it has read one that was sent later.
        answers = [gateway.http.post("/graphql", json=VM) for _ in range(40)]
        assert [(answer.status_code, answer.json()) for answer in answers] == [(200, VM_ANSWER)] * 40


class Callers:
    """A gateway on PostgreSQL with two callers, and a lock for which reads of snapshots wait."""

    def __init__(self, gateway: Served, url: str, slow: dict[str, str], other: dict[str, str]) -> None:
        self.gateway = gateway
        self.url = url
        self.slow = slow
        self.other = other

    def ask(self, http: httpx2.Client) -> tuple[int, Any]:
        answer = http.post("/graphql", json=VM, headers=self.other)
        return answer.status_code, answer.json()

    def waiting(self) -> int:
        async def look() -> int:
            return self.gateway.gateway.database.load["read"].waiting

        return self.gateway.run(look())

    def blocked(self) -> int:
        with psycopg.connect(self.url) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).fetchone()
        assert found is not None
        number: int = found[0]
        return number


@contextmanager
def callers(databases: Databases, **changes: Any) -> Iterator[Callers]:
    url = databases.new("postgresql", demo=True)
    with served(Settings(database_url=url, **changes), jobs=without_refreshes) as gateway:
        slow, other = (
            gateway.run(create_token(gateway.gateway.database, Roles({}), NewToken(name, ["viewer"], "default")))
            for name in ("slow", "other")
        )
        yield Callers(gateway, url, bearer(slow), bearer(other))


def test_slow_reads_of_one_caller_leave_connections_for_others(databases: Databases) -> None:
    """Also for the log-in of a caller that is not known yet, and for health checks."""
    with callers(databases, database_wait=60) as world, psycopg.connect(world.url) as blocking, ExitStack() as stack:
        gateway = world.gateway
        blocking.execute("LOCK TABLE snapshot IN ACCESS EXCLUSIVE MODE")
        slow = [stack.enter_context(send(gateway, world.slow, json.dumps(SLOW).encode())) for _ in range(8)]
        until(lambda: world.waiting() == 6)
        with http_client(gateway.url) as http:
            assert [world.ask(http) for _ in range(5)] == [(200, VM_ANSWER)] * 5
            assert http.get("/readyz").status_code == 200
            assert http.get("/api", headers=world.other).status_code == 200
        blocking.rollback()
        answers = [receive(connection) for connection in slow]
        assert [(status, "data" in body and "errors" not in body) for status, _, body in answers] == [(200, True)] * 8


def test_few_long_new_documents_of_a_caller_are_in_memory(databases: Databases) -> None:
    """Four: two that read the database and two that wait for it. The others wait before they are parsed."""
    with callers(databases, database_wait=60) as world, psycopg.connect(world.url) as blocking, ExitStack() as stack:
        blocking.execute("LOCK TABLE snapshot IN ACCESS EXCLUSIVE MODE")
        slow = []
        for number in range(8):
            query = f"{SLOW['query']} # {number}".ljust(1_000)
            slow.append(stack.enter_context(send(world.gateway, world.slow, json.dumps({"query": query}).encode())))
        until(lambda: world.waiting() == 2)
        with http_client(world.gateway.url) as http:
            other = http.post("/graphql", json={"query": VM["query"].ljust(1_000)}, headers=world.other)
            assert (other.status_code, other.json()) == (200, VM_ANSWER)
        until(lambda: world.blocked() == 2)
        assert world.waiting() == 2
        blocking.rollback()
        answers = [receive(connection) for connection in slow]
        assert [(status, "data" in body and "errors" not in body) for status, _, body in answers] == [(200, True)] * 8


@pytest.mark.thorough  # waits for real timeouts, which are long enough for opening connections
def test_a_caller_that_exceeds_its_share_for_too_long_is_refused(databases: Databases) -> None:
    """In the error format of each surface, with `Retry-After`. Other callers are not."""
    with (
        callers(databases, database_wait=2.0) as world,
        psycopg.connect(world.url) as blocking,
        ExitStack() as stack,
    ):
        gateway = world.gateway
        blocking.execute("LOCK TABLE snapshot IN ACCESS EXCLUSIVE MODE")
        slow = [stack.enter_context(send(gateway, world.slow, json.dumps(SLOW).encode())) for _ in range(2)]
        until(lambda: world.blocked() == 2)
        refused = receive(stack.enter_context(send(gateway, world.slow, json.dumps(VM).encode())))
        assert (refused[0], refused[1]["retry-after"]) == (429, "1")
        assert refused[2] == {
            "errors": [{"message": SHARE.format(0), "extensions": {"code": "LIMIT_EXCEEDED", "retryable": True}}]
        }
        rest = gateway.http.get("/api/vms/11", headers=world.slow)
        assert (rest.status_code, rest.headers["retry-after"]) == (429, "1")
        assert rest.json()["error"] == {
            "kind": "too_many_requests",
            "message": SHARE.format(0),
            "klass": "Api::TooManyRequestsError",
        }
        assert websocket_errors(gateway, world.slow) == refused[2]["errors"]
        assert world.ask(gateway.http) == (200, VM_ANSWER)
        blocking.rollback()
        assert [receive(connection)[0] for connection in slow] == [200, 200]


def websocket_errors(gateway: Served, headers: dict[str, str]) -> Any:
    """The errors of a query over WebSocket."""
    url = gateway.url.replace("http://", "ws://") + "/graphql"
    options: Any = {"subprotocols": ["graphql-transport-ws"], "proxy": None, "additional_headers": headers}
    with connect(url, **options) as opened:
        opened.send('{"type": "connection_init"}')
        assert json.loads(opened.recv(60)) == {"type": "connection_ack"}
        opened.send(json.dumps({"id": "1", "type": "subscribe", "payload": VM}))
        message = json.loads(opened.recv(60))
        assert (message["id"], message["type"]) == ("1", "error")
        return message["payload"]


def test_slow_reads_of_one_caller_leave_threads_for_others(databases: Databases) -> None:
    """The same on SQLite, with reads that take longer than the event loop allows."""
    settings = Settings(database_url=databases.new("sqlite", demo=True), database_wait=0.5)
    with served(settings, jobs=without_refreshes) as gateway:
        database = gateway.gateway.database

        async def read(claim: Claim | None, sql: str) -> Any:
            CLAIM.set(claim)
            return await database.read(lambda tx: tx.rows(sql), single=True)

        async def story() -> list[str]:
            long = ENDLESS.replace("FROM n)", "FROM n WHERE i < 100000)")
            endless = [asyncio.create_task(read(Claim("slow"), ENDLESS)) for _ in range(8)]
            await until_async(lambda: database.load["read"].waiting == 6)
            assert database.load["read"] == (2, 6)
            assert [list(row) for row in await read(Claim("other"), long)] == [[100_000]]
            assert [list(row) for row in await read(None, long)] == [[100_000]]
            outcomes = await asyncio.gather(*endless[2:], return_exceptions=True)
            for task in endless[:2]:
                task.cancel()
            await asyncio.gather(*endless[:2], return_exceptions=True)
            return [str(outcome) for outcome in outcomes]

        refused = gateway.run(story())
        assert sorted(refused) == [SHARE.format(number) for number in sorted(range(6), key=str)]


def test_the_error_of_a_canceled_read_is_not_logged(databases: Databases) -> None:
    """asyncio reports exceptions that nothing has read. On SQLite, the thread of a canceled read raises one."""
    reported: list[Any] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        CLAIM.set(Claim("a"))
        database = open_database(databases.new("sqlite"), read_connections=1, write_connections=1, read_timeout=600)
        began = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def endless(tx: Any) -> Any:
            loop.call_soon_threadsafe(began.set)
            return await tx.rows(ENDLESS)

        reading = asyncio.create_task(database.read(endless, single=True))
        await began.wait()
        await until_async(lambda: database.load["read"].running == 1)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await until_async(lambda: database.load["read"].running == 0)
        await database.close()

    asyncio.run(story())
    gc.collect()
    assert reported == []


def test_the_payload_of_a_mutation_is_never_refused(databases: Databases) -> None:
    """It waits until the caller has a connection again, however full the queue is: the mutation is decided."""
    with callers(databases, database_queue=1) as world:
        gateway = world.gateway
        database = gateway.gateway.database

        async def hold() -> None:
            CLAIM.set(Claim(f"token:{number}"))
            await database.read(lambda tx: tx.rows("SELECT pg_sleep(600)"), single=True)

        token = gateway.run(create_token(database, Roles({}), NewToken("writer", ["operator"], "default")))
        ((number,),) = gateway.run(database.read(lambda tx: tx.rows("SELECT max(id) FROM api_token"), single=True))
        slow = [gateway.submit(hold()) for _ in range(3)]
        until(lambda: world.waiting() == 1)
        assert gateway.http.post("/graphql", json=VM, headers=bearer(token)).status_code == 429
        body = json.dumps({"query": MUTATION}).encode()
        with send(gateway, bearer(token), body) as connection:
            until(lambda: world.waiting() == 2)
            for reading in slow:
                reading.cancel()
            status, _, answer = receive(connection)
        assert (status, answer) == (200, {"data": {"createSnapshot": {"snapshot": {"name": "decided"}, "errors": []}}})


@pytest.mark.parametrize(("parameters", "threads"), [(100, ["loop"]), (101, ["loop", "read"])])
def test_a_statement_with_many_parameters_is_compiled_in_a_thread(
    databases: Databases, parameters: int, threads: list[str]
) -> None:
    """On SQLite, which takes up to a second to compile one, and cannot be interrupted meanwhile.

    Not only pages have such statements: each subscription compiles its filter.
    """
    terms = " AND ".join(f"name > ?{number}" for number in range(1, parameters + 1))
    seen: list[str] = []

    async def story() -> None:
        loop = threading.current_thread()
        database = open_database(databases.new("sqlite"), read_connections=1, write_connections=1, read_timeout=600)

        async def work(tx: Any) -> Any:
            seen.append("loop" if threading.current_thread() is loop else "read")
            return await tx.rows(f"SELECT id FROM machine WHERE {terms}", ["x"] * parameters)

        assert await database.read(work, single=True) == []
        await database.close()

    asyncio.run(story())
    assert seen == threads


# ---- turns on the event loop

ADDRESS = "address 127.0.0.1"
CORS = "http://app.example"
PREFLIGHT = {"origin": CORS, "access-control-request-method": "POST"}
JSON = {"content-type": "application/json"}


class Sent(NamedTuple):
    """A request, the status of its response, and whether it is sent with a credential that was verified before."""

    status: int
    method: str
    path: str
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    body: str = ""
    known: bool = False


UNKNOWN = [
    *(Sent(200, "GET", path) for path in ("/", "/schema.graphql")),
    *(Sent(404, "GET", path) for path in ("/nothing", "/graphql/nothing", "/graphiql/assets/nothing.js")),
    Sent(421, "GET", "/nothing", {"host": "evil.example"}),
    Sent(403, "POST", "/graphql", {"origin": "http://evil.example"}),
    Sent(200, "OPTIONS", "/graphql", PREFLIGHT),
    Sent(400, "OPTIONS", "/graphql", {**PREFLIGHT, "access-control-request-method": "PATCH"}),
    Sent(401, "GET", "/graphql?query=x"),
    Sent(401, "GET", "/api/vms"),
    Sent(401, "GET", "/api/vms", {"authorization": "Bearer unknown"}),
    Sent(401, "GET", "/api/vms", {"authorization": "unknown"}),
]
KNOWN = [
    Sent(404, "GET", "/graphql/nothing"),
    *(Sent(400, "GET", path) for path in ("/api/nothing", "/api/vms?limit=x")),
    Sent(400, "POST", "/graphql", JSON, "x"),
    Sent(400, "POST", "/api/vms/11/snapshots", JSON, "x"),
    Sent(403, "POST", "/api/vms/11/snapshots", JSON, '{"name": "x"}'),
    Sent(405, "DELETE", "/graphql"),
    Sent(406, "GET", "/graphql?query=x", {"accept": "image/png"}),
    Sent(413, "POST", "/graphql", JSON, "x" * 2_000),
    Sent(414, "GET", f"/graphql?query={'x' * 33_000}"),
    Sent(415, "POST", "/graphql", {}, "x"),
    Sent(204, "OPTIONS", "/graphql"),
    Sent(303, "GET", "/graphql", {"accept": "text/html"}),
    Sent(200, "GET", "/api/vms/11"),
]
REQUESTS = [*UNKNOWN, *(sent._replace(known=True) for sent in KNOWN)]


class TurnsRecorder:
    """A gateway with a viewer that is known, and the callers whose turns were taken."""

    def __init__(self, gateway: Served, patch: pytest.MonkeyPatch) -> None:
        self.http = gateway.http
        database, turns = gateway.gateway.database, gateway.gateway.turns
        token = gateway.run(create_token(database, Roles({}), NewToken("viewer", ["viewer"], "default")))
        self.headers = bearer(token)
        assert self.http.get("/api", headers=self.headers).status_code == 200
        self.taken: list[str] = []
        arrive, take = turns.arrive, turns.take

        async def recorded_arrive(claim: Claim) -> None:
            self.taken.append(claim.caller)
            await arrive(claim)

        async def recorded_take(claim: Claim | None = None) -> None:
            if claim is not None:  # otherwise the turn of the caller that is known by then
                self.taken.append(claim.caller)
            await take(claim)

        patch.setattr(turns, "arrive", recorded_arrive)
        patch.setattr(turns, "take", recorded_take)

    def send(self, sent: Sent) -> tuple[int, list[str]]:
        """The status of the response, and whose turns the request has taken."""
        self.taken.clear()
        headers = {**sent.headers, **(self.headers if sent.known else {})}
        response = self.http.request(sent.method, sent.path, headers=headers, content=sent.body)
        return response.status_code, list(dict.fromkeys(self.taken))


def test_every_request_takes_a_turn_of_its_client(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is refused, or answered from memory. Only the first health check of an address takes none."""
    settings = Settings(
        database_url=databases.new("sqlite", demo=True),
        max_body_bytes=1_000,
        cors_origins=(CORS,),
        caller_quota=100,
        caller_window=600_000.0,
    )
    with served(settings, jobs=without_refreshes) as gateway:
        recorder = TurnsRecorder(gateway, monkeypatch)
        (caller,) = set(recorder.send(Sent(200, "GET", "/api", known=True))[1])
        for sent in REQUESTS:
            assert (sent, recorder.send(sent)) == (sent, (sent.status, [caller if sent.known else ADDRESS]))
        limited = Sent(429, "GET", "/api/vms/11", known=True)
        answers = [recorder.send(limited) for _ in range(100)]
        assert {taken for _, (taken,) in answers} == {caller}
        assert answers[-1][0] == 429
        assert recorder.send(Sent(200, "GET", "/healthz")) == (200, [])
        assert "address" not in caller


# ---- subscriptions

SUBSCRIBERS = 20
RENAMED = "UPDATE snapshot SET name = '{}' WHERE id = (SELECT min(id) FROM snapshot WHERE machine_id = 11)"
CHANGES = {
    "snapshotChanged": "subscription { snapshotChanged { kind snapshot { name } } }",
    "machineChanged": 'subscription { machineChanged(filter: {name: {like: "*"}}) { kind machine { name } } }',
}


@pytest.fixture(scope="module", params=SLOW_KINDS)
def quiet(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """A gateway in which nothing changes by itself."""
    with served(Settings(database_url=databases.new(request.param, demo=True)), jobs=without_refreshes) as gateway:
        yield gateway


@contextmanager
def counted_reads(gateway: Served, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The request ids of the reads while the block runs; `-` for those of no request."""
    database, found = gateway.gateway.database, []
    read = database.read

    async def counting_read(work: Any, *, single: bool = False) -> Any:
        found.append(REQUEST_ID.get())
        return await read(work, single=single)

    with patch.context() as patched:
        patched.setattr(database, "read", counting_read)
        yield found


@pytest.mark.parametrize("field", CHANGES)
def test_equal_subscriptions_share_their_reads(quiet: Served, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 equal subscriptions and one that differs: two reads for a change, and every subscriber is sent the message."""
    other = CHANGES[field].replace("{ kind", "{ kind __typename")
    with ExitStack() as stack:
        queries = [CHANGES[field]] * SUBSCRIBERS + [other]
        opened = [
            stack.enter_context(subscribe_by_sse(quiet, query, headers={"x-request-id": f"{field}-{number}"}))
            for number, query in enumerate(queries)
        ]
        execute_sql(quiet, changing(field, "zeroth"))
        assert [names(next(bodies)) for bodies in opened] == ["zeroth"] * len(opened)
        with counted_reads(quiet, monkeypatch) as reads:
            execute_sql(quiet, changing(field, "first"))
            messages = [next(bodies) for bodies in opened]
        assert len({json.dumps(message) for message in messages[:SUBSCRIBERS]}) == 1
        assert messages[0]["data"][field]["kind"] == "UPDATED"
        assert messages[-1]["data"][field]["__typename"]
        assert sum(id_.startswith(field) for id_ in reads) == 2
        execute_sql(quiet, changing(field, "second"))
        again = [next(bodies) for bodies in opened]
        assert [names(message) for message in again] == ["second"] * len(opened)


def changing(field: str, name: str) -> str:
    if field == "machineChanged":
        return f"UPDATE machine SET name = '{name}', name_folded = '{name}' WHERE id = 11"
    return RENAMED.format(name)


def names(message: Any) -> str:
    (change,) = message["data"].values()
    found: str = (change.get("machine") or change.get("snapshot"))["name"]
    return found


def test_a_subscriber_that_joins_later_is_sent_the_present_state(quiet: Served) -> None:
    """`operationUpdated` begins with the state at the time of the subscription, whatever others were sent before."""
    query = "subscription ($id: ID!) { operationUpdated(id: $id) { phase } }"
    with stalled(quiet, "vm-12"):
        operation = mutate(quiet, CREATE, machineId="vm-12", name="one")["operation"]["id"]
        await_running(quiet, operation)
        change = f"UPDATE operation SET phase = '{{}}' WHERE id = {operation.removeprefix('operation-')}"
        with ExitStack() as stack:
            opened: list[Iterator[Any]] = []
            for name in ("one", "two", "three"):
                execute_sql(quiet, change.format(name))
                for bodies in opened:
                    until(lambda: next(bodies)["data"]["operationUpdated"] == {"phase": name})  # noqa: B023
                opened.append(stack.enter_context(subscribe_by_sse(quiet, query, id=operation)))
                assert next(opened[-1])["data"]["operationUpdated"] == {"phase": name}
