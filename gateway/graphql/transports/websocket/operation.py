"""One operation on a WebSocket: its task, from `subscribe` to `complete` or `error`."""

import asyncio
import logging
from collections.abc import Callable

import orjson

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.errors import ErrorCode, internal_message
from gateway.graphql.requests import Answer, Executor, GraphQLRequest, OperationKind
from gateway.graphql.transports.websocket.messages import complete_message, error_message, next_message
from gateway.http.errors import errors_json

log = logging.getLogger(__name__)


class WebSocketOperation:
    """Runs at once. What it has to say goes to `put`."""

    def __init__(
        self,
        executor: Executor,
        request: GraphQLRequest,
        kind: OperationKind | None,
        caller: Caller,
        origin: RequestOrigin,
        id: str,
        put: Callable[[bytes], None],
    ) -> None:
        self._executor = executor
        self._request = request
        self._caller = caller
        self._origin = origin
        self._id = orjson.dumps(id)
        self._put = put
        self._kind = kind
        self._silent = False
        self.task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Says nothing from now on, and stops; a mutation runs to its end, because half of one helps nobody."""
        self._silent = True
        if self._kind != "mutation":
            self.task.cancel()

    async def _run(self) -> None:
        try:
            if self._kind == "subscription":
                fine = await self._stream()
            else:
                fine = self._tell(await self._executor.execute(self._request, self._caller, self._origin))
        except Exception:
            name = self._origin.request_id or "-"
            log.exception("an operation failed, request id %s", name)
            self._say(error_message(self._id, errors_json(internal_message(name), ErrorCode.INTERNAL)))
        else:
            if fine:
                self._say(complete_message(self._id))

    async def _stream(self) -> bool:
        answers = self._executor.subscribe(self._request, self._caller)
        try:
            async for answer in answers:
                if not self._tell(answer):
                    return False
                # A source that has much to say at once must let it be sent, or it would look like a slow client.
                await asyncio.sleep(0)
        finally:
            if close := getattr(answers, "aclose", None):
                await close()
        return True

    def _tell(self, answer: Answer) -> bool:
        """False for a request error, which ends the operation."""
        if not answer.body:
            return True  # ids of events are in the answers themselves
        if answer.ran:
            self._say(next_message(self._id, answer.body))
        else:
            self._say(error_message(self._id, orjson.dumps(orjson.loads(answer.body)["errors"])))
        return answer.ran

    def _say(self, message: bytes) -> None:
        if not self._silent:
            self._put(message)
