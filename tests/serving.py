"""Runs a gateway with uvicorn on a free loopback port, in a thread of the test process."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import uvicorn

from gateway.app import Gateway, running_gateway
from gateway.config import Settings


class Served:
    """A running gateway and a client for it."""

    def __init__(self, url: str, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self.gateway = gateway
        self.http = httpx2.Client(base_url=url, timeout=30)
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
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    last = httpx2.Response(200, content=line.removeprefix("data: ")).json()
        operation: dict[str, Any] = last["data"]["operationUpdated"]
        assert operation["isDone"], operation
        return operation

    def run(self, work: Any, timeout: float = 30) -> Any:
        """Runs a coroutine on the event loop of the gateway."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    @property
    def statements(self) -> int:
        """The number of statements sent to the database."""
        return self.gateway.database.statement_count


@contextmanager
def served(settings: Settings, *, demo: bool = False, refreshes: bool = True) -> Iterator[Served]:
    """Runs a gateway while the block runs."""
    ready = threading.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        with socket.socket(proto=socket.IPPROTO_TCP) as listening:
            listening.bind(("127.0.0.1", 0))
            async with running_gateway(settings, demo=demo, refreshes=refreshes) as gateway:
                config = uvicorn.Config(
                    gateway.app, http="httptools", ws="websockets-sansio", lifespan="off", log_config=None
                )
                server = uvicorn.Server(config)
                found["server"], found["loop"] = server, asyncio.get_running_loop()
                # `serve` would install signal handlers, which only the main thread can.
                serving = asyncio.create_task(server._serve([listening]))
                while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.005)
                port = listening.getsockname()[1]
                found["served"] = Served(f"http://127.0.0.1:{port}", gateway, asyncio.get_running_loop())
                stop = found["stop"] = asyncio.Event()
                ready.set()
                await stop.wait()
                await gateway.streams.close()
                server.should_exit = True
                await serving

    def target() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the test
            found["error"] = error
        finally:
            ready.set()

    thread = threading.Thread(target=target, name="gateway")
    thread.start()
    ready.wait(30)
    try:
        if "error" in found:
            raise found["error"]
        yield found["served"]
    finally:
        if "stop" in found:
            found["served"].http.close()
            found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(30)
    if "error" in found:
        raise found["error"]
