"""Converts servers of Nova and images of Glance for the `openstack` driver. Pure, and run in threads.

A response may have any shape. An odd field costs that field alone (`report_machine`, `report_snapshot`), and an entry
without an id that entry alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from gateway.drivers.base import (
    OddValue,
    ReportedMachine,
    ReportedSnapshot,
    is_ref,
    parse_iso_time,
    report_each,
    report_machine,
    report_snapshot,
)
from gateway.errors import OutcomeUnknown, ProviderError, ProviderUnavailable
from gateway.models import MachineKind, PowerState

# Properties of images. Nova passes all properties on: if a server was created from such an image, the images of that
# server have them too. Therefore the token includes the server's id, and the description is valid only with this id.
# If the gateway describes an image of another client, the property has the id alone.
MACHINE, TOKEN, DESCRIPTION = "instance_uuid", "snapshot_gateway_token", "snapshot_gateway_description"

MAX_LENGTH = 255  # characters of a name and of a property; the gateway's database stores the whole text

# Nova's power states. The others (such as no state, or crashed) are reported as UNKNOWN.
_POWER = {1: PowerState.ON, 3: PowerState.SUSPENDED, 4: PowerState.OFF, 7: PowerState.SUSPENDED}
_DELETED = {"DELETED", "SOFT_DELETED"}
_NO_DATA = {"killed", "deleted", "pending_delete"}  # images that have been deleted, or whose creation failed
_UNFINISHED = {"queued", "saving", "uploading", "importing"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image: the snapshot that the driver reports for it, and what only the driver needs."""

    snapshot: ReportedSnapshot
    machine_ref: str | None  # the server it was created from
    status: str | None
    has_data: bool  # False for an image that was deleted, or whose creation failed
    property_values: Mapping[str, Any]
    # The refs of the volume snapshots that it consists of; None if they cannot be read.
    known_volume_refs: Sequence[str] | None

    @property
    def ref(self) -> str:
        return self.snapshot.ref

    @property
    def volume_refs(self) -> Sequence[str]:
        """The refs of the volume snapshots that it consists of. Raises ProviderUnavailable if they cannot be read."""
        if self.known_volume_refs is None:
            raise malformed(write=False)
        return self.known_volume_refs


@dataclass(frozen=True, slots=True)
class ImagePage:
    """The images that were searched in a page of `length` images. `next_path` is empty after the last page.

    `omitted`: the reasons for the entries without a valid id.
    """

    length: int
    images: Sequence[Image]
    omitted: Sequence[str]
    next_path: str


def malformed(write: bool) -> ProviderError:
    """The error for a malformed response. If `write` is true, the call may have been executed."""
    return (OutcomeUnknown if write else ProviderUnavailable)("The provider's response is malformed.")


def read_list(answer: Any, name: str) -> list[Any]:
    """The list under a name of the response. Raises ProviderUnavailable if there is none."""
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise malformed(write=False)
    return found


def read_refs(answer: Any, name: str) -> list[str]:
    """The ids of the objects of a list. Raises ProviderUnavailable if one has none."""
    page = read_list(answer, name)
    refs = [ref for ref in map(_ref, page) if is_ref(ref)]
    if len(refs) != len(page):
        raise malformed(write=False)
    return refs


def read_one(answer: Any, name: str | None = None) -> dict[str, Any]:
    """The object under a name of the response, or the response. Raises ProviderUnavailable if it has no valid id."""
    found = answer.get(name) if name and isinstance(answer, dict) else answer
    if not isinstance(found, dict) or not is_ref(_ref(found)):
        raise malformed(write=False)
    return found


def read_server(answer: Any) -> dict[str, Any] | None:
    """The server of a response; None if it is deleted. Raises ProviderUnavailable if the response is malformed."""
    server = read_one(answer, "server")
    return None if _status(server) in _DELETED else server


def read_machines(answer: Any) -> tuple[list[ReportedMachine], int, str]:
    """The machines of a page of servers, the length of the page, and the id at which the next page starts.

    The id is empty after the last page.
    """
    page = read_list(answer, "servers")
    machines = [read_machine(server) for server in page if _status(server) not in _DELETED]
    if not page or not answer.get("servers_links"):
        return machines, len(page), ""
    refs = [ref for ref in map(_ref, page) if is_ref(ref)]
    if not refs:
        raise malformed(write=False)
    return machines, len(page), refs[-1]


