"""Runs a gateway with uvicorn on a free loopback port, in a thread of the test process."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpx2
import uvicorn

from gateway.app import Gateway, JobParts, periodic_jobs, running_gateway
from gateway.config import Settings
from gateway.graphql.transports.streams import OpenStreams
from gateway.jobs.periodic_job import PeriodicJob
from tests.waiting import PATIENCE, within

T = TypeVar("T")


def http_client(url: str, **options: Any) -> httpx2.Client:
    """A client of the server at `url`, which is not TLS. Reading certificates takes longer than many tests.

    It does not use a connection again that was idle for a second: the server could be closing it, with a reset.
    """
    limits = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=1.0)
    given = {"timeout": PATIENCE, "verify": False, "trust_env": False, "limits": limits}
    return httpx2.Client(base_url=url, **{**given, **options})


class Clock:
    """The monotonic clock, which tests can set forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


class Served:
    """A running gateway and a client for it. `clock` is that of its rate limits and cached credentials."""

    def __init__(self, url: str, gateway: Gateway, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.url = url
        self.gateway = gateway
        self.clock = clock
        self.http = http_client(url)
        self._loop = loop

    def post(self, query: str, variables: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        """The whole response body, including errors."""
        response = self.http.post("/graphql", json={"query": query, "variables": variables, **members})
        body: dict[str, Any] = response.json()
        return body

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a response, which must have no errors."""
        body = self.post(query, variables)
        assert "errors" not in body, body["errors"]
        data: dict[str, Any] = body["data"]
        return data

    def errors(self, query: str, **variables: Any) -> list[tuple[str, str]]:
        """The code and message of each top-level error."""
        return [(error["extensions"]["code"], error["message"]) for error in self.post(query, variables)["errors"]]

    def await_operation(self, id_: str) -> dict[str, Any]:
        """Subscribes to an operation until it is done. Returns its final state."""
        query = (
            "subscription ($id: ID!) { operationUpdated(id: $id)"
            " { id kind state isDone snapshotId error { code message retryable providerMessage } } }"
        )
        last: dict[str, Any] = {}
        headers = {"accept": "text/event-stream"}
        body = {"query": query, "variables": {"id": id_}}
        with self.http.stream("POST", "/graphql", json=body, headers=headers) as response:
            for line in within(response.iter_lines(), 240):
                if line.startswith("data: {"):
                    last = httpx2.Response(200, content=line.removeprefix("data: ")).json()
        operation: dict[str, Any] = last["data"]["operationUpdated"]
        assert operation["isDone"], operation
        return operation

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine on the event loop of the gateway."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], timeout: float = PATIENCE) -> T:
        """Runs a coroutine on the event loop of the gateway and returns its result."""
        return self.submit(work).result(timeout)

    @property
    def statements(self) -> int:
        """The number of statements sent to the database."""
        return self.gateway.database.statement_count


class Server(uvicorn.Server):
    """Stops at once. uvicorn's server pauses for 0.1 seconds several times, which adds up over hundreds of tests."""

    def __init__(self, config: uvicorn.Config, streams: OpenStreams, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._streams = streams
        self._on_started = on_started
        self._stopping = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop

    def stop(self) -> None:
        """Ends `serve`. May be called in any thread, also after it has ended."""
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._stopping.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_started()

    async def main_loop(self) -> None:
        await self.on_tick(0)  # sets the `Date` header
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._streams.close()
        for listening in self.servers:
            listening.close()
        connections, requests = self.server_state.connections, self.server_state.tasks
        for connection in list(connections):
            connection.shutdown()
        deadline = time.monotonic() + 20
        while connections or requests:
            assert time.monotonic() < deadline, (
                f"{len(connections)} connections and {len(requests)} requests did not end"
            )
            await asyncio.sleep(0.001)


def without_refreshes(parts: JobParts) -> list[PeriodicJob]:
    """The jobs of a gateway, except the refreshes of its providers."""
    return [job for job in periodic_jobs(parts) if not job.name.startswith("refresh:")]


@contextmanager
def served(
    settings: Settings, *, jobs: Callable[[JobParts], Sequence[PeriodicJob]] = periodic_jobs
) -> Iterator[Served]:
    """Runs a gateway with these jobs while the block runs."""
    started: Future[tuple[Gateway, Server]] = Future()
    ended: Future[None] = Future()
    clock = Clock()
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))

    async def serve() -> None:
        async with running_gateway(settings, clock=clock, jobs=jobs) as gateway:
            config = uvicorn.Config(
                gateway.app, http="httptools", ws="websockets-sansio", lifespan="off", log_config=None
            )
            server = Server(config, gateway.streams, lambda: started.set_result((gateway, server)))
            await server.serve([listening])

    def target() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the test
            ended.set_exception(error)
        else:
            ended.set_result(None)

    with listening:
        threading.Thread(target=target, name="gateway").start()
        either: list[Future[Any]] = [started, ended]
        wait(either, PATIENCE, FIRST_COMPLETED)
        if ended.done():
            ended.result()
        gateway, server = started.result(0)
        found = Served(f"http://127.0.0.1:{listening.getsockname()[1]}", gateway, server.loop, clock)
        try:
            yield found
        finally:
            found.http.close()
            server.stop()
            ended.result(60)
