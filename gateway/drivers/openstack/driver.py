"""The `openstack` driver: the servers of one OpenStack project, whose snapshots are images of them.

An image carries the server's id and the operation's token. Nova makes the image's record before it answers, so what
was asked for and whose answer was lost can be found. A server that runs from volumes has an image without bytes, made
of snapshots of its volumes: they are waited for, and deleted with it.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.drivers.base import (
    Canceled,
    CreateCommand,
    DeleteCommand,
    Driver,
    DriverCommand,
    Matrix,
    Recovery,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    RevertCommand,
    Work,
)
from gateway.drivers.openstack.api import (
    LONGEST,
    MACHINE,
    TOKEN,
    Client,
    Cloud,
    nonsense,
    properties,
    read_list,
    read_machine,
    read_one,
    read_snapshot,
    safe,
)
from gateway.drivers.openstack.volumes import Volumes, snapshots_in
from gateway.drivers.operation_tags import wire_name
from gateway.drivers.options import Secret, option
from gateway.drivers.threads import Threads
from gateway.errors import (
    OutcomeUnknown,
    ProviderDenied,
    ProviderError,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.models import MachineKind, SnapshotAction

_NO_REVERT = "OpenStack cannot revert an Instance: make a new one from the snapshot's image"
_NO_MEMORY = "OpenStack's images do not hold the memory of an Instance"
_GIVEN_UP = "the provider gave up making the image, and has none of it; a quota or its storage may be full"
_NO_VOLUMES = "the provider could not make a snapshot of a volume"
_MATRIX = Matrix(
    {
        SnapshotAction.CREATE_WITH_MEMORY: _NO_MEMORY,
        SnapshotAction.REVERT: _NO_REVERT,
    },
    tree=False,
)

_PAGE = 500

_GONE = {"DELETED", "SOFT_DELETED"}
_NO_DATA = {"killed", "deleted", "pending_delete"}  # images that are no longer, or never came to be
_IDLE = "None"
_LETTING_GO = 5  # looks at a server that Nova should be done with, now that its image is made
_PHASES = {
    "image_snapshot_pending": "Waiting for the host",
    "image_snapshot": "Taking the snapshot",
    "image_pending_upload": "Preparing the upload",
    "image_uploading": "Uploading the image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A cloud of clouds.yaml; or where Keystone is, and a user of a project or an application credential."""

    cloud: str | None = option("the cloud's name in clouds.yaml, instead of an address and credentials", None)
    clouds_file: str | None = option("clouds.yaml, where it is not in its usual place", None)
    address: str | None = option("Keystone, such as https://cloud.example:5000/v3", None)
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
        user = (self.user, self.password, self.project)
        credential = (self.application_credential_id, self.application_credential_secret)
        if self.cloud is not None:
            if any((self.address, *user, *credential)):
                raise ValueError("has 'cloud', and so needs neither an address nor credentials")
        elif self.clouds_file is not None:
            raise ValueError("has 'clouds_file', and so needs 'cloud'")
        elif not (self.address or "").startswith(("https://", "http://")):
            raise ValueError(f"has 'address' {self.address!r}, which must begin with https:// or http://")
        elif not (all(user) and not any(credential)) and not (all(credential) and not any(user)):
            raise ValueError(
                "needs either 'user', 'password' and 'project', or 'application_credential_id' and"
                " 'application_credential_secret'"
            )
        if self.timeout <= 0:
            raise ValueError(f"has 'timeout' {self.timeout!r}, which must be more than 0")


def make(provider: str, options: Options, concurrency: int) -> "OpenStackDriver":
    """A driver that connects when it is first asked something."""
    login = {
        **({"cloud": options.cloud} if options.cloud else _credentials(options)),
        **({"cacert": options.ca_file} if options.ca_file else {}),
        **({"region_name": options.region} if options.region else {}),
        "api_timeout": options.timeout,
    }
    patience = 3 * options.timeout  # a call may have to log in and to look into the catalog first
    client = Client(login, options.clouds_file)
    return OpenStackDriver(Cloud(client, Threads(4, patience), Threads(concurrency, patience)))


def _credentials(options: Options) -> dict[str, Any]:
    if (secret := options.application_credential_secret) is not None:
        known = {
            "application_credential_id": options.application_credential_id,
            "application_credential_secret": secret.value,
        }
        return {"auth_type": "v3applicationcredential", "auth": {"auth_url": options.address, **known}}
    assert options.password
    known = {
        "username": options.user,
        "password": options.password.value,
        "project_name": options.project,
        "user_domain_name": options.user_domain,
        "project_domain_name": options.project_domain,
    }
    return {"auth_type": "v3password", "auth": {"auth_url": options.address, **known}}


