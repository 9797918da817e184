"""What the `ec2` driver says to EC2 and hears of it: clients, pages, answers read into values, errors and their class.

Knows nothing of operations. What is asked may be asked again by the client; what is told is told once.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import boto3
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError

from gateway.drivers.base import ReportedMachine
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
from gateway.models import MachineKind, PowerState

T = TypeVar("T")
Filters = Mapping[str, Sequence[str]]

TOKEN = "snapshot-gateway:token"  # noqa: S105 - a tag's key
DESCRIPTION = "snapshot-gateway:description"  # a tag too: the image's own takes ASCII only

_VALUES = 200  # of one filter, at most
_PAGE = 1000
_QUESTIONS = 4  # at a time
_ONCE, _TRIES = 1, 3  # of what is told, and of what is asked

NONSENSE = "the provider's answer makes no sense"

_ALIVE = ("pending", "running", "shutting-down", "stopping", "stopped")
_POWER = {"running": PowerState.ON, "stopped": PowerState.OFF}
_NO_ROOT = "its root disk is an instance store, which EC2 makes no image of"


class NameTaken(ProviderRefused):
    """Another image of the account has that name."""


class InUse(ProviderBusy):
    """An image has that disk."""


@dataclass(frozen=True, slots=True)
class Image:
    """An AMI."""

    ref: str
    name: str
    description: str | None
    state: str
    machine_ref: str | None  # what it was made of; copies of images have none
    created_at: datetime
    token: str | None
    disk_refs: Sequence[str]
    reason: tuple[str, str]  # code and words of why it is in that state; empty when EC2 does not say


@dataclass(frozen=True, slots=True)
class Disk:
    """An EBS snapshot."""

    ref: str
    token: str | None
    percent: int | None
    size: int | None  # in bytes, without the blocks that were never written


class Api:
    """One account in one region. `session`: what boto3.Session is made with."""

    def __init__(self, session: Mapping[str, Any], address: str | None, timeout: float, concurrency: int) -> None:
        self._session = session
        self._address = address
        self._timeout = timeout
        # The client gives up first, because it knows whether anything was sent.
        self._asking = Threads(_QUESTIONS, 3 * timeout)
        self._telling = Threads(concurrency, 3 * timeout)
        self._slots = _QUESTIONS + concurrency
        self._clients: dict[int, Any] = {}  # by how often each tries
        self._lock = threading.Lock()

    async def instances(self, filters: Filters) -> list[ReportedMachine]:
        """Those that are not gone."""
        filters = {**filters, "instance-state-name": _ALIVE}
        reservations = await self._all("describe_instances", "Reservations", filters, _read_instances)
        return [machine for machines in reservations for machine in machines]

    async def images(self, filters: Filters) -> list[Image]:
        """Those that the account owns."""
        found = await self._all(
            "describe_images", "Images", filters, _read_image, Owners=["self"], IncludeDisabled=True
        )
        return [image for image in found if image.state != "deregistered"]

    async def disks(self, filters: Filters) -> list[Disk]:
        """Those that the account owns."""
        return await self._all("describe_snapshots", "Snapshots", filters, _read_disk, OwnerIds=["self"])

    async def disks_by_ref(self, refs: Sequence[str]) -> list[Disk]:
        """Those of them that there are."""
        pages = [refs[start : start + _VALUES] for start in range(0, len(refs), _VALUES)]
        return [disk for page in pages for disk in await self.disks({"snapshot-id": page})]

    async def answers(self) -> None:
        """Returns when EC2 answers."""
        await self._ask("describe_instances", {"MaxResults": 5})

    async def tell(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Calls what changes something."""
        return await self._telling.tell(self._call, _ONCE, action, arguments)

    def close(self) -> None:
        """Lets go of connections."""
        for client in self._clients.values():
            client.close()

    async def _ask(self, action: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return await self._asking.ask(self._call, _TRIES, action, arguments)

    async def _all(
        self, action: str, member: str, filters: Filters, read: Callable[[dict[str, Any]], T], **arguments: Any
    ) -> list[T]:
        """All pages of an answer."""
        arguments["Filters"] = [{"Name": name, "Values": [*values]} for name, values in filters.items()]
        arguments["MaxResults"] = _PAGE
        found: list[T] = []
        while True:
            page = await self._ask(action, arguments)
            try:
                found += [read(raw) for raw in page[member]]
            except (AttributeError, KeyError, TypeError, ValueError):
                raise ProviderUnavailable(NONSENSE) from None
            if not page.get("NextToken"):
                return found
            arguments["NextToken"] = page["NextToken"]

    # ---- in threads

    def _call(self, tries: int, action: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        told = tries == _ONCE
        try:
            answer: dict[str, Any] = getattr(self._client(tries), action)(**arguments)
        except boto.ClientError as error:
            raise _meaning(error, told) from None
        except boto.ConnectionError as error:  # before anything was sent
            raise ProviderUnavailable("the provider cannot be reached", provider_message=str(error)) from None
        except boto.HTTPClientError as error:
            kind = OutcomeUnknown if told else ProviderUnavailable
            raise kind("the provider's answer was lost", provider_message=str(error)) from None
        except boto.BotoCoreError as error:
            message = "the gateway cannot sign in to the provider as it is configured"
            raise ProviderDenied(message, provider_message=str(error)) from None
        except (ResponseParserError, ValueError):
            raise (OutcomeUnknown if told else ProviderUnavailable)(NONSENSE) from None
        return answer

    def _client(self, tries: int) -> Any:
        """Made with the first call, because that reads files and may wait for credentials."""
        with self._lock:
            if not self._clients:
                session = boto3.Session(**self._session)
                for each in (_ONCE, _TRIES):
                    config = Config(
                        connect_timeout=self._timeout,
                        read_timeout=self._timeout,
                        retries={"mode": "standard", "total_max_attempts": each},
                        max_pool_connections=self._slots,
                    )
                    self._clients[each] = session.client("ec2", endpoint_url=self._address, config=config)
            return self._clients[tries]


# ---- what EC2 says


_DENIED = (ProviderDenied, "the provider does not accept the gateway's credentials")
_FORBIDDEN = (ProviderDenied, "the gateway's credentials lack the right to do this")
_THROTTLED = (ProviderUnavailable, "the provider is asked too much at present")
_BUSY = (ProviderBusy, "the provider is doing other work on this instance")
_FULL = (ProviderFull, "a quota of the account is reached")
_GONE = (ProviderMissing, "the provider has no such instance or image")
_REFUSED = (ProviderRefused, "the provider refused")

_MEANINGS: dict[str, tuple[type[ProviderError], str]] = {
    **dict.fromkeys(("AuthFailure", "Blocked", "ExpiredToken", "IncompleteSignature", "InvalidClientTokenId"), _DENIED),
    **dict.fromkeys(("MissingAuthenticationToken", "RequestExpired", "SignatureDoesNotMatch"), _DENIED),
    **dict.fromkeys(("AccessDenied", "OptInRequired", "PendingVerification", "UnauthorizedOperation"), _FORBIDDEN),
    **dict.fromkeys(("RequestLimitExceeded", "Throttling", "ThrottlingException"), _THROTTLED),
    **dict.fromkeys(("IncorrectInstanceState", "IncorrectState"), _BUSY),
    **dict.fromkeys(("ConcurrentSnapshotLimitExceeded", "PendingSnapshotLimitExceeded"), _BUSY),
    "SnapshotCreationPerVolumeRateExceeded": _BUSY,
    **dict.fromkeys(("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"), _GONE),
    **dict.fromkeys(("InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable"), _GONE),
    "InvalidSnapshot.NotFound": _GONE,
    "InvalidSnapshot.InUse": (InUse, "an image has that snapshot of a disk"),
    "InvalidAMIName.Duplicate": (NameTaken, "the provider has another image of that name"),
}


def refusal(code: str, words: str) -> ProviderError:
    """What a code of EC2's means; its own words are kept."""
    kind, message = _MEANINGS.get(code) or (_FULL if code.endswith("LimitExceeded") else _REFUSED)
    return kind(message, provider_message=f"{words} ({code})" if words and code else words or code or None)


def _meaning(error: boto.ClientError, told: bool) -> ProviderError:
    said = error.response.get("Error", {})
    code, words = str(said.get("Code") or ""), str(said.get("Message") or "")
    if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500 and code not in _MEANINGS:
        kind = OutcomeUnknown if told else ProviderUnavailable
        return kind("the provider reported an error of its own", provider_message=f"{words} ({code})")
    return refusal(code, words)


def _read_instances(reservation: dict[str, Any]) -> list[ReportedMachine]:
    return [_read_instance(raw) for raw in reservation["Instances"]]


def _read_instance(raw: dict[str, Any]) -> ReportedMachine:
    state = raw["State"]["Name"]
    power = _POWER.get(state, PowerState.UNKNOWN)
    if state == "stopped" and raw.get("StateReason", {}).get("Code") == "Client.UserInitiatedHibernate":
        power = PowerState.SUSPENDED
    # An instance's LaunchTime is that of its last start, but its first interface stays attached for life.
    attached = [each["Attachment"] for each in raw.get("NetworkInterfaces", []) if "Attachment" in each]
    first: dict[str, Any] = next((each for each in attached if each.get("DeviceIndex") == 0), {})
    return ReportedMachine(
        ref=raw["InstanceId"],
        kind=MachineKind.INSTANCE,
        name=_tags(raw).get("Name") or raw["InstanceId"],
        power_state=power,
        host=raw.get("Placement", {}).get("HostId"),
        flavor=raw.get("InstanceType"),
        availability_zone=raw.get("Placement", {}).get("AvailabilityZone"),
        created_at=first["AttachTime"].astimezone(UTC) if "AttachTime" in first else None,
        obstacle=_NO_ROOT if raw.get("RootDeviceType") == "instance-store" else None,
    )


def _read_image(raw: dict[str, Any]) -> Image:
    tags = _tags(raw)
    reason = raw.get("StateReason", {})
    moment = datetime.fromisoformat(raw["CreationDate"])
    return Image(
        ref=raw["ImageId"],
        name=tags.get("Name") or raw["Name"],
        description=tags.get(DESCRIPTION) or raw.get("Description") or None,
        state=raw["State"],
        machine_ref=raw.get("SourceInstanceId"),
        created_at=moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC),
        token=tags.get(TOKEN),
        disk_refs=[each["Ebs"]["SnapshotId"] for each in raw.get("BlockDeviceMappings", []) if _has_disk(each)],
        reason=(reason.get("Code", "").rpartition(".")[2], reason.get("Message", "")),
    )


def _has_disk(mapping: dict[str, Any]) -> bool:
    return "SnapshotId" in mapping.get("Ebs", {})


def _read_disk(raw: dict[str, Any]) -> Disk:
    done = raw["State"] == "completed"
    progress = raw.get("Progress", "").rstrip("%")
    return Disk(
        ref=raw["SnapshotId"],
        token=_tags(raw).get(TOKEN),
        percent=int(progress) if progress else None,
        size=raw.get("FullSnapshotSizeInBytes") if done else None,
    )


def _tags(raw: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in raw.get("Tags", [])}
