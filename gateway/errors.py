"""The exception tree and all error codes. Independent of HTTP, GraphQL and SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class ErrorCode(StrEnum):
    """Stable, machine-readable error codes. Codes may be added; existing codes are never renamed."""

    INVALID = "INVALID"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    UNSUPPORTED = "UNSUPPORTED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    ABORTED = "ABORTED"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    PROVIDER_FAILED = "PROVIDER_FAILED"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Meaning:
    """How an error code is represented on each surface, and what the caller can do about the error."""

    extensions_code: str  # `extensions.code` of a top-level GraphQL error
    http_status: int  # of a REST response, and of a GraphQL request that is refused before it is executed
    retryable: bool  # the same request may succeed later without changes
    advice: str  # what the code means and what the caller should do; also the description in the GraphQL schema


MEANINGS: dict[ErrorCode, Meaning] = {
    ErrorCode.INVALID: Meaning(
        "BAD_USER_INPUT", 400, False, "The input is invalid. Correct the argument named by `path`."
    ),
    ErrorCode.UNAUTHENTICATED: Meaning(
        "UNAUTHENTICATED",
        401,
        False,
        "The credentials are missing or invalid. Send valid credentials.",
    ),
    ErrorCode.FORBIDDEN: Meaning(
        "FORBIDDEN",
        403,
        False,
        "The caller lacks the right named in the message. Ask an administrator for it.",
    ),
    ErrorCode.NOT_FOUND: Meaning(
        "NOT_FOUND",
        404,
        False,
        "The object does not exist, or the caller may not see it. Check the id.",
    ),
    ErrorCode.CONFLICT: Meaning(
        "CONFLICT",
        409,
        False,
        "Another operation or snapshot prevents the action; see `conflict`. Wait for it or change it, then retry.",
    ),
    ErrorCode.UNSUPPORTED: Meaning(
        "UNSUPPORTED",
        400,
        False,
        "The machine or snapshot does not support the action. The message states why; see `capabilities`.",
    ),
    ErrorCode.LIMIT_EXCEEDED: Meaning(
        "LIMIT_EXCEEDED",
        429,
        True,
        "A limit or quota is exceeded. Send a smaller request, or retry later.",
    ),
    ErrorCode.IDEMPOTENCY_KEY_REUSED: Meaning(
        "IDEMPOTENCY_KEY_REUSED",
        409,
        False,
        "The idempotency key was used with different arguments. Use a new key.",
    ),
    ErrorCode.ABORTED: Meaning(
        "ABORTED",
        409,
        False,
        "This item is valid, but another item of the all-or-nothing request was refused. Correct the refused items.",
    ),
    ErrorCode.PROVIDER_UNAVAILABLE: Meaning(
        "PROVIDER_UNAVAILABLE",
        503,
        True,
        "The provider is unreachable or busy. Nothing was changed. Retry later.",
    ),
    ErrorCode.PROVIDER_FAILED: Meaning(
        "PROVIDER_FAILED",
        502,
        False,
        "The provider refused the request or failed to complete it. See `providerMessage`.",
    ),
    ErrorCode.OUTCOME_UNKNOWN: Meaning(
        "OUTCOME_UNKNOWN",
        504,
        False,
        "The operation may have taken effect. Check the machine before retrying.",
    ),
    ErrorCode.UNAVAILABLE: Meaning(
        "SERVICE_UNAVAILABLE",
        503,
        True,
        "The gateway is temporarily unavailable. Nothing was changed. Retry after a short delay.",
    ),
    ErrorCode.INTERNAL: Meaning("INTERNAL_SERVER_ERROR", 500, False, "Internal error. Report it with the request id."),
}


def internal_message(request_id: str) -> str:
    """The message that clients receive for a bug. The log has the details under the same request id."""
    return f"Internal error. Report it with the request id {request_id}."


MAX_MESSAGE = 1_000  # characters of the message of an error; one that repeats the input could be as long as the input


def shortened(message: str) -> str:
    """The message as clients receive it: the beginning of one that is longer than `MAX_MESSAGE`."""
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to one row that a client can fetch: `noun` is a table name in `models`, `id` the row's number."""

    noun: str
    id: int


