"""The `openstack` driver: the servers of one OpenStack project, whose snapshots are images of them.

An image carries the server's id and, in a property, the operation's token. Nova makes the image's record before it
answers, so what was asked for and whose answer was lost can be found. Deleting the image of a server that runs from
volumes deletes the snapshots of its volumes too.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.drivers.base import (
    Canceled,
    CreateWish,
    DeleteWish,
    Driver,
    Matrix,
    Recovery,
    RevertWish,
    SeenMachine,
    SeenSnapshot,
    SeenSnapshots,
    Wish,
    Work,
)
from gateway.drivers.marks import wire_name
from gateway.drivers.openstack_api import (
    DESCRIPTION,
    TOKEN,
    Client,
    nonsense,
    read_list,
    read_machine,
    read_snapshot,
    safe,
    volume_snapshots,
)
from gateway.drivers.options import Secret, option
from gateway.drivers.threads import Threads
from gateway.errors import OutcomeUnknown, ProviderMissing, ProviderRefused, ProviderUnavailable
from gateway.models import MachineKind, SnapshotAction

_NO_REVERT = "OpenStack cannot revert an Instance: make a new one from the snapshot's image"
_NO_MEMORY = "OpenStack's images do not hold the memory of an Instance"
_MATRIX = Matrix(
    {
        SnapshotAction.CREATE_WITH_MEMORY: _NO_MEMORY,
        SnapshotAction.REVERT: _NO_REVERT,
    },
    tree=False,
)

_LONGEST = 255  # characters that Nova takes of a name and of a property; the gateway itself keeps all
_SOONEST, _LATEST = 0.2, 2.0  # seconds between looks at an image in the making
_PAGE = 500

_GONE = {"DELETED", "SOFT_DELETED"}
_NO_DATA = {"killed", "deleted", "pending_delete"}  # images that are no longer, or never came to be
_IDLE = "None"
_PHASES = {
    "image_snapshot_pending": "Waiting for the host",
    "image_snapshot": "Taking the snapshot",
    "image_pending_upload": "Preparing the upload",
    "image_uploading": "Uploading the image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where Keystone is, and who the gateway is there: a user of a project, or an application credential."""

    address: str = option("Keystone, such as https://cloud.example:5000/v3")
    user: str | None = option("the user's name, unless there is an application credential", None)
    password: Secret | None = option("the user's password", None)
    project: str | None = option("the project whose servers are meant", None)
    user_domain: str = option("the domain of the user", "Default")
    project_domain: str = option("the domain of the project", "Default")
    application_credential_id: str | None = option("the id of an application credential", None)
    application_credential_secret: Secret | None = option("its secret", None)
    region: str | None = option("the region, where there are several", None)
    ca_file: str | None = option("a PEM file of the authority that has signed the cloud's certificates", None)
    timeout: float = option("seconds to wait for an answer", 60.0)

    def __post_init__(self) -> None:
        if not self.address.startswith(("https://", "http://")):
            raise ValueError(f"has 'address' {self.address!r}, which must begin with https:// or http://")
        user = [self.user, self.password, self.project]
        credential = [self.application_credential_id, self.application_credential_secret]
        if [all(user), any(user), all(credential), any(credential)].count(True) != 2 or all(user) == all(credential):
            raise ValueError(
                "needs either 'user', 'password' and 'project', or 'application_credential_id' and"
                " 'application_credential_secret'"
            )
        if self.timeout <= 0:
            raise ValueError(f"has 'timeout' {self.timeout!r}, which must be more than 0")


def make(provider: str, options: Options, concurrency: int) -> "OpenStackDriver":
    """The driver of a provider."""
    patience = 3 * options.timeout  # a call may have to log in and to look into the catalog first
    login = {
        "auth_type": "v3password" if options.user else "v3applicationcredential",
        "auth": _credentials(options),
        "region_name": options.region,
        "cacert": options.ca_file,
        "api_timeout": options.timeout,
    }
    return OpenStackDriver(Client(login), Threads(4, patience), Threads(concurrency, patience))


