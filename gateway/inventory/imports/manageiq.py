"""Converts the attributes of ManageIQ's Vms, Instances and snapshots into columns of the gateway. Pure.

An invalid value raises ValueError with the reason. The caller, which reads the file, adds the position.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from gateway.columns import folded
from gateway.inventory.imports.dump_file import NO_CHARACTER
from gateway.models import MachineKind, PowerState, SnapshotState

_LARGEST = 2**63 - 1
_LARGEST_ID = 4 * 10**18  # leaves more than half of the 64-bit ids for new rows
_TEXT_LIMIT = 4_000  # characters; more than any provider allows. Imported names may exceed the gateway's limit of 255
_DESCRIPTION_LIMIT = 8_192  # characters, as of a provider; the rest is cut off
_NAME_LIMIT = 2_000  # bytes of a name in UTF-8, folded or not; PostgreSQL refuses rows of an index above 2,704 bytes
_ID_IN_HREF = re.compile(r"/(\d+)/?(?:\?.*)?$")
_COLLECTION_IN_HREF = re.compile(r"/(vms|instances)/\d+/?(?:\?.*)?$")
_POWER = {
    "on": PowerState.ON,
    "off": PowerState.OFF,
    "suspended": PowerState.SUSPENDED,
    "paused": PowerState.SUSPENDED,
    "shelved": PowerState.OFF,
    "shelved_offloaded": PowerState.OFF,
    "terminated": PowerState.OFF,
}
_CREATING, _ERROR = "creating", "error"  # states of snapshots in the response of a gateway; ManageIQ has none
_FLAGS = {None: False, 0: False, 1: True, "0": False, "1": True, "false": False, "true": True, "f": False, "t": True}


class ImportedMachine(NamedTuple):
    """A machine as columns of the table `machine`. `created_at` and `gone_at` are None when the file has no time.

    `kind` is None for what is most likely a Vm: ManageIQ's collection `vms` contains all Instances too.
    """

    id: int
    kind: MachineKind | None
    name: str
    name_folded: str
    description: str | None
    description_folded: str | None
    provider_ref: str
    provider_ref_folded: str
    provider_uid: str | None
    power_state: PowerState
    host: str | None
    host_folded: str | None
    flavor: str | None
    availability_zone: str | None
    is_gone: bool
    gone_at: datetime | None
    created_at: datetime | None


class ImportedSnapshot(NamedTuple):
    """A snapshot as columns of the table `snapshot`. `created_at` is None when the file does not contain it."""

    id: int
    parent_id: int | None
    name: str
    name_folded: str
    description: str | None
    description_folded: str | None
    state: SnapshotState
    memory: bool
    is_current: bool
    size_bytes: int | None
    provider_ref: str | None
    provider_ref_folded: str | None
    created_by: str | None
    created_by_folded: str | None
    created_at: datetime | None


def machine(attributes: dict[str, Any], collection: str | None) -> ImportedMachine:
    """Converts a machine. `collection` is `vms`, `instances` or None when unknown. Raises ValueError."""
    id = _id(attributes)
    name = _name(attributes)
    description = _description(attributes)
    uid = _text(attributes, "uid_ems")
    ref = _text(attributes, "ems_ref") or uid or str(id)
    host = _name_of(attributes, "host")
    power = _text(attributes, "power_state")
    return ImportedMachine(
        id=id,
        kind=_kind(attributes, collection),
        name=name,
        name_folded=name.casefold(),
        description=description,
        description_folded=folded(description),
        provider_ref=ref,
        provider_ref_folded=ref.casefold(),
        provider_uid=uid,
        power_state=_POWER.get((power or "").lower(), PowerState.UNKNOWN),
        host=host,
        host_folded=folded(host),
        flavor=_name_of(attributes, "flavor"),
        availability_zone=_name_of(attributes, "availability_zone"),
        is_gone=_is_gone(attributes),
        gone_at=_moment(attributes, "gone_on"),
        created_at=_moment(attributes, "created_on"),
    )


def snapshot(attributes: dict[str, Any]) -> ImportedSnapshot:
    """Converts a snapshot. Raises ValueError."""
    id = _id(attributes)
    name = _name(attributes)
    description = _description(attributes)
    state = _text(attributes, "state")
    if state == _CREATING:
        raise ValueError("The snapshot is still being created. Import the machine again later.")
    ref = _text(attributes, "ems_ref") or _text(attributes, "uid_ems") or (None if state == _ERROR else str(id))
    created_by = _text(attributes, "created_by")
    parent = attributes.get("parent_id")
    return ImportedSnapshot(
        id=id,
        parent_id=None if parent is None or parent == "" else _number("parent_id", parent),
        name=name,
        name_folded=name.casefold(),
        description=description,
        description_folded=folded(description),
        state=SnapshotState.ERROR if state == _ERROR else SnapshotState.READY,
        memory=_flag(attributes, "memory"),
        is_current=_flag(attributes, "current"),
        size_bytes=_size(attributes.get("total_size")),
        provider_ref=ref,
        provider_ref_folded=folded(ref),
        created_by=created_by,
        created_by_folded=folded(created_by),
        created_at=_moment(attributes, "create_time") or _moment(attributes, "created_on"),
    )


def _kind(attributes: dict[str, Any], collection: str | None) -> MachineKind | None:
    """Follows `cloud`, then `type`, and only then the collection, because `vms` contains all Instances too."""
    if isinstance(cloud := attributes.get("cloud"), bool):
        return MachineKind.INSTANCE if cloud else MachineKind.VM
    if isinstance(type_ := attributes.get("type"), str) and "Manager" in type_:
        return MachineKind.INSTANCE if "CloudManager" in type_ else MachineKind.VM
    href = attributes.get("href")
    if collection is None and isinstance(href, str) and (match := _COLLECTION_IN_HREF.search(href)):
        collection = match[1]
    if collection is None:
        raise ValueError("The machine has no 'href', 'cloud' or 'type' that says whether it is a Vm or an Instance.")
    return MachineKind.INSTANCE if collection == "instances" else None


def _is_gone(attributes: dict[str, Any]) -> bool:
    """Whether no provider has the machine: it is archived, or orphaned. By default the response has only `ems_id`."""
    known = [attributes[name] for name in ("archived", "orphaned") if attributes.get(name) is not None]
    return True in known if known else attributes.get("ems_id", "") is None


def _id(attributes: dict[str, Any]) -> int:
    value = attributes.get("id")
    if value is not None:
        return _number("id", value)
    href = attributes.get("href")
    if isinstance(href, str) and (match := _ID_IN_HREF.search(href)):
        return _number("href", match[1])
    raise ValueError("The record has neither an 'id' nor an 'href' that ends in an id.")


def _number(name: str, value: Any) -> int:
    # ASCII digits only, since int() accepts others, and at most 20, since int() of a long text is slow.
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST_ID:
        raise ValueError(f"Attribute {name!r} must be a whole number from 1 to {_LARGEST_ID}, not {_format(value)}.")
    return value


def _text(attributes: dict[str, Any], name: str) -> str | None:
    value = attributes.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # the references of some providers are numbers
    if not isinstance(value, str):
        raise ValueError(f"Attribute {name!r} must be text, not {_format(value)}.")  # noqa: TRY004
    if len(value) > _TEXT_LIMIT and name != "description":
        raise ValueError(f"Attribute {name!r} is longer than {_TEXT_LIMIT:,} characters.")
    if "\0" in value:
        raise ValueError(f"Attribute {name!r} contains a NUL character.")
    if NO_CHARACTER in value:
        raise ValueError(f"Attribute {name!r} contains half of a surrogate pair, which is no character.")
    return value


def _name(attributes: dict[str, Any]) -> str:
    name = _text(attributes, "name") or ""
    # Short names need not be encoded: a character is folded to at most three, of at most four bytes each.
    if len(name) * 12 > _NAME_LIMIT and max(len(name.encode()), len(name.casefold().encode())) > _NAME_LIMIT:
        raise ValueError(f"Attribute 'name' is longer than {_NAME_LIMIT:,} bytes.")
    return name


def _description(attributes: dict[str, Any]) -> str | None:
    description = _text(attributes, "description")
    return description and description[:_DESCRIPTION_LIMIT]


def _name_of(attributes: dict[str, Any], name: str) -> str | None:
    """The text of an attribute, or the `name` of the object that it holds."""
    value = attributes.get(name)
    if isinstance(value, dict):
        return _text({f"{name}.name": value.get("name")}, f"{name}.name")
    return _text(attributes, name)


def _moment(attributes: dict[str, Any], name: str) -> datetime | None:
    value = attributes.get(name)
    if value is None or value == "":
        return None
    try:
        moment = datetime.fromisoformat(value.removesuffix(" UTC"))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, AttributeError, OverflowError):
        raise ValueError(f"Attribute {name!r} must be an ISO 8601 time, not {_format(value)}.") from None


def _flag(attributes: dict[str, Any], name: str) -> bool:
    value = attributes.get(name)
    try:
        return _FLAGS[value]
    except (KeyError, TypeError):
        raise ValueError(f"Attribute {name!r} must be 0 or 1, not {_format(value)}.") from None


def _size(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if isinstance(value, Decimal) and 0 <= value <= _LARGEST and value == value.to_integral_value():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise ValueError(f"Attribute 'total_size' must be a number of bytes, not {_format(value)}.")
    return value


def _format(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = '"' + value + '"' if isinstance(value, str) else str(value)
    return shortened(text)


def shortened(text: str) -> str:
    """The text as a message contains it: its first 60 characters."""
    return text if len(text) <= 60 else text[:60] + "…"
