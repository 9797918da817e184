"""One accepted graphql-transport-ws connection: a task that reads, one that writes, and one for each operation."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import orjson
from starlette.types import Message, Receive, Scope, Send

from gateway.access.admission import counted_as
from gateway.access.caller import Caller
from gateway.access.origin import origin_of
from gateway.access.quotas import CallerQuota, Quotas
from gateway.errors import ErrorCode, GatewayError, Throttled, internal_message
from gateway.graphql.requests import Authenticate, Executor, GraphQLRequest, OperationKind
from gateway.graphql.transports.credentials_expiry import RECHECK_AFTER, credentials_end
from gateway.graphql.transports.websocket.messages import (
    ACK,
    PING,
    ClientMessage,
    Complete,
    Init,
    Malformed,
    Ping,
    Pong,
    Subscribe,
    error_message,
    parse,
    pong,
)
from gateway.graphql.transports.websocket.operation import WebSocketOperation
from gateway.graphql.transports.websocket.send_queue import Overflow, SendQueue
from gateway.http.errors import errors_json
from gateway.http.request_id import request_id
from gateway.models import Surface

log = logging.getLogger(__name__)


class Close(IntEnum):
    """Why the server closes: RFC 6455's codes and the protocol's own. Clients come again after 1001 and 1013."""

    GOING_AWAY = 1001
    TOO_BIG = 1009
    INTERNAL = 1011
    TOO_SLOW = 1013
    MALFORMED = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    SUBPROTOCOL = 4406
    INIT_TIMEOUT = 4408
    DUPLICATE_ID = 4409
    TOO_MANY_INITS = 4429


@dataclass(frozen=True, slots=True)
class WebSocketLimits:
    """What one connection may cost. Times are in seconds."""

    init_timeout: float = 10.0
    recheck_after: float = RECHECK_AFTER  # that the credentials are still good
    ping_after: float = 20.0  # of silence from here; whether the client still lives is for uvicorn's own pings to find
    close_timeout: float = 5.0  # for a client that takes no data, not even the close
    operations: int = 100
    waiting_messages: int = 1_000
    waiting_bytes: int = 16 * 1_048_576


class Connection:
    """What a client can do, and the reasons for which it is closed."""

    def __init__(
        self,
        executor: Executor,
        authenticate: Authenticate,
        callers: Quotas,
        limits: WebSocketLimits,
        max_message_bytes: int,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._executor = executor
        self._authenticate = authenticate
        self._callers = callers
        self._limits = limits
        self._max_message_bytes = max_message_bytes
        self._scope = scope
        self._receive = receive
        self._send = send
        self._request_id = request_id(scope)
        self._origin = origin_of(scope, Surface.GRAPHQL)
        self._outbox = SendQueue(limits.waiting_messages, limits.waiting_bytes)
        self._inits = 0
        self._caller: Caller | None = None
        self._expiry: asyncio.Task[None] | None = None
        self._standing: CallerQuota | None = None
        self._counted = ExitStack()  # what the caller has under way here
        self._operations: dict[str, WebSocketOperation] = {}  # by id, those that the client waits for
        self._tasks: set[asyncio.Task[None]] = set()  # of all operations, also mutations it no longer waits for
        self._verdict: asyncio.Future[tuple[Close, str] | None] = asyncio.get_running_loop().create_future()

    def end(self, code: Close, reason: str) -> None:
        """Closes the connection; the first reason counts."""
        if not self._verdict.done():
            self._verdict.set_result((code, reason))

    async def run(self) -> None:
        """Serves until either side closes."""
        with self._counted:
            await self._serve()

    async def _serve(self) -> None:
        both = [asyncio.create_task(self._guarded(self._read())), asyncio.create_task(self._guarded(self._write()))]
        timer = asyncio.get_running_loop().call_later(self._limits.init_timeout, self._demand_init)
        try:
            verdict = await self._verdict
        finally:
            timer.cancel()
            for operation in self._operations.values():
                operation.stop()
            background = [*both, *filter(None, [self._expiry])]
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
        if verdict is not None:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(self._limits.close_timeout):
                    await self._send(close_event(*verdict))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except OSError:  # the client is gone (ASGI, "Send event")
            self._leave()
        except Exception:
            log.exception("a WebSocket connection failed, request id %s", self._request_id)
            self.end(Close.INTERNAL, internal_message(self._request_id))

    def _leave(self) -> None:
        if not self._verdict.done():
            self._verdict.set_result(None)

    def _demand_init(self) -> None:
        if self._inits == 0:
            self.end(Close.INIT_TIMEOUT, "Connection initialisation timeout")

    async def _write(self) -> None:
        while True:
            message = await self._outbox.take(self._limits.ping_after)
            await self._send({"type": "websocket.send", "text": (message or PING).decode()})

    async def _read(self) -> None:
        while not self._verdict.done():
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self._leave()
                return
            text = event.get("text")
            if text is None:
                self.end(Close.MALFORMED, "Binary messages are not served.")
            elif len(text) > self._max_message_bytes:
                self.end(Close.TOO_BIG, f"The message is longer than {self._max_message_bytes} bytes.")
            else:
                try:
                    await self._handle(parse(text))
                except Malformed as fault:
                    self.end(Close.MALFORMED, str(fault))

    async def _handle(self, message: ClientMessage) -> None:
        match message:
            case Subscribe(id, request):
                self._subscribe(id, request)
            case Complete(id):
                if operation := self._operations.pop(id, None):
                    operation.stop()
            case Ping(payload):
                self._put(pong(payload))
            case Init(payload):
                await self._init(payload)
            case Pong():
                pass

    async def _init(self, payload: dict[str, Any]) -> None:
        self._inits += 1
        if self._inits > 1:
            self.end(Close.TOO_MANY_INITS, "Too many initialisation requests")
            return
        try:
            caller = await self._authenticate(self._scope, payload)
            standing = self._callers.find(counted_as(caller, self._scope))
            with self._callers.request(standing):
                self._counted.enter_context(self._callers.streaming(standing))
        except Throttled as error:
            self.end(Close.TOO_SLOW, error.message)
        except GatewayError as error:
            self.end(Close.FORBIDDEN, error.message)
        else:
            self._caller, self._standing = caller, standing
            self._expiry = asyncio.create_task(self._guarded(self._expire(caller, payload)))
            self._put(ACK)

    async def _expire(self, caller: Caller, payload: dict[str, Any]) -> None:
        """Ends the connection with the credentials; a client may come again with new ones."""
        error = await credentials_end(
            lambda: self._authenticate(self._scope, payload), caller, self._limits.recheck_after
        )
        self.end(Close.FORBIDDEN, error.message)

    def _subscribe(self, id: str, request: GraphQLRequest) -> None:
        if self._caller is None:
            self.end(Close.UNAUTHORIZED, "Unauthorized: send `connection_init` first.")
        elif id in self._operations:
            self.end(Close.DUPLICATE_ID, f"Subscriber for {id} already exists")
        elif len(self._tasks) >= self._limits.operations:
            text = f"A connection runs at most {self._limits.operations} operations at once: end one, or open another."
            self._put(error_message(orjson.dumps(id), errors_json(text, ErrorCode.LIMIT_EXCEEDED)))
        else:
            try:
                kind, counted = self._count(request)
            except Throttled as error:
                self._put(error_message(orjson.dumps(id), errors_json(error.message, error.code, retryable=True)))
                return
            operation = WebSocketOperation(self._executor, request, kind, self._caller, self._origin, id, self._put)
            self._operations[id] = operation
            self._tasks.add(operation.task)
            operation.task.add_done_callback(lambda task: self._done(id, operation, counted))

    def _count(self, request: GraphQLRequest) -> tuple[OperationKind | None, ExitStack]:
        """What would run, and what counts it as running. Raises LimitExceeded."""
        assert self._standing is not None
        counted = ExitStack()
        counted.enter_context(self._callers.request(self._standing))
        kind = self._executor.kind(request)
        if kind == "subscription":
            counted.close()
            counted.enter_context(self._callers.subscribed(self._standing))
        return kind, counted

    def _done(self, id: str, operation: WebSocketOperation, counted: ExitStack) -> None:
        counted.close()
        self._tasks.discard(operation.task)
        if self._operations.get(id) is operation:
            del self._operations[id]

    def _put(self, message: bytes) -> None:
        try:
            self._outbox.put(message)
        except Overflow:
            self.end(Close.TOO_SLOW, "Messages are read too slowly. Connect again and fetch the present state.")


def close_event(code: Close, reason: str) -> Message:
    """The ASGI event; a reason has at most 123 bytes (RFC 6455, 5.5)."""
    return {"type": "websocket.close", "code": int(code), "reason": reason.encode()[:123].decode(errors="ignore")}
