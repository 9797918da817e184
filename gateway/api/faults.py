"""What a transport says no with: a status, headers and a body in GraphQL's shape."""

import orjson

from gateway.access.credentials import challenge
from gateway.errors import MEANINGS, ErrorCode, GatewayError, Throttled, Unauthenticated, Unavailable

Headers = list[tuple[bytes, bytes]]


class Fault(Exception):
    """The request never reached GraphQL. The message is written for the caller."""

    retryable = False

    def __init__(self, status: int, message: str, code: ErrorCode = ErrorCode.INVALID, headers: Headers | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers or []

    @classmethod
    def of(cls, error: GatewayError) -> "Fault":
        """The same refusal as HTTP shows it, with what its status asks for (RFC 9110, 15.5.2 and 10.2.3)."""
        headers = None
        if isinstance(error, Unauthenticated):
            headers = [(b"www-authenticate", challenge(error))]
        elif isinstance(error, Throttled | Unavailable):
            headers = [(b"retry-after", b"%d" % error.retry_after)]
        meaning = MEANINGS[error.code]
        fault = cls(meaning.http_status, error.message, error.code, headers)
        fault.retryable = meaning.retryable
        return fault

    @classmethod
    def internal(cls, request_id: str) -> "Fault":
        """A bug, masked: the log has the rest under the same id."""
        return cls(500, internal_message(request_id), ErrorCode.INTERNAL)

    def body(self) -> bytes:
        return b'{"errors":' + errors_json(self.message, self.code, retryable=self.retryable) + b"}"


def errors_json(message: str, code: ErrorCode, *, retryable: bool = False) -> bytes:
    """A list of one GraphQL error, as JSON."""
    extensions: dict[str, str | bool] = {"code": MEANINGS[code].extensions_code}
    if retryable:
        extensions["retryable"] = True
    return orjson.dumps([{"message": message, "extensions": extensions}])


def internal_message(request_id: str) -> str:
    return f"Internal error. Report it with the request id {request_id}."