def _credentials(options: Options) -> dict[str, str]:
    if options.application_credential_id and options.application_credential_secret:
        return {
            "auth_url": options.address,
            "application_credential_id": options.application_credential_id,
            "application_credential_secret": options.application_credential_secret.value,
        }
    assert options.user
    assert options.password
    assert options.project
    return {
        "auth_url": options.address,
        "username": options.user,
        "password": options.password.value,
        "project_name": options.project,
        "user_domain_name": options.user_domain,
        "project_domain_name": options.project_domain,
    }


class OpenStackDriver(Driver):
    """One OpenStack project. `telling` are the threads for calls that change something."""

    name = "openstack"

    def __init__(self, client: Client, asking: Threads, telling: Threads) -> None:
        self._client = client
        self._asking = asking
        self._telling = telling

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[SeenMachine]:
        servers, path = [], f"/servers/detail?limit={_PAGE}"
        while page := read_list(answer := await self._ask("compute", path), "servers"):
            servers += page
            if not answer.get("servers_links"):
                break
            path = f"/servers/detail?limit={_PAGE}&marker={page[-1]['id']}"
        return [read_machine(server) for server in servers if server.get("status") not in _GONE]

    async def machine(self, machine_ref: str) -> SeenMachine:
        return read_machine(await self._server(machine_ref))

    async def snapshots(self, machine_ref: str) -> SeenSnapshots:
        await self._server(machine_ref)
        found = [read_snapshot(image) for image in await self._images("instance_uuid", machine_ref)]
        return SeenSnapshots(sorted(found, key=lambda seen: (seen.created_at, seen.ref)))

    async def create(self, work: Work, wish: CreateWish) -> SeenSnapshot:
        if wish.memory:
            raise ProviderRefused(_NO_MEMORY)
        properties = {TOKEN: work.token}
        if wish.description:
            properties[DESCRIPTION] = wish.description[:_LONGEST]
        name = wire_name(wish.name, work.token, _is_legal, (), _LONGEST)
        body = {"createImage": {"name": name, "metadata": properties}}
        answer = await self._tell("compute", "POST", f"/servers/{safe(wish.machine_ref)}/action", body)
        if not isinstance(answer, dict) or not isinstance(image_id := answer.get("image_id"), str):
            raise nonsense(change=True)
        await work.checkpoint(image_id)
        seen = await self._follow(work, wish, image_id)
        if seen is None:
            raise ProviderRefused("the provider gave up making the snapshot, and has cleared it away")
        return seen

    async def revert(self, work: Work, wish: RevertWish) -> None:
        await self._server(wish.machine_ref)
        raise ProviderRefused(_NO_REVERT)

    async def delete(self, work: Work, wish: DeleteWish) -> None:
        await self._server(wish.machine_ref)
        image = await self._image(wish.snapshot_ref)
        if image is None or image.get("instance_uuid") != wish.machine_ref:
            raise ProviderMissing("the provider has no such snapshot")
        if image.get("protected"):
            raise ProviderRefused("the snapshot's image is protected on the provider")
        volumes = volume_snapshots(image)
        await work.checkpoint(orjson.dumps(volumes).decode())
        await self._tell("image", "DELETE", f"/images/{safe(wish.snapshot_ref)}")
        try:
            if await self._image(wish.snapshot_ref) is not None:
                raise OutcomeUnknown("the provider has taken the delete, but still has the snapshot")
            await self._delete_volumes(volumes)
        except ProviderUnavailable as error:
            raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None

    async def recover(self, work: Work, wish: Wish) -> SeenSnapshot | Recovery:
        match wish:
            case CreateWish():
                seen = await self._find(work, wish)
                return Recovery.NOT_BEGUN if seen is None else seen
            case DeleteWish():
                if await self._image(wish.snapshot_ref) is not None:
                    return Recovery.NOT_BEGUN
                await self._delete_volumes(orjson.loads(work.task_ref or "[]"))
                return Recovery.DONE
        raise ProviderRefused(_NO_REVERT)

    async def health(self) -> None:
        read_list(await self._ask("compute", "/servers?limit=1"), "servers")
        read_list(await self._ask("image", "/images?limit=1"), "images")

    async def close(self) -> None:
        self._client.close()

    # ---- work

    async def _follow(self, work: Work, wish: CreateWish, image_id: str) -> SeenSnapshot | None:
        """Waits until the image is made and its server idle; None when there is nothing of it any more."""
        pause = _SOONEST
        while (image := await self._look(image_id)) is not None:
            task = await self._task(wish.machine_ref)
            if task == _IDLE:
                if image.get("status") != "active":  # it may have become so since
                    image = await self._look(image_id)
                if image is not None and image.get("status") == "active":
                    return read_snapshot(image)
                # Of two requests at one time Nova drops one, and leaves an image that nobody will fill.
                await self._clear(image_id)
                return None
            await work.progress(None, _PHASES.get(task))
            if image.get("status") != "active" and work.cancelled():
                await self._clear(image_id)
                raise Canceled
            await asyncio.sleep(pause)
            pause = min(_LATEST, pause * 1.5)
        return None

    async def _clear(self, image_id: str) -> None:
        """Deletes what is not made."""
        try:
            await self._tell("image", "DELETE", f"/images/{image_id}")
        except ProviderMissing:
            return
        if await self._look(image_id) is not None:
            raise OutcomeUnknown("the provider has taken the delete, but still has the snapshot")

    async def _find(self, work: Work, wish: CreateWish) -> SeenSnapshot | None:
        """What became of a create: by the image it was told of, else by the token."""
        if work.task_ref is not None:
            return await self._follow(work, wish, work.task_ref)
        while True:
            task = await self._task(wish.machine_ref)
            for image in await self._images(TOKEN, work.token):
                return await self._follow(work, wish, image["id"])
            if task == _IDLE:  # what was under way may have been it, before its image could be seen
                return None
            await asyncio.sleep(_LATEST)

    async def _look(self, image_id: str) -> dict[str, Any] | None:
        """The image, as long as it takes the provider to answer: the work has been handed over."""
        while True:
            try:
                return await self._image(image_id)
            except ProviderUnavailable:
                await asyncio.sleep(_LATEST)

    async def _task(self, machine_ref: str) -> str:
        """What Nova does to make an image of the server; `_IDLE` when nothing, or when there is no server any more."""
        try:
            return str((await self._server(machine_ref)).get("OS-EXT-STS:task_state"))
        except ProviderMissing:
            return _IDLE
        except ProviderUnavailable:
            return "unknown"

    async def _delete_volumes(self, refs: Sequence[str]) -> None:
        for ref in refs:
            try:
                await self._tell("block_storage", "DELETE", f"/snapshots/{safe(ref)}")
            except ProviderMissing:
                continue

    # ---- questions

    async def _ask(self, service: str, path: str) -> Any:
        return await self._asking.ask(self._client.call, False, service, "GET", path)

    async def _tell(self, service: str, method: str, path: str, body: Any = None) -> Any:
        return await self._telling.tell(self._client.call, True, service, method, path, body)

    async def _server(self, machine_ref: str) -> dict[str, Any]:
        answer = await self._ask("compute", f"/servers/{safe(machine_ref)}")
        server = answer.get("server") if isinstance(answer, dict) else None
        if not isinstance(server, dict):
            raise nonsense(change=False)
        if server.get("status") in _GONE:
            raise ProviderMissing("the provider has no such machine")
        return server

    async def _image(self, image_id: str) -> dict[str, Any] | None:
        """An image with or without data yet; None when there is none."""
        try:
            image = await self._ask("image", f"/images/{safe(image_id)}")
        except ProviderMissing:
            return None
        if not isinstance(image, dict):
            raise nonsense(change=False)
        return None if image.get("status") in _NO_DATA else image

    async def _images(self, name: str, value: str) -> list[dict[str, Any]]:
        """The images with this property; it is looked at here too, for not every Glance does."""
        images: list[dict[str, Any]] = []
        path: str | None = f"/images?{name}={safe(value)}&limit={_PAGE}"
        while path:
            answer = await self._ask("image", path)
            images += read_list(answer, "images")
            path = (answer.get("next") or "").removeprefix("/v2") or None
        return [image for image in images if image.get(name) == value and image.get("status") not in _NO_DATA]


def _is_legal(name: str) -> bool:
    """Whether Nova takes it as the name of an image."""
    return name.isprintable() and name == name.strip()
