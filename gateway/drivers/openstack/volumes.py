"""Snapshots of volumes for the `openstack` driver. The image of a server that runs from volumes consists of them.

Nova creates them together with the image, but neither Nova nor Glance deletes them with the image.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gateway.drivers.base import parsing
from gateway.drivers.openstack.api import OpenStackApi, path_segment
from gateway.drivers.openstack.parsing import read_one, read_refs
from gateway.errors import ProviderMissing, ProviderRefused, ProviderUnavailable

_ATTACHED = "os-extended-volumes:volumes_attached"
_NOT_DELETED = "The image was deleted, but the snapshot of a volume could not be deleted."


class VolumeSnapshots:
    """Reads and deletes volume snapshots with Cinder."""

    def __init__(self, api: OpenStackApi) -> None:
        self._api = api

    async def refs_of(self, server: Mapping[str, Any]) -> set[str]:
        """The refs of all snapshots of a server's volumes."""
        with parsing():
            volume_ids = [path_segment(volume["id"]) for volume in server.get(_ATTACHED) or []]
        read = partial(read_refs, name="snapshots")
        return {
            ref
            for id_ in volume_ids
            for ref in await self._api.read("block_storage", f"/snapshots?volume_id={id_}", read)
        }

    async def state(self, ref: str) -> str | None:
        """The state of a snapshot; "unknown" if Cinder does not answer, None if there is no such snapshot."""
        try:
            path = f"/snapshots/{path_segment(ref)}"
            found = await self._api.read("block_storage", path, partial(read_one, name="snapshot"))
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
