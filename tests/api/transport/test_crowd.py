"""What would have to wait long is refused at once, with an answer that says when to come again; the rest is served."""

import asyncio
import time
from typing import Any

import orjson

from gateway.api.crowd import CrowdMiddleware

SCOPE = {"type": "http", "path": "/graphql"}


async def ask(crowd: CrowdMiddleware, path: str = "/graphql") -> list[Any]:
    """What it sends."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    await crowd({**SCOPE, "path": path}, receive, send)
    return sent


class App:
    """Answers when it is let, after it has held the loop for a moment."""

    def __init__(self, held: float = 0.0) -> None:
        self.free = asyncio.Event()
        self._held = held

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        await self.free.wait()
        time.sleep(self._held)  # noqa: ASYNC251 - as a read on SQLite does
        await send({"type": "http.response.start", "status": 200, "headers": []})


def test_what_comes_on_top_of_a_few_is_refused_while_answers_take_too_long() -> None:
    async def story() -> None:
        app = App()
        crowd = CrowdMiddleware(app, longest=1e-9)
        first = asyncio.create_task(ask(crowd))
        await asyncio.sleep(0)
        app.free.set()
        await first  # took longer than that
        app.free.clear()
        waiting = []
        for _ in range(32):
            waiting.append(asyncio.create_task(ask(crowd)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # each in a round of the loop of its own
        start, body = await ask(crowd)
        assert start["status"] == 503
        assert (b"retry-after", b"1") in start["headers"]
        assert orjson.loads(body["body"])["errors"][0]["extensions"] == {
            "code": "SERVICE_UNAVAILABLE",
            "retryable": True,
        }
        health = asyncio.create_task(ask(crowd, "/healthz"))
        app.free.set()
        assert [sent[0]["status"] for sent in await asyncio.gather(health, *waiting)] == [200] * 33
        assert (await ask(crowd))[0]["status"] == 200

    asyncio.run(story())


def test_what_the_loop_comes_to_too_late_is_refused() -> None:
    async def story() -> None:
        app = App(held=0.01)
        app.free.set()
        crowd = CrowdMiddleware(app, longest=0.005)
        answers = await asyncio.gather(*(ask(crowd) for _ in range(4)))
        assert [sent[0]["status"] for sent in answers] == [200, 503, 503, 503]
        assert (await ask(crowd))[0]["status"] == 200

    asyncio.run(story())


def test_a_stream_is_in_nobodys_way() -> None:
    """It counts until its answer begins."""

    async def story() -> None:
        began, end = asyncio.Event(), asyncio.Event()

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            began.set()
            await end.wait()

        crowd = CrowdMiddleware(app, longest=1e-9)
        streams = []
        for _ in range(100):
            began.clear()
            streams.append(asyncio.create_task(ask(crowd)))
            await began.wait()
            await asyncio.sleep(0)
        end.set()
        assert {sent[0]["status"] for sent in await asyncio.gather(*streams)} == {200}

    asyncio.run(story())
