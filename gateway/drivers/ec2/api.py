"""The EC2 API for the `ec2` driver: clients, pagination, classification of errors.

This module knows nothing of operations. A call that only reads is tried up to 3 times; a call that changes something is
sent once.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

import boto3
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError
from botocore.session import get_session

from gateway.drivers.base import ReportedMachine, count_listed, parsing, report_each
from gateway.drivers.ec2.parsing import (
    EbsSnapshot,
    Image,
    ParserFactory,
    read_ebs_snapshot,
    read_image,
    read_instances,
)
from gateway.drivers.threads import Threads
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.http_client.responses import find_rejection
from gateway.http_client.urllib3_limits import limit_urllib3

limit_urllib3()

T = TypeVar("T")
Filters = Mapping[str, Sequence[str]]

_MAX_FILTER_VALUES = 200  # EC2's limit per filter
_PAGE_SIZE = 200  # EC2 allows 1,000, whose XML would hold the interpreter's lock for too long
_READ_CONCURRENCY = 4
_WRITE_ATTEMPTS, _READ_ATTEMPTS = 1, 3

MALFORMED = "The provider's response is malformed."

_LISTED_STATES = ("pending", "running", "shutting-down", "stopping", "stopped")


class NameTaken(ProviderRefused):
    """Another image of the account has the name."""


class InUse(ProviderBusy):
    """An image uses the EBS snapshot."""


class Listing(NamedTuple, Generic[T]):
    """What was read of a listing. `omitted`: the reasons for the items that could not be read."""

    items: list[T]
    omitted: list[str]

    def complete(self) -> list[T]:
        """The items. Raises ProviderUnavailable if one could not be read, as it may be any."""
        if self.omitted:
            raise ProviderUnavailable(self.omitted[0])
        return self.items


class Ec2Api:
    """One account in one region. `session`: the arguments of boto3.Session."""

    def __init__(self, session: Mapping[str, Any], address: str | None, timeout: float, concurrency: int) -> None:
        self._session = session
        self._address = address
        self._timeout = timeout
        # The client times out first, because it knows whether the request was sent.
        self._read_threads = Threads(_READ_CONCURRENCY, 3 * timeout)
        self._write_threads = Threads(concurrency, 3 * timeout)
        self._max_connections = _READ_CONCURRENCY + concurrency
        self._clients: dict[int, Any] = {}  # by the number of attempts
        self._lock = threading.Lock()

    async def instances(self, filters: Filters) -> list[ReportedMachine]:
        """The instances that match the filters, except terminated ones."""
        filters = {**filters, "instance-state-name": _LISTED_STATES}
        return (await self._read_pages("describe_instances", "Reservations", filters, read_instances)).complete()

    async def images(self, filters: Filters) -> Listing[Image]:
        """The account's images that match the filters, except deregistered ones."""
        found = await self._read_pages(
            "describe_images", "Images", filters, lambda raw: [read_image(raw)], Owners=["self"], IncludeDisabled=True
        )
        return Listing([image for image in found.items if image.state != "deregistered"], found.omitted)

    async def ebs_snapshots(self, filters: Filters) -> list[EbsSnapshot]:
        """The account's EBS snapshots that match the filters."""
        found = await self._read_pages(
            "describe_snapshots", "Snapshots", filters, lambda raw: [read_ebs_snapshot(raw)], OwnerIds=["self"]
        )
        return found.complete()

    async def ebs_snapshots_by_ref(self, refs: Sequence[str]) -> list[EbsSnapshot]:
        """The EBS snapshots with these refs. Refs that do not exist are left out."""
        pages = [refs[start : start + _MAX_FILTER_VALUES] for start in range(0, len(refs), _MAX_FILTER_VALUES)]
        return [found for page in pages for found in await self.ebs_snapshots({"snapshot-id": page})]

    async def ping(self) -> None:
        """Returns if EC2 answers. Raises ProviderError otherwise."""
        await self._read_threads.read(self._call, _READ_ATTEMPTS, "describe_instances", {"MaxResults": 5})

    async def write(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Calls an action that changes something, once. Raises OutcomeUnknown if it may have been executed."""
        return await self._write_threads.write(self._call, _WRITE_ATTEMPTS, action, arguments)

    async def compute(self, function: Callable[[], T]) -> T:
        """Runs a function in a thread, so that it does not hold the event loop."""
        return await self._read_threads.read(function)

    def close(self) -> None:
        """Closes the connections."""
        for client in self._clients.values():
            client.close()

    async def _read_pages(
        self, action: str, member: str, filters: Filters, read: Callable[[Any], Sequence[T]], **arguments: Any
    ) -> Listing[T]:
        """What `read` finds in the items of all pages."""
        arguments["Filters"] = [{"Name": name, "Values": [*values]} for name, values in filters.items()]
        arguments["MaxResults"] = _PAGE_SIZE
        found = Listing[T]([], [])
        total = 0
        while True:
            page, next_token = await self._read_threads.read(self._read_page, action, member, arguments, read)
            total = count_listed(total, [*page.items, *page.omitted])
            found.items.extend(page.items)
            found.omitted.extend(page.omitted)
            if not next_token:
                return found
            arguments["NextToken"] = next_token

    # ---- executed in threads

    def _read_page(
        self, action: str, member: str, arguments: Mapping[str, Any], read: Callable[[Any], Sequence[T]]
    ) -> tuple[Listing[T], str | None]:
        answer = self._call(_READ_ATTEMPTS, action, arguments)
        with parsing():
            found, omitted = report_each(answer[member], read)
            return Listing([item for items in found for item in items], [*omitted]), answer.get("NextToken")

    def _call(self, attempts: int, action: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        write = attempts == _WRITE_ATTEMPTS
        try:
            answer: dict[str, Any] = getattr(self._client(attempts), action)(**arguments)
        except boto.ClientError as error:
            raise _classified(error, write) from None
        except boto.ConnectionError as error:  # the request was not sent
            raise ProviderUnavailable("The provider cannot be reached.", provider_message=str(error)) from None
        except boto.HTTPClientError as error:
            kind = OutcomeUnknown if write else ProviderUnavailable
            if rejection := find_rejection(error):
                raise kind(str(rejection)) from None
            raise kind("The provider's response was lost.", provider_message=str(error)) from None
        except boto.BotoCoreError as error:
            message = "The gateway cannot sign in to the provider. Check the credential options of the provider."
            raise ProviderDenied(message, provider_message=str(error)) from None
        except (ResponseParserError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
            raise (OutcomeUnknown if write else ProviderUnavailable)(MALFORMED) from None
        return answer

    def _client(self, attempts: int) -> Any:
        """The client with this number of attempts.

        Clients are created on the first call, in a thread, because this reads files and may wait for credentials.
        """
        with self._lock:
            if not self._clients:
                core = get_session()
                core.register_component("data_loader", _loader())
                core.register_component("response_parser_factory", ParserFactory())
                session = boto3.Session(botocore_session=core, **self._session)
                for each in (_WRITE_ATTEMPTS, _READ_ATTEMPTS):
                    config = Config(
                        connect_timeout=self._timeout,
                        read_timeout=self._timeout,
                        retries={"mode": "standard", "total_max_attempts": each},
                        max_pool_connections=self._max_connections,
                    )
                    self._clients[each] = session.client("ec2", endpoint_url=self._address, config=config)
            return self._clients[attempts]


@cache
def _loader() -> Any:
    """What loads botocore's model of EC2, once for all providers. Each copy takes 0.25 s and 37 MB."""
    return get_session().get_component("data_loader")


# ---- errors of EC2


_DENIED = (ProviderDenied, "The provider does not accept the gateway's credentials.")
_FORBIDDEN = (ProviderDenied, "The gateway's credentials lack a permission that this call requires.")
_THROTTLED = (ProviderUnavailable, "The provider is throttling the gateway's requests.")
_BUSY = (ProviderBusy, "The provider is executing another task on this instance.")
_FULL = (ProviderFull, "A quota of the account has been reached.")
_MISSING = (ProviderMissing, "The provider has no such instance or image.")
_REFUSED = (ProviderRefused, "The provider refused the request.")

_ERRORS_BY_CODE: dict[str, tuple[type[ProviderError], str]] = {
    **dict.fromkeys(("AuthFailure", "Blocked", "ExpiredToken", "IncompleteSignature", "InvalidClientTokenId"), _DENIED),
    **dict.fromkeys(("MissingAuthenticationToken", "RequestExpired", "SignatureDoesNotMatch"), _DENIED),
    **dict.fromkeys(("AccessDenied", "OptInRequired", "PendingVerification", "UnauthorizedOperation"), _FORBIDDEN),
    **dict.fromkeys(("RequestLimitExceeded", "Throttling", "ThrottlingException"), _THROTTLED),
    **dict.fromkeys(("IncorrectInstanceState", "IncorrectState"), _BUSY),
    **dict.fromkeys(("ConcurrentSnapshotLimitExceeded", "PendingSnapshotLimitExceeded"), _BUSY),
    "SnapshotCreationPerVolumeRateExceeded": _BUSY,
    **dict.fromkeys(("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"), _MISSING),
    **dict.fromkeys(("InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable"), _MISSING),
    "InvalidSnapshot.NotFound": _MISSING,
    "InvalidSnapshot.InUse": (InUse, "An image uses the EBS snapshot."),
    "InvalidAMIName.Duplicate": (NameTaken, "Another image of the account has the name."),
}


def error_of(code: str, text: str) -> ProviderError:
    """The error for an error code of EC2. EC2's message `text` becomes its provider message."""
    kind, message = _ERRORS_BY_CODE.get(code) or (_FULL if code.endswith("LimitExceeded") else _REFUSED)
    return kind(message, provider_message=f"{text} ({code})" if text and code else text or code or None)


def _classified(error: boto.ClientError, write: bool) -> ProviderError:
    details = error.response.get("Error", {})
    code, text = str(details.get("Code") or ""), str(details.get("Message") or "")
    if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500 and code not in _ERRORS_BY_CODE:
        kind = OutcomeUnknown if write else ProviderUnavailable
        return kind("The provider reported an internal error.", provider_message=f"{text} ({code})")
    return error_of(code, text)
