"""The error tree and every error code. Knows nothing of HTTP, GraphQL or SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class ErrorCode(StrEnum):
    """What went wrong, stable for programs. Codes are added, never renamed."""

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
    """How one code looks on every surface, and what the caller can do about it."""

    extensions_code: str  # `extensions.code` of a top-level GraphQL error
    http_status: int  # of a REST answer
    rest_kind: str  # `error.kind` of a ManageIQ error body
    retryable: bool  # the same request may succeed later, unchanged
    advice: str  # what the caller does


MEANINGS: dict[ErrorCode, Meaning] = {
    ErrorCode.INVALID: Meaning(
        "BAD_USER_INPUT", 400, "bad_request", False, "Correct the argument that the path names."
    ),
    ErrorCode.UNAUTHENTICATED: Meaning("UNAUTHENTICATED", 401, "unauthorized", False, "Send valid credentials."),
    ErrorCode.FORBIDDEN: Meaning("FORBIDDEN", 403, "forbidden", False, "Ask for the right that the message names."),
    ErrorCode.NOT_FOUND: Meaning(
        "NOT_FOUND", 404, "not_found", False, "Check the id; what you may not see is reported the same way."
    ),
    ErrorCode.CONFLICT: Meaning(
        "CONFLICT", 409, "bad_request", False, "Wait for, or change, what `conflict` names; then ask again."
    ),
    ErrorCode.UNSUPPORTED: Meaning(
        "UNSUPPORTED", 400, "bad_request", False, "Read `capabilities` of the machine; the message gives the reason."
    ),
    ErrorCode.LIMIT_EXCEEDED: Meaning(
        "LIMIT_EXCEEDED", 429, "too_many_requests", True, "Ask for less, or ask again later."
    ),
    ErrorCode.IDEMPOTENCY_KEY_REUSED: Meaning(
        "IDEMPOTENCY_KEY_REUSED", 409, "bad_request", False, "Use a new key for a different request."
    ),
    ErrorCode.ABORTED: Meaning(
        "ABORTED", 409, "bad_request", False, "Correct the refused items; this one was not at fault."
    ),
    ErrorCode.PROVIDER_UNAVAILABLE: Meaning(
        "PROVIDER_UNAVAILABLE", 503, "service_unavailable", True, "Ask again later; nothing was changed."
    ),
    ErrorCode.PROVIDER_FAILED: Meaning(
        "PROVIDER_FAILED", 502, "bad_gateway", False, "Read `providerMessage`: the provider refused or failed."
    ),
    ErrorCode.OUTCOME_UNKNOWN: Meaning(
        "OUTCOME_UNKNOWN",
        504,
        "gateway_timeout",
        False,
        "Look at the machine before you ask again: it may have happened.",
    ),
    ErrorCode.UNAVAILABLE: Meaning(
        "SERVICE_UNAVAILABLE", 503, "service_unavailable", True, "Ask again in a moment; nothing was changed."
    ),
    ErrorCode.INTERNAL: Meaning(
        "INTERNAL_SERVER_ERROR", 500, "internal_server_error", False, "Report it with the request id."
    ),
}


def internal_message(request_id: str) -> str:
    """What is said of a bug: the log has the rest under the same id."""
    return f"Internal error. Report it with the request id {request_id}."


@dataclass(frozen=True, slots=True)
class Reference:
    """Points at one row that a client can fetch: `noun` is a table of `models`, `id` its number."""

    noun: str
    id: int


class GatewayError(Exception):
    """Everything the gateway says no with. The message is written for the caller and carries no SQL, Python or path.

    GatewayError
    ├── Refusal                  decided before anything was written
    │   ├── InvalidInput         INVALID: the request itself is wrong, `path` says where
    │   ├── Unauthenticated      UNAUTHENTICATED: no credentials came
    │   │   └── BadCredentials   UNAUTHENTICATED: some came, and are not good
    │   ├── Forbidden            FORBIDDEN
    │   ├── NotFound             NOT_FOUND: unknown, or not for this caller to see
    │   ├── Conflict             CONFLICT: `conflict` names what stands in the way
    │   ├── Unsupported          UNSUPPORTED: this machine or snapshot cannot do it, ever or as it is now
    │   ├── LimitExceeded        LIMIT_EXCEEDED
    │   │   └── Throttled        LIMIT_EXCEEDED: too much of one caller at once, who may ask again soon
    │   ├── IdempotencyKeyReused IDEMPOTENCY_KEY_REUSED
    │   └── Aborted              ABORTED: nothing wrong with this item, its request was all or nothing
    ├── Unavailable              UNAVAILABLE: the gateway cannot serve this now, and nothing was written
    ├── Unconfirmed              OUTCOME_UNKNOWN: the gateway cannot tell whether it was written, or what
    ├── ProviderError            raised by drivers; ends an operation
    │   ├── ProviderUnavailable  PROVIDER_UNAVAILABLE: nothing was begun, a later try may succeed
    │   ├── ProviderBusy         PROVIDER_UNAVAILABLE: the machine is locked by other work on the provider
    │   ├── ProviderRefused      PROVIDER_FAILED: the provider said no, and why
    │   ├── ProviderDenied       PROVIDER_FAILED: the provider does not accept the gateway's credentials or rights
    │   ├── ProviderFull         LIMIT_EXCEEDED: a quota of the provider's is reached, or its disk is full
    │   ├── ProviderMissing      NOT_FOUND: the provider has no such machine or snapshot
    │   └── OutcomeUnknown       OUTCOME_UNKNOWN: it may or may not have happened
    └── StartupError             the process cannot start; the message says what to do
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
        """The same error, pointing at `path` unless it points somewhere already."""
        self.path = self.path or tuple(str(step) for step in path)
        return self


