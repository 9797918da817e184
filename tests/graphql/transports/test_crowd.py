"""What would have to wait long is refused at once, with an answer that says when to come again; the rest is served."""

import asyncio
import time
from itertools import pairwise
from typing import Any

import orjson

from gateway.http.load_shedding import LoadSheddingMiddleware

SCOPE = {"type": "http", "path": "/graphql"}


async def ask(crowd: LoadSheddingMiddleware, path: str = "/graphql") -> list[Any]:
    """What it sends."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    await crowd({**SCOPE, "path": path}, receive, send)
    return sent


class App:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.free = asyncio.Event()

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        await self.free.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_who_would_wait_too_long_behind_others_is_refused() -> None:
    """By the pace at which those are answered; a few are never too many."""

    async def story() -> None:
        app, clock = App(), Clock()
        crowd = LoadSheddingMiddleware(app, 1.0, clock)

        async def begin(number: int) -> "list[asyncio.Task[list[Any]]]":
            tasks = [asyncio.create_task(ask(crowd)) for _ in range(number)]
            await asyncio.sleep(0)
            return tasks

        async def end(*tasks: "asyncio.Task[list[Any]]") -> None:
            app.free.set()
            assert {sent[0]["status"] for sent in await asyncio.gather(*tasks)} == {200}
            app.free.clear()

        many = await begin(40)
        clock.now += 4  # nobody is answered in so long
        start, body = await ask(crowd)
        assert start["status"] == 503
        assert (b"retry-after", b"1") in start["headers"]
        assert orjson.loads(body["body"])["errors"][0]["extensions"] == {
            "code": "SERVICE_UNAVAILABLE",
            "retryable": True,
        }
        health = asyncio.create_task(ask(crowd, "/healthz"))
        await end(health, *many)
        few = await begin(32)  # at that pace the next would wait for more than a second
        assert (await ask(crowd))[0]["status"] == 503
        await end(*few)
        await end(*await begin(32))

    asyncio.run(story())


def test_what_comes_is_looked_at_between_requests_that_hold_the_loop() -> None:
    """They take turns, in their order."""

    async def story() -> None:
        order: list[str] = []

        async def app(scope: Any, _receive: Any, send: Any) -> None:
            if scope["path"] != "/healthz":
                time.sleep(0.02)  # noqa: ASYNC251 - as a read on SQLite does
            order.append(scope["path"])
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def look() -> None:
            while "/3" not in order:
                await ask(crowd, "/healthz")
                await asyncio.sleep(0)  # the next round of the loop

        crowd = LoadSheddingMiddleware(app, longest=60)
        await asyncio.gather(*(ask(crowd, f"/{number}") for number in range(4)), look())
        assert [path for path in order if path != "/healthz"] == ["/0", "/1", "/2", "/3"]
        assert all("/healthz" in pair for pair in pairwise(order))

    asyncio.run(story())


def test_a_request_that_is_gone_has_no_turn() -> None:
    async def story() -> None:
        served: list[str] = []

        async def app(scope: Any, _receive: Any, _send: Any) -> None:
            time.sleep(0.02)  # noqa: ASYNC251 - as a read on SQLite does
            served.append(scope["path"])

        crowd = LoadSheddingMiddleware(app, longest=60)
        asked = [asyncio.create_task(ask(crowd, f"/{number}")) for number in range(4)]
        await asyncio.sleep(0)
        asked[2].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert served == ["/0", "/1", "/3"]

    asyncio.run(story())


def test_a_stream_is_in_nobodys_way() -> None:
    """It counts until its answer begins."""

    async def story() -> None:
        began, end = asyncio.Event(), asyncio.Event()

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            began.set()
            await end.wait()

        crowd = LoadSheddingMiddleware(app, longest=1e-9)
        streams = []
        for _ in range(100):
            began.clear()
            streams.append(asyncio.create_task(ask(crowd)))
            await began.wait()
            await asyncio.sleep(0)
        end.set()
        assert {sent[0]["status"] for sent in await asyncio.gather(*streams)} == {200}

    asyncio.run(story())
