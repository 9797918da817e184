"""Parses the responses of EC2 and of clouds with its API for the `ec2` driver. Pure, and run in threads.

botocore converts the whole response before the driver sees any of it, and fails if one value has another type than in
AWS's model. Clones of EC2 have such values, and leave members out. So `Parser` keeps a value that it cannot convert as
text, which costs its field alone (`report_machine`, `report_snapshot`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from botocore.compat import ETree
from botocore.parsers import EC2QueryParser, ResponseParserError, ResponseParserFactory

from gateway.drivers.base import (
    MachineFields,
    OddValue,
    ReportedMachine,
    ReportedSnapshot,
    is_ref,
    parse_iso_time,
    report_machine,
    report_snapshot,
    unreadable_machine,
)
from gateway.http_client.urllib3_limits import limit_urllib3
from gateway.models import MachineKind, PowerState

limit_urllib3()

TOKEN = "snapshot-gateway:token"  # noqa: S105 - a tag's key
DESCRIPTION = "snapshot-gateway:description"  # also a tag's key; the image's own description is limited to ASCII

_CHUNK = 2**16  # bytes of XML that are parsed while the parser holds the interpreter's lock; 1 ms
_POWER = {"running": PowerState.ON, "stopped": PowerState.OFF}
UNFINISHED = {"pending", "transient"}  # states of images
_INSTANCE_STORE = "The root disk is an instance store, of which EC2 cannot create an image."


class ParserFactory(ResponseParserFactory):  # type: ignore[misc]
    """Makes the parsers of a botocore session, as its component `response_parser_factory`."""

    def create_parser(self, protocol_name: str) -> Any:
        return Parser(timestamp_parser=str) if protocol_name == "ec2" else super().create_parser(protocol_name)


class Parser(EC2QueryParser):  # type: ignore[misc]
    """Returns the text of a value that has another type than in AWS's model, and of times."""

    def _parse_shape(self, shape: Any, node: Any) -> Any:
        try:
            return super()._parse_shape(shape, node)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return str(getattr(node, "text", None) or "")

    def _parse_xml_string_to_dom(self, xml_string: bytes) -> Any:
        parser = ETree.XMLParser(encoding=self.DEFAULT_ENCODING)
        try:
            for start in range(0, len(xml_string), _CHUNK):
                parser.feed(xml_string[start : start + _CHUNK])
            return parser.close()
        except ETree.ParseError:
            raise ResponseParserError("The response is not XML.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An AMI: the snapshot that the driver reports for it, without its size, and what only the driver needs."""

    snapshot: ReportedSnapshot
    state: str | None  # None if EC2 does not report it
    machine_ref: str | None  # the instance it was created from; None for a copy of an image
    ebs_refs: Sequence[str]  # of the EBS snapshots that it consists of
    reason: tuple[str, str]  # code and message of its state; empty if EC2 gives none


@dataclass(frozen=True, slots=True)
class EbsSnapshot:
    """An EBS snapshot of one disk."""

    ref: str
    token: str | None
    percent: int | None
    size: int | None  # in bytes, without blocks that were never written; None if EC2 does not report it


def read_instances(reservation: object) -> list[ReportedMachine]:
    """The instances of a reservation. A malformed reservation is an unreadable instance."""
    instances = _member(reservation, "Instances")
    if not isinstance(instances, list):
        return [unreadable_machine(None, MachineKind.INSTANCE)]
    return [_read_instance(raw) for raw in instances]


def _read_instance(raw: Any) -> ReportedMachine:
    ref, placement = _member(raw, "InstanceId"), _member(raw, "Placement")
    fields: MachineFields = {
        "name": lambda: _tags(raw).get("Name") or ref,
        "power_state": lambda: _power_state(raw),
        "host": lambda: _member(placement, "HostId"),
        "flavor": lambda: raw.get("InstanceType"),
        "availability_zone": lambda: _member(placement, "AvailabilityZone"),
        "snapshot_blocker": lambda: _INSTANCE_STORE if raw.get("RootDeviceType") == "instance-store" else None,
    }
    attached_at = _member(_first_attachment(raw), "AttachTime")
    if attached_at is not None:
        fields["created_at"] = lambda: parse_iso_time(attached_at)
    return report_machine(ref, MachineKind.INSTANCE, **fields)


def _power_state(raw: dict[str, Any]) -> PowerState:
    state = raw["State"]["Name"]
    if state == "stopped" and _member(raw, "StateReason", "Code") == "Client.UserInitiatedHibernate":
        return PowerState.SUSPENDED
    return _POWER.get(state, PowerState.UNKNOWN)


def _first_attachment(raw: object) -> object:
    """The attachment of the first interface, which stays attached from creation to termination.

    An instance has no other time of its creation: LaunchTime is the time of the last start.
    """
    attachments = [_member(each, "Attachment") for each in _list(raw, "NetworkInterfaces")]
    return next((each for each in attachments if _member(each, "DeviceIndex") == 0), None)


def read_image(raw: Any) -> Image:
    """An image. Raises OddValue for one without a valid id."""
    ref, tags = _member(raw, "ImageId"), _tags(raw)
    state = _text(raw, "State")
    return Image(
        snapshot=report_snapshot(
            ref,
            name=lambda: tags.get("Name") or raw.get("Name") or ref,
            description=lambda: tags.get(DESCRIPTION, raw.get("Description")) or None,  # an empty tag: it was cleared
            created_at=lambda: parse_iso_time(raw.get("CreationDate")),
            token=lambda: tags.get(TOKEN),
            ready=lambda: raw["State"] not in UNFINISHED,
        ),
        state=state,
        machine_ref=_text(raw, "SourceInstanceId"),
        ebs_refs=[ref for each in _list(raw, "BlockDeviceMappings") if (ref := _text(each, "Ebs", "SnapshotId"))],
        reason=(
            (_text(raw, "StateReason", "Code") or "").rpartition(".")[2],
            _text(raw, "StateReason", "Message") or "",
        ),
    )


def read_ebs_snapshot(raw: object) -> EbsSnapshot:
    """An EBS snapshot. Raises OddValue for one without a valid id."""
    ref, token, size = _member(raw, "SnapshotId"), _tags(raw).get(TOKEN), _member(raw, "FullSnapshotSizeInBytes")
    if not is_ref(ref):
        raise OddValue("An EBS snapshot has no valid identifier.")
    return EbsSnapshot(
        ref=ref,
        token=token if is_ref(token) else None,
        percent=_percent(_member(raw, "Progress")),
        size=size if isinstance(size, int) and _member(raw, "State") == "completed" else None,
    )


def _percent(text: object) -> int | None:
    """EC2 reports "99%", or an empty text; some clouds report "99.5%"."""
    try:
        return max(0, min(100, int(float(str(text).strip().rstrip("%")))))
    except (OverflowError, ValueError):
        return None


def _tags(raw: object) -> dict[str, Any]:
    return {str(_member(tag, "Key")): _member(tag, "Value") for tag in _list(raw, "Tags")}


def _member(raw: object, *path: str) -> Any:
    """The member at a path; None if it is missing, or if one on the way is no structure."""
    for name in path:
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw


def _list(raw: object, name: str) -> list[Any]:
    """The list at a name; empty if it is missing or malformed."""
    found = _member(raw, name)
    return found if isinstance(found, list) else []


def _text(raw: object, *path: str) -> str | None:
    found = _member(raw, *path)
    return found if isinstance(found, str) else None