class Refusal(GatewayError):
    """The wish was looked at and turned down; nothing was written."""


class InvalidInput(Refusal):
    """The request itself is wrong; `path` names the argument."""

    code = ErrorCode.INVALID


class Unauthenticated(Refusal):
    """Nobody known is asking."""

    code = ErrorCode.UNAUTHENTICATED


class BadCredentials(Unauthenticated):
    """Credentials came with the request, and are not good, or are so no longer."""

    def __init__(self, message: str = "The credentials are not valid.") -> None:
        super().__init__(message)


class Forbidden(Refusal):
    """The caller lacks the right."""

    code = ErrorCode.FORBIDDEN


class NotFound(Refusal):
    """There is no such thing, or the caller may not know of it."""

    code = ErrorCode.NOT_FOUND


class Conflict(Refusal):
    """Other work stands in the way; `conflict` names it."""

    code = ErrorCode.CONFLICT


class Unsupported(Refusal):
    """This machine or snapshot cannot do it; the message says why."""

    code = ErrorCode.UNSUPPORTED


class LimitExceeded(Refusal):
    """A stated limit is reached; a later try may succeed."""

    code = ErrorCode.LIMIT_EXCEEDED


class Throttled(LimitExceeded):
    """One caller asks for too much at once; the same may be asked again in `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class IdempotencyKeyReused(Refusal):
    """The key was used for a request with other arguments."""

    code = ErrorCode.IDEMPOTENCY_KEY_REUSED


class Aborted(Refusal):
    """The item was fine, but its request was all or nothing."""

    code = ErrorCode.ABORTED


class Unavailable(GatewayError):
    """The gateway cannot serve this now: its database is away, slow or full, or too many are waiting for it."""

    code = ErrorCode.UNAVAILABLE
    retry_after = 1  # seconds


class Unconfirmed(GatewayError):
    """The database went away before it said what it wrote."""

    code = ErrorCode.OUTCOME_UNKNOWN


class ProviderError(GatewayError):
    """The provider did not do it. `provider_message` keeps the provider's own words."""

    code = ErrorCode.PROVIDER_FAILED

    def __init__(self, message: str, *, provider_message: str | None = None) -> None:
        super().__init__(message)
        self.provider_message = provider_message


class ProviderUnavailable(ProviderError):
    """The provider could not be reached or would not listen; nothing was begun."""

    code = ErrorCode.PROVIDER_UNAVAILABLE


class ProviderBusy(ProviderUnavailable):
    """The provider is doing other work on this machine; nothing was begun."""


class ProviderRefused(ProviderError):
    """The provider understood and said no."""


class ProviderDenied(ProviderError):
    """The provider does not accept the gateway's credentials, or they lack the right; its operator has to see to it."""


class ProviderFull(ProviderError):
    """A quota of the provider's is reached, or its disk is full; nothing was left behind."""

    code = ErrorCode.LIMIT_EXCEEDED


class ProviderMissing(ProviderError):
    """The provider has no such machine or snapshot."""

    code = ErrorCode.NOT_FOUND


class OutcomeUnknown(ProviderError):
    """The provider stopped answering after the work was handed over: it may or may not have happened."""

    code = ErrorCode.OUTCOME_UNKNOWN


class StartupError(Exception):
    """The process cannot start or the command cannot run. A line per fault says what to do; exit code 2."""

    def __init__(self, *faults: str) -> None:
        super().__init__(*faults)
        self.faults = faults

    def __str__(self) -> str:
        return "; ".join(self.faults)
