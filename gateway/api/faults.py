"""What a transport says no with: a status, headers and a body in GraphQL's shape."""

import orjson

from gateway.access.credentials import challenge
from gateway.errors import MEANINGS, ErrorCode, GatewayError, Throttled, Unauthenticated

Headers = list[tuple[bytes, bytes]]


class Fault(Exception):
    """The request never reached GraphQL. The message is written for the caller."""

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
        elif isinstance(error, Throttled):
            headers = [(b"retry-after", b"%d" % error.retry_after)]
        return cls(MEANINGS[error.code].http_status, error.message, error.code, headers)

    @classmethod
    def internal(cls, request_id: str) -> "Fault":
        """A bug, masked: the log has the rest under the same id."""
        return cls(500, internal_message(request_id), ErrorCode.INTERNAL)

    def body(self) -> bytes:
        return b'{"errors":' + errors_json(self.message, self.code) + b"}"


def errors_json(message: str, code: ErrorCode) -> bytes:
    """A list of one GraphQL error, as JSON."""
    return orjson.dumps([{"message": message, "extensions": {"code": MEANINGS[code].extensions_code}}])


def internal_message(request_id: str) -> str:
    return f"Internal error. Report it with the request id {request_id}."
