"""Load shedding: requests with a long estimated wait are rejected at once; the others take turns on the event loop."""

import asyncio
import time
from itertools import pairwise
from typing import Any

import orjson

from gateway.http.load_shedding import LoadSheddingMiddleware
from tests.waiting import attempts

from .serving import FORMATS

SCOPE = {"type": "http", "path": "/graphql"}


async def send_request(middleware: LoadSheddingMiddleware, path: str = "/graphql") -> list[Any]:
    """The ASGI messages of the response."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    await middleware({**SCOPE, "path": path}, receive, send)
    return sent


class App:
    """An application that responds once `free` is set."""

    def __init__(self) -> None:
        self.free = asyncio.Event()

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        await self.free.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_request_whose_estimated_wait_is_too_long_is_rejected() -> None:
    """The estimate is based on the measured response rate. Up to 32 requests in flight are always admitted."""

    async def story() -> None:
        app, clock = App(), Clock()
        middleware = LoadSheddingMiddleware(app, 1.0, FORMATS, clock)

        async def begin(number: int) -> "list[asyncio.Task[list[Any]]]":
            tasks = [asyncio.create_task(send_request(middleware)) for _ in range(number)]
            await asyncio.sleep(0)
            return tasks

        async def end(*tasks: "asyncio.Task[list[Any]]") -> None:
            app.free.set()
            assert {sent[0]["status"] for sent in await asyncio.gather(*tasks)} == {200}
            app.free.clear()

        many = await begin(40)
        clock.now += 4  # without any response
        start, body = await send_request(middleware)
        assert start["status"] == 503
        assert (b"retry-after", b"1") in start["headers"]
        assert orjson.loads(body["body"])["errors"][0]["extensions"] == {
            "code": "SERVICE_UNAVAILABLE",
            "retryable": True,
        }
        health = asyncio.create_task(send_request(middleware, "/healthz"))
        await end(health, *many)
        few = await begin(32)  # at the measured rate, a 33rd request would wait for more than 1 s
        assert (await send_request(middleware))[0]["status"] == 503
        await end(*few)
        await end(*await begin(32))

    asyncio.run(story())


def test_the_event_loop_polls_sockets_between_blocking_requests() -> None:
    """Requests that block the loop take turns, in the order of their arrival, with health checks in between."""

    async def story() -> None:
        order: list[str] = []

        async def app(scope: Any, _receive: Any, send: Any) -> None:
            if scope["path"] != "/healthz":
                time.sleep(0.02)  # noqa: ASYNC251 - blocks the loop, as a read on SQLite does
            order.append(scope["path"])
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def check_health() -> None:
            for _ in attempts():
                if "/3" in order:
                    break
                await send_request(middleware, "/healthz")
                await asyncio.sleep(0)  # until the next iteration of the loop

        middleware = LoadSheddingMiddleware(app, 60, FORMATS)
        await asyncio.gather(*(send_request(middleware, f"/{number}") for number in range(4)), check_health())
        assert [path for path in order if path != "/healthz"] == ["/0", "/1", "/2", "/3"]
        assert all("/healthz" in pair for pair in pairwise(order))

    asyncio.run(story())


def test_a_canceled_request_does_not_take_its_turn() -> None:
    async def story() -> None:
        served: list[str] = []

        async def app(scope: Any, _receive: Any, _send: Any) -> None:
            time.sleep(0.02)  # noqa: ASYNC251 - blocks the loop, as a read on SQLite does
            served.append(scope["path"])

        middleware = LoadSheddingMiddleware(app, 60, FORMATS)
        requests = [asyncio.create_task(send_request(middleware, f"/{number}")) for number in range(4)]
        await asyncio.sleep(0)
        requests[2].cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        assert served == ["/0", "/1", "/3"]

    asyncio.run(story())


def test_open_streams_do_not_count_as_in_flight() -> None:
    """A request counts until its response starts."""

    async def story() -> None:
        began, end = asyncio.Event(), asyncio.Event()

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            began.set()
            await end.wait()

        middleware = LoadSheddingMiddleware(app, 1e-9, FORMATS)
        streams = []
        for _ in range(100):
            began.clear()
            streams.append(asyncio.create_task(send_request(middleware)))
            await began.wait()
            await asyncio.sleep(0)
        end.set()
        assert {sent[0]["status"] for sent in await asyncio.gather(*streams)} == {200}

    asyncio.run(story())