class GatewayError(Exception):
    """Base class of all errors that are reported to callers.

    `message` is written for the caller and contains no SQL, Python code or file system path. `path` names the
    offending argument; `conflict` references the row that prevents the action.

    GatewayError
    ├── Refusal                  raised before anything is written
    │   ├── InvalidInput         INVALID: the request itself is invalid; `path` names the argument
    │   ├── Unauthenticated      UNAUTHENTICATED: the request has no credentials
    │   │   └── BadCredentials   UNAUTHENTICATED: the credentials are invalid, expired or revoked
    │   ├── Forbidden            FORBIDDEN: the caller lacks a right
    │   ├── NotFound             NOT_FOUND: the row does not exist, or the caller may not see it
    │   ├── Conflict             CONFLICT: `conflict` references the row that prevents the action
    │   ├── Unsupported          UNSUPPORTED: the machine or snapshot cannot do this, ever or in its current state
    │   ├── LimitExceeded        LIMIT_EXCEEDED: a limit or quota is reached
    │   │   ├── Throttled        LIMIT_EXCEEDED: the caller exceeds its rate; `retry_after` is the delay in seconds
    │   │   └── RequestTooLarge  LIMIT_EXCEEDED: the request is too large or too expensive; a retry does not help
    │   │       └── TooManyItems LIMIT_EXCEEDED: a list has more items than it may return
    │   ├── IdempotencyKeyReused IDEMPOTENCY_KEY_REUSED: the key was used with different arguments
    │   └── Aborted              ABORTED: the item is valid, but its all-or-nothing request has a refused item
    ├── Unavailable              UNAVAILABLE: the gateway cannot serve the request now; nothing was written
    ├── Unconfirmed              OUTCOME_UNKNOWN: it is unknown whether, or what, the database has written
    ├── ProviderError            raised by drivers; ends an operation
    │   ├── ProviderUnavailable  PROVIDER_UNAVAILABLE: the work was not started; a retry may succeed
    │   ├── ProviderBusy         PROVIDER_UNAVAILABLE: the provider has locked the machine for other work
    │   ├── ProviderRefused      PROVIDER_FAILED: the provider refused the request and gave a reason
    │   ├── ProviderDenied       PROVIDER_FAILED: the provider rejected the gateway's credentials or permissions
    │   ├── ProviderFull         LIMIT_EXCEEDED: a quota of the provider is reached, or its disk is full
    │   ├── ProviderMissing      NOT_FOUND: the provider does not have the machine or snapshot
    │   └── OutcomeUnknown       OUTCOME_UNKNOWN: the work may or may not have taken effect
    └── StartupError             the process cannot start; the message states what to do (not a GatewayError)
    """

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, message: str, *, path: Sequence[str | int] = (), conflict: Reference | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.path = tuple(str(step) for step in path)
        self.conflict = conflict

    @property
    def retryable(self) -> bool:
        return MEANINGS[self.code].retryable

    def at(self, *path: str | int) -> Self:
        """Sets `path` unless it is already set, and returns this error."""
        self.path = self.path or tuple(str(step) for step in path)
        return self


class Refusal(GatewayError):
    """A request that was checked and not accepted; nothing was written. A long message is shortened."""

    def __init__(self, message: str, *, path: Sequence[str | int] = (), conflict: Reference | None = None) -> None:
        super().__init__(shortened(message), path=path, conflict=conflict)


class InvalidInput(Refusal):
    """The request itself is invalid; `path` names the argument."""

    code = ErrorCode.INVALID


class Unauthenticated(Refusal):
    """The request has no credentials."""

    code = ErrorCode.UNAUTHENTICATED


class BadCredentials(Unauthenticated):
    """The credentials of the request are invalid, expired or revoked."""

    def __init__(self, message: str = "The credentials are not valid.") -> None:
        super().__init__(message)


class Forbidden(Refusal):
    """The caller lacks a right that the action requires."""

    code = ErrorCode.FORBIDDEN


class NotFound(Refusal):
    """The row does not exist, or the caller may not see it."""

    code = ErrorCode.NOT_FOUND


class Conflict(Refusal):
    """Another operation or snapshot prevents the action; `conflict` references it."""

    code = ErrorCode.CONFLICT


class Unsupported(Refusal):
    """The machine or snapshot does not support the action; the message states why."""

    code = ErrorCode.UNSUPPORTED


class LimitExceeded(Refusal):
    """A documented limit or quota is reached; a retry may succeed."""

    code = ErrorCode.LIMIT_EXCEEDED


class Throttled(LimitExceeded):
    """The caller exceeds its rate limit. The same request may be retried after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestTooLarge(LimitExceeded):
    """The request exceeds a limit of size or cost, or what the database can process. The same request fails again."""

    @property
    def retryable(self) -> bool:
        return False


class TooManyItems(RequestTooLarge):
    """A list has more items than it may return, so it cannot be returned."""


class IdempotencyKeyReused(Refusal):
    """The idempotency key was used for a request with different arguments."""

    code = ErrorCode.IDEMPOTENCY_KEY_REUSED


class Aborted(Refusal):
    """The item is valid, but another item of its all-or-nothing request was refused."""

    code = ErrorCode.ABORTED


class Unavailable(GatewayError):
    """The gateway cannot serve the request now: its database is unreachable, slow or full, or its queue is full."""

    code = ErrorCode.UNAVAILABLE
    retry_after = 1  # seconds


class Unconfirmed(GatewayError):
    """The database connection was lost before the result of a write was received."""

    code = ErrorCode.OUTCOME_UNKNOWN


class ProviderError(GatewayError):
    """The provider did not complete the work. `provider_message` is the provider's own message, if any."""

    code = ErrorCode.PROVIDER_FAILED

    def __init__(self, message: str, *, provider_message: str | None = None) -> None:
        super().__init__(message)
        self.provider_message = provider_message


class ProviderUnavailable(ProviderError):
    """The provider is unreachable or does not accept requests; the work was not started."""

    code = ErrorCode.PROVIDER_UNAVAILABLE


class ProviderBusy(ProviderUnavailable):
    """The provider is doing other work on this machine; the work was not started."""


class ProviderRefused(ProviderError):
    """The provider understood the request and refused it."""


class ProviderDenied(ProviderError):
    """The provider rejected the gateway's credentials, or they lack a permission. An operator must correct this."""


class ProviderFull(ProviderError):
    """A quota of the provider is reached, or its disk is full. No partial snapshot was left behind."""

    code = ErrorCode.LIMIT_EXCEEDED


class ProviderMissing(ProviderError):
    """The provider does not have the machine or snapshot."""

    code = ErrorCode.NOT_FOUND


class OutcomeUnknown(ProviderError):
    """The provider stopped responding after the work was submitted: it may or may not have taken effect."""

    code = ErrorCode.OUTCOME_UNKNOWN


class StartupError(Exception):
    """The process cannot start or the command cannot run. Each problem states what to do. Exit code 2."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(self.problems)
