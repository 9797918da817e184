"""What a transport says no with: a status, headers and a body in GraphQL's shape."""

import orjson
from starlette.types import Send

from gateway.access.credentials import Headers, asked_for
from gateway.errors import MEANINGS, ErrorCode, GatewayError, internal_message


class HttpError(Exception):
    """The request never reached GraphQL. The message is written for the caller."""

    retryable = False

    def __init__(self, status: int, message: str, code: ErrorCode = ErrorCode.INVALID, headers: Headers | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers or []

    @classmethod
    def of(cls, error: GatewayError) -> "HttpError":
        """The same refusal as HTTP shows it, with what its status asks for."""
        meaning = MEANINGS[error.code]
        fault = cls(meaning.http_status, error.message, error.code, asked_for(error))
        fault.retryable = meaning.retryable
        return fault

    @classmethod
    def internal(cls, request_id: str) -> "HttpError":
        """A bug, masked: the log has the rest under the same id."""
        return cls(500, internal_message(request_id), ErrorCode.INTERNAL)

    def body(self) -> bytes:
        return b'{"errors":' + errors_json(self.message, self.code, retryable=self.retryable) + b"}"

    async def answer(self, send: Send, event: str = "http.response") -> None:
        """Sends it as the whole answer, by ASGI events of this name."""
        body = self.body()
        headers = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            *self.headers,
        ]
        await send({"type": f"{event}.start", "status": self.status, "headers": headers})
        await send({"type": f"{event}.body", "body": body})


def errors_json(message: str, code: ErrorCode, *, retryable: bool = False) -> bytes:
    """A list of one GraphQL error, as JSON."""
    extensions: dict[str, str | bool] = {"code": MEANINGS[code].extensions_code}
    if retryable:
        extensions["retryable"] = True
    return orjson.dumps([{"message": message, "extensions": extensions}])
