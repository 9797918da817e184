"""Subscriptions as server-sent events: graphql-sse's "distinct connections" mode, one response per operation."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from starlette.types import Receive, Send

from gateway.errors import ErrorCode, GatewayError, internal_message
from gateway.graphql.requests import Answer
from gateway.graphql.transports.credentials_expiry import RECHECK_AFTER
from gateway.graphql.transports.streams import Streams
from gateway.http.errors import errors_json

PING_AFTER = 12.0  # seconds of silence; proxies commonly cut a connection after 15 to 60
FIRST_ANSWER_WAIT = 0.25  # seconds that a request error has to become a plain 400 rather than an event
SEND_TIMEOUT = 30.0  # seconds a client may take no data before it is dropped

# LF alone ends a line: urql cannot read CR LF. EventSource gives no event without a `data` line.
_PING = b":\n\n"
_COMPLETE = b"event: complete\ndata: \n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"vary", b"Accept"),
]

log = logging.getLogger(__name__)


class EventStreams:
    """Answers requests with events, and knows how long to wait for what."""

    def __init__(
        self,
        streams: Streams,
        *,
        ping_after: float = PING_AFTER,
        first_answer_wait: float = FIRST_ANSWER_WAIT,
        send_timeout: float = SEND_TIMEOUT,
        recheck_after: float = RECHECK_AFTER,
    ) -> None:
        self._streams = streams
        self.ping_after = ping_after
        self.first_answer_wait = first_answer_wait
        self.send_timeout = send_timeout
        self.recheck_after = recheck_after

    async def serve(
        self,
        answers: AsyncIterator[Answer],
        request_id: str,
        receive: Receive,
        send: Send,
        *,
        reads_json: bool,
        ends: Coroutine[Any, Any, GatewayError] | None = None,
    ) -> Answer | None:
        """Streams `answers` until they or the client or the server end, and closes them. Also when `ends` tells why.

        For a client that `reads_json` too, returns a request error that is known at once: then nothing was sent. Any
        other gets it as an event (graphql-sse, "Distinct connections mode", 2).
        """
        response = _Response(self, answers, request_id, send, reads_json)
        pump = asyncio.create_task(response.pump())
        gone = asyncio.create_task(_gone(receive))
        ending = None if ends is None else asyncio.create_task(ends)
        tasks = [task for task in (pump, gone, ending) if task is not None]
        try:
            with self._streams.opened(lambda: _stop(gone)):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if pump.done():
                    return pump.result()
                if ending is not None and ending.done() and not gone.done():
                    await _stopped(pump)
                    await response.refuse(ending.result())
        finally:
            await _stopped(*tasks)
            # Without `complete`: a client that is still there must see a broken stream and come again.
            await response.finish()
        return None


class _Response:
    """One stream of events."""

    def __init__(
        self, settings: EventStreams, answers: AsyncIterator[Answer], request_id: str, send: Send, reads_json: bool
    ) -> None:
        self._settings = settings
        self._answers = answers
        self._request_id = request_id
        self._send = send
        self._reads_json = reads_json
        self._started = False

    async def pump(self) -> Answer | None:
        """Everything from the first answer to `complete`."""
        coming = asyncio.create_task(self._next())
        try:
            if self._reads_json:
                done, _ = await asyncio.wait({coming}, timeout=self._settings.first_answer_wait)
                if done and (first := coming.result()) is not None and not first.ran:
                    return first
            await self._start()
            while True:
                done, _ = await asyncio.wait({coming}, timeout=self._settings.ping_after)
                if not done:
                    await self._write(_PING)
                elif (answer := coming.result()) is None:
                    break
                else:
                    await self._write(_event(answer))
                    coming = asyncio.create_task(self._next())
            await self._write(_COMPLETE)
        except TimeoutError:
            log.info("dropped an event stream whose client takes no data, request id %s", self._request_id)
        except Exception:
            if not self._started:
                raise
            log.exception("an event stream failed, request id %s", self._request_id)
            errors = errors_json(internal_message(self._request_id), ErrorCode.INTERNAL)
            await self._write(_event(Answer(b'{"errors":' + errors + b"}", ran=False)) + _COMPLETE)
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            if close := getattr(self._answers, "aclose", None):
                await close()
        return None

    async def refuse(self, error: GatewayError) -> None:
        """An error for its last event, in place of what would have come."""
        try:
            if not self._started:
                await self._start()
            body = b'{"errors":' + errors_json(error.message, error.code) + b"}"
            await self._write(_event(Answer(body, ran=False)) + _COMPLETE)
        except (TimeoutError, OSError):
            pass

    async def finish(self) -> None:
        """Ends the response, if it began and its client still takes data."""
        if self._started:
            try:
                async with asyncio.timeout(1):
                    await self._send({"type": "http.response.body", "body": b""})
            except (TimeoutError, OSError):
                pass

    async def _next(self) -> Answer | None:
        return await anext(self._answers, None)

    async def _start(self) -> None:
        self._started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        # Something to read at once, so that proxies and clients see the stream open.
        await self._write(_PING)

    async def _write(self, chunk: bytes) -> None:
        async with asyncio.timeout(self._settings.send_timeout):
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})


async def one(answer: Answer) -> AsyncIterator[Answer]:
    """A query's or a mutation's answer as the stream that a client which reads only events wants."""
    yield answer


def _event(answer: Answer) -> bytes:
    """EventSource keeps the id, and sends it as `Last-Event-ID` when it comes again; an empty one it forgets."""
    id = b"" if answer.event is None else b"id: %b\n" % answer.event.encode()
    if not answer.body:
        return id + b"\n"
    # A newline in JSON is only ever white space, but would end the event's data.
    return b"event: next\n%bdata: %b\n\n" % (id, answer.body.replace(b"\n", b" "))


async def _stopped(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