def read_machine(server: Any) -> ReportedMachine:
    """Converts a server of Nova."""
    return report_machine(
        _ref(server),
        MachineKind.INSTANCE,
        name=lambda: server.get("name") or "",
        power_state=lambda: _power_state(server.get("OS-EXT-STS:power_state")),
        description=lambda: server.get("description"),
        host=lambda: server.get("OS-EXT-SRV-ATTR:host"),
        flavor=lambda: (server.get("flavor") or {}).get("original_name"),
        availability_zone=lambda: server.get("OS-EXT-AZ:availability_zone") or None,
        created_at=lambda: parse_iso_time(server.get("created")),
    )


def _power_state(value: object) -> PowerState:
    if value is None:  # the cloud's policy hides it
        return PowerState.UNKNOWN
    if not isinstance(value, int | str):
        raise OddValue("is malformed")
    return _POWER.get(int(value), PowerState.UNKNOWN)


def read_images(answer: Any, name: str, value: str) -> ImagePage:
    """The images of a page that have a property, and data. Not every Glance filters by properties."""
    page = read_list(answer, "images")
    found, omitted = report_each(page, read_image)
    images = [image for image in found if image.property_values.get(name) == value and image.has_data]
    return ImagePage(len(page), images, omitted, _next_path(answer))


def read_image(image: Any) -> Image:
    """Converts an image. Raises OddValue if it has no valid id."""
    snapshot, volume_refs = _read_snapshot(image), _snapshots_in(image)
    if volume_refs is None:
        reason = "The list of the volume snapshots that it consists of is malformed."
        snapshot = replace(snapshot, problem=" ".join(filter(None, (snapshot.problem, reason))))
    properties = {name: image.get(name) for name in (MACHINE, TOKEN)}
    machine_ref, status = properties[MACHINE], _status(image)
    return Image(
        snapshot=snapshot,
        machine_ref=machine_ref if isinstance(machine_ref, str) else None,
        status=status,
        has_data=status not in _NO_DATA,
        property_values=properties,
        known_volume_refs=volume_refs,
    )


def _read_snapshot(image: Any) -> ReportedSnapshot:
    def description() -> object:
        return image.get(DESCRIPTION) or None if _token(image) is not None else None

    return report_snapshot(
        _ref(image),
        name=lambda: image.get("name") or "",
        created_at=lambda: parse_iso_time(image.get("created_at")),
        description=description,
        # 0 for the image of a server that runs from volumes: it contains no data itself
        size_bytes=lambda: image.get("size") or None,
        token=lambda: _token(image) or None,
        ready=lambda: image["status"] not in _UNFINISHED,
    )


def _token(image: Mapping[str, Any]) -> str | None:
    """The operation's token; empty if the gateway has only described the image; None if it did not do that either."""
    machine_ref, _, token = str(image.get(TOKEN)).partition(" ")
    return token if machine_ref == image.get(MACHINE) else None


def _snapshots_in(image: Mapping[str, Any]) -> list[str] | None:
    """The refs of the volume snapshots that an image consists of; None if they cannot be read.

    An image that contains data may name volume snapshots too, but these are inherited: its server was created from an
    image that consists of them.
    """
    if image.get("size") != 0:
        return []
    try:
        devices = orjson.loads(image.get("block_device_mapping") or "[]")
        refs = [device["snapshot_id"] for device in devices if device.get("snapshot_id")]
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    return refs if all(is_ref(ref) for ref in refs) else None


def _next_path(answer: Mapping[str, Any]) -> str:
    """The path of the next page of images; empty after the last. A URL would take the token to another host."""
    path = str(answer.get("next") or "").removeprefix("/v2")
    if path and not path.startswith("/images?"):
        raise malformed(write=False)
    return path


def image_properties(machine_ref: str, token: str, description: str | None) -> dict[str, str]:
    """The properties of an image of a machine.

    They include the server's id, because Nova sets it itself only if the image contains a disk.
    """
    # An empty description is also set, because otherwise the image would have an inherited one.
    described = description_properties(machine_ref, token, description or "")
    return {MACHINE: machine_ref, "image_type": "snapshot", **described}


def description_properties(machine_ref: str, token: str | None, description: str) -> dict[str, str]:
    """The properties that store a description; the token is None for an image made by another client."""
    text = re.sub(r"[^\0-\uffff]", "\ufffd", description)[:MAX_LENGTH]
    return {TOKEN: f"{machine_ref} {token}" if token else machine_ref, DESCRIPTION: text}


def _ref(row: object) -> object:
    return row.get("id") if isinstance(row, dict) else None


def _status(row: object) -> str | None:
    status = row.get("status") if isinstance(row, dict) else None
    return status if isinstance(status, str) else None
