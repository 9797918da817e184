"""Snapshots of volumes, of which the images of servers that run from volumes are made, for the `openstack` driver.

Nova has them made with such an image, but neither Nova nor Glance deletes them with it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.drivers.openstack.api import Cloud, nonsense, read_list, read_one, safe
from gateway.errors import ProviderMissing, ProviderRefused, ProviderUnavailable

_STAYS = "the image is deleted, but the snapshot of a volume could not be"


def snapshots_in(image: Mapping[str, Any]) -> list[str]:
    """The refs of those that the image is made of.

    An image that has bytes may name some too, but those are not its own: its server was made from an image with them.
    """
    if image.get("size") != 0:
        return []
    try:
        devices = orjson.loads(image.get("block_device_mapping") or "[]")
        return [device["snapshot_id"] for device in devices if device.get("snapshot_id")]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise nonsense(change=False) from None


class Volumes:
    """What Cinder says and does."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def snapshots_of(self, server: Mapping[str, Any]) -> set[str]:
        """The refs of all snapshots of the volumes that a server has."""
        attached = server.get("os-extended-volumes:volumes_attached") or []
        answers = [
            await self._cloud.ask("block_storage", f"/snapshots?volume_id={safe(volume['id'])}") for volume in attached
        ]
        return {row["id"] for answer in answers for row in read_list(answer, "snapshots")}

    async def state(self, ref: str) -> str | None:
        """The state of a snapshot; None when there is none."""
        try:
            found = read_one(await self._cloud.ask("block_storage", f"/snapshots/{safe(ref)}"), "snapshot")
        except ProviderMissing:
            return None
        except ProviderUnavailable:
            return "unknown"
        return str(found.get("status"))

    async def delete(self, refs: Sequence[str]) -> None:
        """Deletes snapshots whose image is gone, and waits until they are too."""
        for ref in refs:
            try:
                await self._cloud.tell("block_storage", "DELETE", f"/snapshots/{safe(ref)}")
            except ProviderMissing:
                continue
            except ProviderRefused as error:
                raise ProviderRefused(_STAYS, provider_message=error.provider_message) from None
        for ref in refs:
            pauses = self._cloud.pauses()
            while (state := await self.state(ref)) is not None:
                if state == "error_deleting":
                    raise ProviderRefused(_STAYS)
                await asyncio.sleep(next(pauses))
