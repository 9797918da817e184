"""One accepted graphql-transport-ws connection: a task that reads, a task that writes, and a task per operation."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import orjson
from starlette.types import Message, Receive, Scope, Send

from gateway.access.admission import quota_key
from gateway.access.caller import Caller
from gateway.access.origin import origin_of
from gateway.access.quotas import CallerQuota, Quotas
from gateway.errors import ErrorCode, GatewayError, Throttled, Unavailable, internal_message
from gateway.fair_queue import CLAIM, Claim
from gateway.graphql.error_format import errors_json
from gateway.graphql.requests import Authenticate, Executor, GraphQLRequest, OperationType
from gateway.graphql.transports.streams import RECHECK_INTERVAL, wait_for_expiry
from gateway.graphql.transports.websocket.messages import (
    ACK,
    PING,
    ClientMessage,
    Complete,
    Init,
    InvalidMessage,
    Ping,
    Pong,
    Subscribe,
    error_message,
    parse,
    pong_message,
)
from gateway.graphql.transports.websocket.operation import WebSocketOperation
from gateway.graphql.transports.websocket.send_queue import QueueFull, SendQueue
from gateway.http.errors import HttpError
from gateway.http.load_shedding import LoopTurns
from gateway.http.request_id import request_id
from gateway.http.scope import hold_of
from gateway.models import Surface

_LONG_MESSAGE = 16_384  # characters above which a message takes a turn before it is parsed

log = logging.getLogger(__name__)


class Close(IntEnum):
    """Close codes, of RFC 6455 and of graphql-transport-ws. Clients reconnect after 1001 and 1013."""

    GOING_AWAY = 1001
    TOO_BIG = 1009
    INTERNAL = 1011
    TOO_SLOW = 1013
    INVALID_MESSAGE = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    SUBPROTOCOL = 4406
    INIT_TIMEOUT = 4408
    DUPLICATE_ID = 4409
    TOO_MANY_INITS = 4429


@dataclass(frozen=True, slots=True)
class WebSocketLimits:
    """Limits on one connection. Times are in seconds."""

    init_timeout: float = 10.0
    recheck_interval: float = RECHECK_INTERVAL  # between two checks of the credentials
    ping_after: float = 20.0  # without a message to send; uvicorn's own pings detect dead clients
    close_timeout: float = 5.0  # for sending the close to a client that reads no data
    max_operations: int = 100  # running at a time
    max_queued_messages: int = 1_000
    max_queued_bytes: int = 16 * 1_048_576


class Connection:
    """Handles the messages of one client until either side closes the connection."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        executor: Executor,
        authenticate: Authenticate,
        quotas: Quotas,
        limits: WebSocketLimits,
        turns: LoopTurns,
        max_message_bytes: int,
    ) -> None:
        self._executor = executor
        self._authenticate = authenticate
        self._quotas = quotas
        self._limits = limits
        self._turns = turns
        self._max_message_bytes = max_message_bytes
        self._scope = scope
        self._receive = receive
        self._send = send
        self._request_id = request_id(scope)
        self._origin = origin_of(scope, Surface.GRAPHQL)
        self._address = f"address {self._origin.address}"  # by which it takes turns until its caller is known
        self._queue = SendQueue(limits.max_queued_messages, limits.max_queued_bytes, hold_of(scope))
        self._inits = 0
        self._caller: Caller | None = None
        self._expiry: asyncio.Task[None] | None = None
        self._quota: CallerQuota | None = None
        self._stream_count = ExitStack()  # counts the connection as one of the caller's streams
        self._operations: dict[str, WebSocketOperation] = {}  # by id; those that the client has not completed
        self._tasks: set[asyncio.Task[None]] = set()  # of all operations, also of completed mutations that still run
        # Resolved once, with the close to send, or with None if the client has disconnected.
        self._close_reason: asyncio.Future[tuple[Close, str] | None] = asyncio.get_running_loop().create_future()

    def close(self, code: Close, reason: str) -> None:
        """Closes the connection. Only the first call has an effect."""
        if not self._close_reason.done():
            self._close_reason.set_result((code, reason))

    async def run(self) -> None:
        """Serves until either side closes."""
        with self._stream_count:
            await self._serve()

    async def _serve(self) -> None:
        reading = asyncio.create_task(self._guarded(self._read()))
        writing = asyncio.create_task(self._guarded(self._write()))
        timer = asyncio.get_running_loop().call_later(self._limits.init_timeout, self._check_init)
        try:
            close = await self._close_reason
        finally:
            timer.cancel()
            for operation in self._operations.values():
                operation.stop()
            background = [reading, writing, *filter(None, [self._expiry])]
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            self._queue.close()
        if close is not None:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(self._limits.close_timeout):
                    await self._send(close_event(*close))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except OSError:  # the client has disconnected (ASGI, "Send event")
            self._on_disconnect()
        except Exception:
            log.exception("WebSocket connection failed request_id=%s", self._request_id)
            self.close(Close.INTERNAL, internal_message(self._request_id))

    def _on_disconnect(self) -> None:
        if not self._close_reason.done():
            self._close_reason.set_result(None)

    def _check_init(self) -> None:
        if self._inits == 0:
            self.close(Close.INIT_TIMEOUT, "Connection initialisation timeout")

    async def _write(self) -> None:
        while True:
            message = await self._queue.take(self._limits.ping_after)
            await self._send({"type": "websocket.send", "text": (message or PING).decode()})

    async def _read(self) -> None:
        while not self._close_reason.done():
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self._on_disconnect()
                return
            text = event.get("text")
            if text is None:
                self.close(Close.INVALID_MESSAGE, "Binary messages are not supported.")
            elif len(text) > self._max_message_bytes:
                self.close(Close.TOO_BIG, f"The message is longer than {self._max_message_bytes} bytes.")
            else:
                try:
                    await self._handle(await self._parse_in_turn(text))
                except InvalidMessage as error:
                    self.close(Close.INVALID_MESSAGE, str(error))

    async def _parse_in_turn(self, text: str) -> ClientMessage:
        """Every message takes a turn. An operation of a known caller takes the one of a request, in `_subscribe`.

        Raises InvalidMessage.
        """
        claim = Claim(self._quota.name if self._quota else self._address, stream=True)
        first = self._quota is None or len(text) > _LONG_MESSAGE
        if first:
            await self._turns.take(claim)
        message = parse(text)
        if not first and not isinstance(message, Subscribe):
            await self._turns.take(claim)
        return message

    async def _handle(self, message: ClientMessage) -> None:
        match message:
            case Subscribe(id, request):
                await self._subscribe(id, request)
            case Complete(id):
                if operation := self._operations.pop(id, None):
                    operation.stop()
            case Ping(payload):
                self._put(pong_message(payload))
            case Init(payload):
                await self._init(payload)
            case Pong():
                pass

    async def _init(self, payload: dict[str, Any]) -> None:
        self._inits += 1
        if self._inits > 1:
            self.close(Close.TOO_MANY_INITS, "Too many initialisation requests")
            return
        try:
            caller = await self._authenticate(self._scope, payload)
            quota = self._quotas.find(quota_key(caller, self._scope))
            with self._quotas.request(quota):
                self._stream_count.enter_context(self._quotas.open_stream(quota))
        except (Throttled, Unavailable) as error:
            self.close(Close.TOO_SLOW, error.message)
        except GatewayError as error:
            self.close(Close.FORBIDDEN, error.message)
        else:
            self._caller, self._quota = caller, quota
            self._expiry = asyncio.create_task(self._guarded(self._expire(caller, payload)))
            self._put(ACK)

    async def _expire(self, caller: Caller, payload: dict[str, Any]) -> None:
        """Closes the connection when the credentials expire. The client may reconnect with new ones."""
        error = await wait_for_expiry(
            lambda: self._authenticate(self._scope, payload), caller, self._limits.recheck_interval
        )
        self.close(Close.FORBIDDEN, error.message)

    async def _subscribe(self, id: str, request: GraphQLRequest) -> None:
        if self._caller is None:
            self.close(Close.UNAUTHORIZED, "Unauthorized: send `connection_init` first.")
            return
        assert self._quota is not None
        CLAIM.set(Claim(self._quota.name))
        try:
            # The next message is read after that, so one connection does not start many operations at a time.
            await self._turns.take()
        except Unavailable as error:
            self._put_error(id, HttpError.of(error))
            return
        if id in self._operations:
            self.close(Close.DUPLICATE_ID, f"Subscriber for {id} already exists")
        elif len(self._tasks) >= self._limits.max_operations:
            limit = self._limits.max_operations
            message = f"The connection has {limit} operations, the maximum. Complete one or open another connection."
            self._put_error(id, HttpError(429, message, ErrorCode.LIMIT_EXCEEDED))
        else:
            try:
                kind = await self._executor.kind(request)
                counted = self._count(kind)
            except (Throttled, Unavailable) as error:
                self._put_error(id, HttpError.of(error))
                return
            CLAIM.set(Claim(self._quota.name, stream=kind == "subscription"))  # of the task of the operation
            operation = WebSocketOperation(
                self._executor, id, request, kind=kind, caller=self._caller, origin=self._origin, put=self._put
            )
            self._operations[id] = operation
            self._tasks.add(operation.task)
            operation.task.add_done_callback(lambda task: self._done(id, operation, counted))

    def _count(self, kind: OperationType | None) -> ExitStack:
        """The context that counts an operation of this type until it is closed. Raises LimitExceeded."""
        assert self._quota is not None
        counted = ExitStack()
        counted.enter_context(self._quotas.request(self._quota))
        if kind == "subscription":
            counted.close()
            counted.enter_context(self._quotas.open_subscription(self._quota))
        return counted

    def _done(self, id: str, operation: WebSocketOperation, counted: ExitStack) -> None:
        counted.close()
        self._tasks.discard(operation.task)
        if self._operations.get(id) is operation:
            del self._operations[id]

    def _put_error(self, id: str, error: HttpError) -> None:
        self._put(error_message(orjson.dumps(id), errors_json(error)))

    def _put(self, message: bytes) -> None:
        try:
            self._queue.put(message)
        except QueueFull:
            self.close(Close.TOO_SLOW, "The client reads too slowly. Reconnect and query the current state.")


def close_event(code: Close, reason: str) -> Message:
    """The ASGI event of a close. The reason is cut to 123 bytes, the maximum of RFC 6455, 5.5."""
    return {"type": "websocket.close", "code": int(code), "reason": reason.encode()[:123].decode(errors="ignore")}
