"""Snapshots of volumes for the `openstack` driver. The image of a server that runs from volumes consists of them.

Nova creates them together with the image, but neither Nova nor Glance deletes them with the image.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.drivers.base import parsing
from gateway.drivers.openstack.api import OpenStackApi, malformed, path_segment, read_list, read_one
from gateway.errors import ProviderMissing, ProviderRefused, ProviderUnavailable

_ATTACHED = "os-extended-volumes:volumes_attached"
_NOT_DELETED = "The image was deleted, but the snapshot of a volume could not be deleted."


def snapshots_in(image: Mapping[str, Any]) -> list[str]:
    """The refs of the volume snapshots that an image consists of.

    An image that contains data may name volume snapshots too, but these are inherited: its server was created from an
    image that consists of them.
    """
    if image.get("size") != 0:
        return []
    try:
        devices = orjson.loads(image.get("block_device_mapping") or "[]")
        return [device["snapshot_id"] for device in devices if device.get("snapshot_id")]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise malformed(write=False) from None


class VolumeSnapshots:
    """Reads and deletes volume snapshots with Cinder."""

    def __init__(self, api: OpenStackApi) -> None:
        self._api = api

    async def refs_of(self, server: Mapping[str, Any]) -> set[str]:
        """The refs of all snapshots of a server's volumes."""
        with parsing():
            volume_ids = [path_segment(volume["id"]) for volume in server.get(_ATTACHED) or []]
        answers = [await self._api.read("block_storage", f"/snapshots?volume_id={id_}") for id_ in volume_ids]
        return {row["id"] for answer in answers for row in read_list(answer, "snapshots")}

    async def state(self, ref: str) -> str | None:
        """The state of a snapshot; "unknown" if Cinder does not answer, None if there is no such snapshot."""
        try:
            found = read_one(await self._api.read("block_storage", f"/snapshots/{path_segment(ref)}"), "snapshot")
        except ProviderMissing:
            return None
        except ProviderUnavailable:
            return "unknown"
        return str(found.get("status"))

    async def delete(self, refs: Sequence[str]) -> None:
        """Deletes snapshots whose image has been deleted, and waits until they no longer exist."""
        for ref in refs:
            try:
                await self._api.write("block_storage", "DELETE", f"/snapshots/{path_segment(ref)}")
            except ProviderMissing:
                continue
            except ProviderRefused as error:
                raise ProviderRefused(_NOT_DELETED, provider_message=error.provider_message) from None
        for ref in refs:
            delays = self._api.poll_delays()
            while (state := await self.state(ref)) is not None:
                if state == "error_deleting":
                    raise ProviderRefused(_NOT_DELETED)
                await asyncio.sleep(next(delays))
