"""Load shedding: requests with a long estimated wait are rejected at once; the others take turns on the event loop."""

import asyncio
import time
from itertools import pairwise
from math import inf
from typing import Any

import orjson
import pytest

from gateway.access.caller import Caller
from gateway.access.quotas import Quotas
from gateway.config import Settings
from gateway.errors import Unavailable
from gateway.fair_queue import CLAIM, Claim
from gateway.graphql.transports.streams import OpenStreams
from gateway.graphql.transports.websocket.endpoint import SUBPROTOCOL, WebSocketEndpoint
from gateway.http.browser_safety import BrowserSafetyMiddleware
from gateway.http.load_shedding import LoadSheddingMiddleware, LoopTurns
from tests.waiting import attempts

from .serving import FORMATS
from .world import authenticate

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


def unknown(_scope: Any) -> Caller | None:
    return None


def known(_scope: Any) -> Caller | None:
    return Caller("known", "default", key="known")


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def respond(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def work(turns: LoopTurns, caller: str, clock: Clock, seconds: float) -> None:
    """Takes a turn, and blocks the loop for this time."""
    CLAIM.set(Claim(caller))
    await turns.take()
    clock.now += seconds


def test_a_request_whose_estimated_wait_is_too_long_is_rejected() -> None:
    """The estimate is based on the measured turns. With fewer than 32 requests ahead, none is rejected."""

    async def story() -> None:
        clock = Clock()
        turns = LoopTurns(1.0, clock)
        middleware = LoadSheddingMiddleware(respond, turns, FORMATS, unknown)
        busy = [asyncio.create_task(work(turns, "address", clock, 0.1)) for _ in range(40)]
        await asyncio.sleep(0)
        clock.now += 4  # without any turn
        start, body = await send_request(middleware)
        assert start["status"] == 503
        assert (b"retry-after", b"1") in start["headers"]
        assert orjson.loads(body["body"])["errors"][0]["extensions"] == {
            "code": "SERVICE_UNAVAILABLE",
            "retryable": True,
        }
        assert (await send_request(middleware, "/healthz"))[0]["status"] == 200
        await work(turns, "other", clock, 0.1)
        assert sum(task.done() for task in busy) <= 3, "another caller has waited for the one with the most requests"
        await asyncio.gather(*busy)
        assert (await send_request(middleware))[0]["status"] == 200

    asyncio.run(story())


def test_at_most_the_estimated_wait_is_queued() -> None:
    """Of 200 requests of one caller whose turns take 50 ms, those are rejected that would wait for more than 2 s."""

    async def story() -> None:
        clock = Clock()
        turns = LoopTurns(2.0, clock)

        async def arrive() -> list[asyncio.Task[None]]:
            tasks = []
            for _ in range(20):  # in each iteration of the loop, ten requests arrive and one is served
                tasks += [asyncio.create_task(work(turns, "a", clock, 0.05)) for _ in range(10)]
                await asyncio.sleep(0)
            return tasks

        outcomes = await asyncio.gather(*await arrive(), return_exceptions=True)
        rejected = [one for one in outcomes if isinstance(one, Unavailable)]
        assert len(rejected) + outcomes.count(None) == 200
        assert 100 < len(rejected) < 168
        assert clock.now == pytest.approx(0.05 * outcomes.count(None))

    asyncio.run(story())


def test_an_arrived_request_continues_its_turn_once() -> None:
    """With others waiting, the next call of `take` returns at once, unless the task was suspended in between."""

    async def story() -> None:
        clock, order = Clock(), list[str]()
        turns = LoopTurns(inf, clock)

        async def request(name: str, steps: int, *, suspended: bool = False) -> None:
            await turns.arrive(Claim(name))
            if suspended:
                await asyncio.sleep(0)
            for step in range(steps):
                clock.now += 0.02
                await turns.take(Claim(name))
                order.append(f"{name}{step}")

        requests = [request("a", 2), request("b", 1), request("c", 1, suspended=True), request("d", 1)]
        await asyncio.gather(*requests)
        assert order == ["a0", "b0", "d0", "c0", "a1"]

    asyncio.run(story())


def test_a_few_rejections_are_sent_in_each_iteration_of_the_loop() -> None:
    """A client that sends the next request after each rejection must not fill the iteration with them."""

    async def story() -> None:
        clock, rejected = Clock(), 0
        turns = LoopTurns(1.0, clock)
        waiting = [asyncio.create_task(work(turns, "busy", clock, 0.01)) for _ in range(40)]
        await asyncio.sleep(0)
        clock.now += 4  # without any turn

        async def send() -> None:
            nonlocal rejected
            try:
                await turns.take(Claim("busy"))
            except Unavailable:
                rejected += 1

        sending = [asyncio.create_task(send()) for _ in range(30)]
        await asyncio.sleep(0)
        for _ in range(5):
            before = rejected
            await asyncio.sleep(0)
            assert rejected <= before + 8
        await asyncio.gather(*waiting, *sending)
        assert rejected == 30

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

        middleware = LoadSheddingMiddleware(app, LoopTurns(60), FORMATS, unknown)
        await asyncio.gather(*(send_request(middleware, f"/{number}") for number in range(4)), check_health())
        assert [path for path in order if path != "/healthz"] == ["/0", "/1", "/2", "/3"]
        assert all("/healthz" in pair for pair in pairwise(order))

    asyncio.run(story())


def test_the_second_health_check_of_an_address_takes_a_turn() -> None:
    async def story() -> None:
        order: list[str] = []

        async def app(scope: Any, _receive: Any, send: Any) -> None:
            order.append(scope["path"])
            time.sleep(0.02)  # noqa: ASYNC251 - work that blocks the loop
            await respond(scope, _receive, send)

        middleware = LoadSheddingMiddleware(app, LoopTurns(), FORMATS, unknown)
        await asyncio.gather(*(send_request(middleware, path) for path in ("/0", *["/healthz"] * 3, "/1")))
        assert order == ["/0", "/healthz", "/1", "/healthz", "/healthz"]

    asyncio.run(story())


def test_a_rejection_takes_a_turn() -> None:
    async def story() -> None:
        turns, sent = LoopTurns(), list[Any]()

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError

        middleware = BrowserSafetyMiddleware(respond, Settings(), FORMATS, None, turns)
        scope = {**SCOPE, "method": "GET", "headers": [(b"host", b"evil.example")]}
        rejected = asyncio.create_task(middleware(scope, receive, send))
        await turns.take()
        time.sleep(0.02)  # noqa: ASYNC251 - the turn blocks the loop
        await asyncio.sleep(0)  # in this iteration of the loop, the request arrives
        assert sent == []
        await rejected
        assert sent[0]["status"] == 421

    asyncio.run(story())


def test_a_message_of_an_unknown_caller_takes_a_turn_under_its_address() -> None:
    """A WebSocket may send messages of a megabyte before it authenticates, and each takes some milliseconds."""

    async def story() -> None:
        claims: list[Claim | None] = []

        class RecordedTurns(LoopTurns):
            async def take(self, claim: Claim | None = None) -> None:
                claims.append(claim)

        received = iter(
            [
                {"type": "websocket.connect"},
                {"type": "websocket.receive", "text": '{"type":"ping"}'},
                {"type": "websocket.disconnect"},
            ]
        )

        async def receive() -> Any:
            return next(received)

        async def send(_message: Any) -> None:
            pass

        executor: Any = None
        endpoint = WebSocketEndpoint(
            executor, authenticate, Quotas(Settings()), OpenStreams(), max_message_bytes=1_000, turns=RecordedTurns()
        )
        scope = {"type": "websocket", "path": "/graphql", "subprotocols": [SUBPROTOCOL], "client": ("192.0.2.1", 1)}
        await endpoint({**scope, "headers": []}, receive, send)
        assert claims == [Claim("address 192.0.2.1", stream=True)]

    asyncio.run(story())


def test_a_canceled_request_does_not_take_its_turn() -> None:
    async def story() -> None:
        served: list[str] = []

        async def app(scope: Any, _receive: Any, _send: Any) -> None:
            time.sleep(0.02)  # noqa: ASYNC251 - blocks the loop, as a read on SQLite does
            served.append(scope["path"])

        middleware = LoadSheddingMiddleware(app, LoopTurns(60), FORMATS, unknown)
        requests = [asyncio.create_task(send_request(middleware, f"/{number}")) for number in range(4)]
        await asyncio.sleep(0)
        requests[2].cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        assert served == ["/0", "/1", "/3"]

    asyncio.run(story())


def test_what_waits_for_something_else_than_its_turn_does_not_count() -> None:
    """Open streams, requests whose body is incomplete, reads of the database."""

    async def story() -> None:
        began, end = asyncio.Event(), asyncio.Event()

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            began.set()
            await end.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        middleware = LoadSheddingMiddleware(app, LoopTurns(1e-9), FORMATS, unknown)
        open_requests = []
        for _ in range(100):
            began.clear()
            open_requests.append(asyncio.create_task(send_request(middleware)))
            await began.wait()
            await asyncio.sleep(0)
        end.set()
        assert {sent[0]["status"] for sent in await asyncio.gather(*open_requests)} == {200}

    asyncio.run(story())


def test_a_known_caller_takes_no_turn_under_its_address() -> None:
    """Except on paths that are of no surface, where it would take none."""

    async def story() -> None:
        clock = Clock()
        turns = LoopTurns(1.0, clock)
        middleware = LoadSheddingMiddleware(respond, turns, FORMATS, known)
        busy = [asyncio.create_task(work(turns, "address", clock, 0.1)) for _ in range(40)]
        await asyncio.sleep(0)
        clock.now += 4
        assert (await send_request(middleware, "/graphql"))[0]["status"] == 200
        assert (await send_request(middleware, "/schema.graphql"))[0]["status"] == 503
        await asyncio.gather(*busy)

    asyncio.run(story())
