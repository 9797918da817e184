"""One operation on a WebSocket, from `subscribe` to `complete` or `error`."""

import asyncio
import logging
from collections.abc import Callable

import orjson

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.errors import GatewayError
from gateway.graphql.error_format import errors_json
from gateway.graphql.requests import Executor, GraphQLRequest, GraphQLResponse, OperationType
from gateway.graphql.transports.websocket.messages import complete_message, error_message, next_message
from gateway.http.errors import HttpError

log = logging.getLogger(__name__)


class WebSocketOperation:
    """Starts executing when it is created. `put` receives the messages to send."""

    def __init__(
        self,
        executor: Executor,
        id: str,
        request: GraphQLRequest,
        *,
        kind: OperationType | None,
        caller: Caller,
        origin: RequestOrigin,
        put: Callable[[bytes], None],
    ) -> None:
        self._executor = executor
        self._request = request
        self._caller = caller
        self._origin = origin
        self._id = orjson.dumps(id)
        self._put = put
        self._kind = kind
        self._stopped = False
        self.task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Sends no more messages and cancels the execution. A mutation runs to its end, but its result is dropped."""
        self._stopped = True
        if self._kind != "mutation":
            self.task.cancel()

    async def _run(self) -> None:
        try:
            if self._kind == "subscription":
                completed = await self._stream()
            else:
                completed = self._send(await self._executor.execute(self._request, self._caller, self._origin))
        except GatewayError as error:
            self._put_unless_stopped(error_message(self._id, errors_json(HttpError.of(error))))
        except Exception:
            id_ = self._origin.request_id or "-"
            log.exception("WebSocket operation failed request_id=%s", id_)
            self._put_unless_stopped(error_message(self._id, errors_json(HttpError.internal(id_))))
        else:
            if completed:
                self._put_unless_stopped(complete_message(self._id))

    async def _stream(self) -> bool:
        responses = self._executor.subscribe(self._request, self._caller)
        try:
            async for response in responses:
                if not self._send(response):
                    return False
                # Lets the writing task run, so that a burst of responses does not fill the queue of a fast client.
                await asyncio.sleep(0)
        finally:
            if close := getattr(responses, "aclose", None):
                await close()
        return True

    def _send(self, response: GraphQLResponse) -> bool:
        """Sends a response. Returns False for a request error, which ends the operation without `complete`."""
        if not response.body:
            return True  # clients of this transport read event ids from the `extensions` of responses
        if response.ran:
            self._put_unless_stopped(next_message(self._id, response.body))
        else:
            self._put_unless_stopped(error_message(self._id, orjson.dumps(orjson.loads(response.body)["errors"])))
        return response.ran

    def _put_unless_stopped(self, message: bytes) -> None:
        if not self._stopped:
            self._put(message)
