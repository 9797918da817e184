"""GraphQL over server-sent events: graphql-sse's "distinct connections mode", one HTTP response per operation."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from starlette.types import Receive, Send

from gateway.errors import GatewayError
from gateway.graphql.error_format import error_body
from gateway.graphql.requests import GraphQLResponse
from gateway.graphql.transports.streams import RECHECK_INTERVAL, OpenStreams
from gateway.http.errors import HttpError

PING_AFTER = 12.0  # seconds without an event; proxies commonly close idle connections after 15 to 60 s
FIRST_RESPONSE_TIMEOUT = 0.25  # seconds in which a request error is still sent as a plain 400 instead of an event
SEND_TIMEOUT = 30.0  # seconds after which a client that reads no data is dropped

# Lines end with LF only, because urql cannot parse CR LF. EventSource ignores events without a `data` line.
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
    """Sends GraphQL responses as event streams. All times are in seconds."""

    def __init__(
        self,
        streams: OpenStreams,
        *,
        ping_after: float = PING_AFTER,
        first_response_timeout: float = FIRST_RESPONSE_TIMEOUT,
        send_timeout: float = SEND_TIMEOUT,
        recheck_interval: float = RECHECK_INTERVAL,
    ) -> None:
        self._streams = streams
        self.ping_after = ping_after
        self.first_response_timeout = first_response_timeout
        self.send_timeout = send_timeout
        self.recheck_interval = recheck_interval

    async def serve(
        self,
        responses: AsyncIterator[GraphQLResponse],
        request_id: str,
        receive: Receive,
        send: Send,
        *,
        accepts_json: bool,
        expiry: Coroutine[Any, Any, GatewayError] | None = None,
    ) -> GraphQLResponse | None:
        """Streams `responses` until they end, the client disconnects, the server stops or `expiry` returns an error.

        Always closes `responses`. The error of `expiry` is sent as the last event.

        If the client also accepts JSON, and the first response is a request error that is available at once, this error
        is returned and nothing has been sent. Other clients receive it as an event (graphql-sse, "Distinct connections
        mode", 2).
        """
        stream = _EventStream(self, responses, request_id, send, accepts_json)
        sending = asyncio.create_task(stream.run())
        disconnect = asyncio.create_task(_wait_for_disconnect(receive))
        expiring = None if expiry is None else asyncio.create_task(expiry)
        tasks = [task for task in (sending, disconnect, expiring) if task is not None]
        try:
            with self._streams.track(lambda: _cancel(disconnect)):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    return sending.result()
                if expiring is not None and expiring.done() and not disconnect.done():
                    await _canceled(sending)
                    await stream.send_error(expiring.result())
        finally:
            await _canceled(*tasks)
            # Without `complete`, so that a client that is still connected sees a broken stream and reconnects.
            await stream.end()
        return None


class _EventStream:
    """One event stream."""

    def __init__(
        self,
        settings: EventStreams,
        responses: AsyncIterator[GraphQLResponse],
        request_id: str,
        send: Send,
        accepts_json: bool,
    ) -> None:
        self._settings = settings
        self._responses = responses
        self._request_id = request_id
        self._send = send
        self._accepts_json = accepts_json
        self._started = False

    async def run(self) -> GraphQLResponse | None:
        """Sends all responses and `complete`. Returns a first request error instead, as `EventStreams.serve` does."""
        pending = asyncio.create_task(self._next())
        try:
            if self._accepts_json:
                done, _ = await asyncio.wait({pending}, timeout=self._settings.first_response_timeout)
                if done and (first := pending.result()) is not None and not first.ran:
                    return first
            await self._start()
            while True:
                done, _ = await asyncio.wait({pending}, timeout=self._settings.ping_after)
                if not done:
                    await self._write(_PING)
                elif (response := pending.result()) is None:
                    break
                else:
                    await self._write(_event(response))
                    pending = asyncio.create_task(self._next())
            await self._write(_COMPLETE)
        except TimeoutError:
            log.info("Dropped the event stream of a client that reads no data request_id=%s", self._request_id)
        except Exception:
            if not self._started:
                raise
            log.exception("Event stream failed request_id=%s", self._request_id)
            await self._write(_last_event(HttpError.internal(self._request_id)))
        finally:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            if close := getattr(self._responses, "aclose", None):
                await close()
        return None

    async def send_error(self, error: GatewayError) -> None:
        """Sends `error` as the last event, and `complete`."""
        try:
            if not self._started:
                await self._start()
            await self._write(_last_event(HttpError.of(error)))
        except (TimeoutError, OSError):
            pass

    async def end(self) -> None:
        """Ends the HTTP response if it has started and the client still reads data."""
        if self._started:
            try:
                async with asyncio.timeout(1):
                    await self._send({"type": "http.response.body", "body": b""})
            except (TimeoutError, OSError):
                pass

    async def _next(self) -> GraphQLResponse | None:
        return await anext(self._responses, None)

    async def _start(self) -> None:
        self._started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        # Proxies and clients regard the stream as open only once they have received data.
        await self._write(_PING)

    async def _write(self, chunk: bytes) -> None:
        async with asyncio.timeout(self._settings.send_timeout):
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})


async def single_response(response: GraphQLResponse) -> AsyncIterator[GraphQLResponse]:
    """The response to a query or mutation as a stream, for clients that accept only events."""
    yield response


def _event(response: GraphQLResponse) -> bytes:
    """The event of a response. EventSource sends its id as `Last-Event-ID` on reconnect; an empty id resets that."""
    id = b"" if response.event is None else b"id: %b\n" % response.event.encode()
    if not response.body:
        return id + b"\n"
    # A newline would end the data of the event. In JSON it can only be white space between tokens.
    return b"event: next\n%bdata: %b\n\n" % (id, response.body.replace(b"\n", b" "))


def _last_event(error: HttpError) -> bytes:
    """The events that end a stream with an error."""
    return _event(GraphQLResponse(error_body(error), ran=False)) + _COMPLETE


async def _canceled(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