class OpenStackDriver(Driver):
    """One OpenStack project."""

    name = "openstack"

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._volumes = Volumes(cloud)

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        servers, path = [], f"/servers/detail?limit={_PAGE}"
        while page := read_list(answer := await self._cloud.ask("compute", path), "servers"):
            servers += page
            if not answer.get("servers_links"):
                break
            path = f"/servers/detail?limit={_PAGE}&marker={page[-1]['id']}"
        return [read_machine(server) for server in servers if server.get("status") not in _GONE]

    async def machine(self, machine_ref: str) -> ReportedMachine:
        return read_machine(await self._server(machine_ref))

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        server = await self._server(machine_ref)
        images = await self._images(MACHINE, machine_ref)
        if any(snapshots_in(image) for image in images):  # whose these are only Cinder knows
            own = await self._volumes.snapshots_of(server)
            images = [image for image in images if not (refs := snapshots_in(image)) or own.intersection(refs)]
        found = [read_snapshot(image) for image in images]
        return ReportedSnapshots(sorted(found, key=lambda seen: (seen.created_at, seen.ref)))

    async def create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        if wish.memory:
            raise ProviderRefused(_NO_MEMORY)
        # A request that was given up on may have been heard since its recovery.
        begun = await self._marked(work, wish)
        image_id = begun[0]["id"] if begun else await self._begin(work, wish)
        await work.checkpoint(image_id)
        with _unknown(ProviderUnavailable, ProviderDenied):
            seen = await self._follow(work, wish, image_id)
        if seen is None:
            raise Canceled if work.cancelled() else ProviderRefused(_GIVEN_UP)
        return seen

    async def revert(self, work: Work, wish: RevertCommand) -> None:
        await self._server(wish.machine_ref)
        raise ProviderRefused(_NO_REVERT)

    async def delete(self, work: Work, wish: DeleteCommand) -> None:
        await self._server(wish.machine_ref)
        image = await self._image(wish.snapshot_ref)
        if image is None or image.get(MACHINE) != wish.machine_ref:
            raise ProviderMissing("the provider has no such snapshot")
        volumes = snapshots_in(image)
        await work.checkpoint(orjson.dumps(volumes).decode())
        await self._cloud.tell("image", "DELETE", f"/images/{safe(wish.snapshot_ref)}")
        with _unknown(ProviderUnavailable, ProviderDenied):
            if await self._image(wish.snapshot_ref) is not None:
                raise OutcomeUnknown("the provider has taken the delete, but still has the snapshot")
            await self._volumes.delete(volumes)

    async def recover(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        with _unknown(ProviderDenied):
            match wish:
                case CreateCommand():
                    seen = await self._find(work, wish)
                    return Recovery.NOT_BEGUN if seen is None else seen
                case DeleteCommand():
                    if await self._image(wish.snapshot_ref) is not None:
                        return Recovery.NOT_BEGUN
                    await self._volumes.delete(orjson.loads(work.task_ref or "[]"))
                    return Recovery.DONE
        return Recovery.NOT_BEGUN

    async def health(self) -> None:
        read_list(await self._cloud.ask("compute", "/servers?limit=1"), "servers")
        read_list(await self._cloud.ask("image", "/images?limit=1"), "images")

    async def close(self) -> None:
        self._cloud.client.close()

    # ---- work

    async def _begin(self, work: Work, wish: CreateCommand) -> str:
        """Has an image made; its ref."""
        name = wire_name(wish.name, work.token, _is_legal, (), LONGEST)
        body = {"createImage": {"name": name, "metadata": properties(wish.machine_ref, work.token, wish.description)}}
        answer = await self._cloud.tell("compute", "POST", f"/servers/{safe(wish.machine_ref)}/action", body)
        if not isinstance(answer, dict) or not isinstance(image_id := answer.get("image_id"), str):
            raise nonsense(change=True)
        return image_id

    async def _marked(self, work: Work, wish: CreateCommand) -> list[dict[str, Any]]:
        """The images that the operation has begun, and after them any that were made of servers made from those."""
        found = await self._images(TOKEN, f"{wish.machine_ref} {work.token}")
        own = [image for image in found if image.get(MACHINE) == wish.machine_ref]  # else it is inherited
        return sorted(own, key=lambda image: str(image.get("created_at")))

    async def _follow(self, work: Work, wish: CreateCommand, image_id: str) -> ReportedSnapshot | None:
        """Waits until the image is made and its server idle; None when there is nothing of it any more."""
        pauses, looks, stubborn = self._cloud.pauses(), _LETTING_GO, False
        while (image := await self._look(image_id)) is not None:
            task = await self._task(wish.machine_ref)
            if image.get("status") != "active" and task == _IDLE:
                image = await self._look(image_id)  # it may have become active before Nova let go of the server
                if image is not None and image.get("status") != "active":
                    # Of two requests at one time Nova drops one, and leaves an image that nobody will fill.
                    await self._clear(image_id, snapshots_in(image))
                    return None
            elif image.get("status") == "active" and await self._has_volumes(image):
                looks -= 1
                if task not in _PHASES or not looks:
                    return read_snapshot(image)
            elif work.cancelled() and not stubborn:
                with suppress(ProviderRefused, ProviderDenied):
                    await self._clear(image_id, snapshots_in(image))
                    raise Canceled
                stubborn = True
            await work.progress(None, _PHASES.get(task))
            await asyncio.sleep(next(pauses))
        return None

    async def _has_volumes(self, image: dict[str, Any]) -> bool:
        """Whether all snapshots of volumes that the image is made of are there. Raises ProviderRefused if never."""
        refs = snapshots_in(image)
        states = [await self._volumes.state(ref) for ref in refs]
        if not {*states} <= {"available", "creating", "unknown"}:
            with suppress(ProviderError):  # what it leaves is of no use to anybody
                await self._clear(image["id"], refs)
            raise ProviderRefused(_NO_VOLUMES)
        return all(state == "available" for state in states)

    async def _clear(self, image_id: str, volumes: Sequence[str]) -> None:
        """Deletes what is not wanted any more."""
        with suppress(ProviderMissing):
            await self._cloud.tell("image", "DELETE", f"/images/{safe(image_id)}")
        if await self._look(image_id) is not None:
            raise OutcomeUnknown("the provider has taken the delete, but still has the snapshot")
        await self._volumes.delete(volumes)

    async def _find(self, work: Work, wish: CreateCommand) -> ReportedSnapshot | None:
        """What became of a create: by the image it was told of, else by the token."""
        if work.task_ref is not None:
            return await self._follow(work, wish, work.task_ref)
        for pause in self._cloud.pauses():
            task = await self._task(wish.machine_ref)
            for image in await self._marked(work, wish):
                return await self._follow(work, wish, image["id"])
            if task == _IDLE:  # what was under way may have been it, before its image could be seen
                break
            await asyncio.sleep(pause)
        return None

    async def _look(self, image_id: str) -> dict[str, Any] | None:
        """The image, as long as it takes the provider to answer: the work has been handed over."""
        for pause in self._cloud.pauses():
            try:
                return await self._image(image_id)
            except ProviderUnavailable:
                await asyncio.sleep(pause)
        raise AssertionError  # the pauses have no end

    async def _task(self, machine_ref: str) -> str:
        """What Nova does to make an image of the server; `_IDLE` when nothing, or when there is no server any more."""
        try:
            return str((await self._server(machine_ref)).get("OS-EXT-STS:task_state"))
        except ProviderMissing:
            return _IDLE
        except ProviderUnavailable:
            return "unknown"

    # ---- questions

    async def _server(self, machine_ref: str) -> dict[str, Any]:
        server = read_one(await self._cloud.ask("compute", f"/servers/{safe(machine_ref)}"), "server")
        if server.get("status") in _GONE:
            raise ProviderMissing("the provider has no such machine")
        return server

    async def _image(self, image_id: str) -> dict[str, Any] | None:
        """An image with or without data yet; None when there is none."""
        try:
            image = read_one(await self._cloud.ask("image", f"/images/{safe(image_id)}"))
        except ProviderMissing:
            return None
        return None if image.get("status") in _NO_DATA else image

    async def _images(self, name: str, value: str) -> list[dict[str, Any]]:
        """The images with this property; it is looked at here too, for not every Glance does."""
        images: list[dict[str, Any]] = []
        path: str | None = f"/images?{name}={safe(value)}&limit={_PAGE}"
        while path:
            answer = await self._cloud.ask("image", path)
            images += read_list(answer, "images")
            path = (answer.get("next") or "").removeprefix("/v2") or None
        return [image for image in images if image.get(name) == value and image.get("status") not in _NO_DATA]


def _is_legal(name: str) -> bool:
    """Whether Nova takes it as the name of an image."""
    return name.isprintable() and name == name.strip() and all(character <= "\uffff" for character in name)


@contextmanager
def _unknown(*kinds: type[ProviderError]) -> Iterator[None]:
    """Once work is handed over, what keeps its fate from being asked for makes that unknown."""
    try:
        yield
    except kinds as error:
        raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None
