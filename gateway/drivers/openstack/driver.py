"""The `openstack` driver: the servers of one OpenStack project. A snapshot is an image of a server.

An image has the server's id and the operation's token as properties. Nova creates the image's record before it answers
the request, so recovery finds the image even if the response was lost. The image of a server that runs from volumes
contains no data; it consists of snapshots of the volumes. The driver waits for these, and deletes them with the image.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

import orjson

from gateway.drivers.base import (
    Canceled,
    CreateCommand,
    DeleteCommand,
    Driver,
    Matrix,
    RecoverableCommand,
    Recovery,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    RevertCommand,
    UpdateCommand,
    Work,
    count_listed,
)
from gateway.drivers.openstack.api import OpenStackApi, OpenStackClient, path_segment
from gateway.drivers.openstack.parsing import (
    MACHINE,
    MAX_LENGTH,
    TOKEN,
    Image,
    description_properties,
    image_properties,
    malformed,
    read_image,
    read_images,
    read_machine,
    read_machines,
    read_refs,
    read_server,
)
from gateway.drivers.openstack.volumes import VolumeSnapshots
from gateway.drivers.operation_tags import provider_snapshot_name
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

_NO_REVERT = "OpenStack cannot revert an Instance. Create a new one from the snapshot's image."
_NO_MEMORY = "OpenStack images do not include the memory of an Instance."
_ABANDONED = (
    "The provider abandoned the image, and nothing of it remains. A quota may be exhausted or its storage full."
)
_VOLUME_SNAPSHOT_FAILED = "The provider could not create a snapshot of a volume."
_MATRIX = Matrix(
    {SnapshotAction.CREATE, SnapshotAction.DELETE, SnapshotAction.UPDATE},
    {
        SnapshotAction.CREATE_WITH_MEMORY: _NO_MEMORY,
        SnapshotAction.REVERT: _NO_REVERT,
    },
    tree=False,
)

_PAGE_SIZE = 500

_IDLE = "None"  # the task state of a server without a task
_IDLE_POLLS = 5  # polls until the driver stops waiting for the server to become idle after its image is complete
_PHASES = {
    "image_snapshot_pending": "Waiting for the host",
    "image_snapshot": "Taking the snapshot",
    "image_pending_upload": "Preparing the upload",
    "image_uploading": "Uploading the image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A cloud of clouds.yaml, or Keystone's address with either a user and a project or an application credential."""

    cloud: str | None = option("Name of the cloud in clouds.yaml, instead of an address and credentials.", None)
    clouds_file: str | None = option("Path of clouds.yaml, if it is not in a default path.", None)
    address: str | None = option("URL of Keystone, such as https://cloud.example:5000/v3.", None)
    user: str | None = option("Name of the user, unless there is an application credential.", None)
    password: Secret | None = option("Password of the user.", None)
    project: str | None = option("Project whose servers are managed.", None)
    user_domain: str = option("Domain of the user.", "Default")
    project_domain: str = option("Domain of the project.", "Default")
    application_credential_id: str | None = option("ID of an application credential.", None)
    application_credential_secret: Secret | None = option("Secret of the application credential.", None)
    region: str | None = option("Region, if there are several.", None)
    ca_file: str | None = option("PEM file of the authority that has signed the cloud's certificates.", None)
    timeout: float = option("Timeout of a response, in seconds.", 60.0)

    def __post_init__(self) -> None:
        user = (self.user, self.password, self.project)
        credential = (self.application_credential_id, self.application_credential_secret)
        if self.cloud is not None:
            if any((self.address, *user, *credential)):
                raise ValueError("Option 'cloud' cannot be combined with an address or credentials.")
        elif self.clouds_file is not None:
            raise ValueError("Option 'clouds_file' requires the option 'cloud'.")
        elif not (self.address or "").startswith(("https://", "http://")):
            raise ValueError(f"Option 'address' must start with https:// or http://, not {self.address!r}.")
        elif not (all(user) and not any(credential)) and not (all(credential) and not any(user)):
            raise ValueError(
                "Set either the options 'user', 'password' and 'project', or 'application_credential_id' and"
                " 'application_credential_secret'."
            )
        if self.timeout <= 0:
            raise ValueError(f"Option 'timeout' must be greater than 0, not {self.timeout!r}.")


def make(provider: str, options: Options, concurrency: int) -> "OpenStackDriver":
    """Makes a driver, which connects on its first call."""
    login = {
        **({"cloud": options.cloud} if options.cloud else _credentials(options)),
        **({"cacert": options.ca_file} if options.ca_file else {}),
        **({"region_name": options.region} if options.region else {}),
        "api_timeout": options.timeout,
    }
    timeout = 3 * options.timeout  # a call may have to log in and read the catalog first
    client = OpenStackClient(login, options.clouds_file)
    return OpenStackDriver(OpenStackApi(client, Threads(4, timeout), Threads(concurrency, timeout)))


def _credentials(options: Options) -> dict[str, Any]:
    if (secret := options.application_credential_secret) is not None:
        secrets = {
            "application_credential_id": options.application_credential_id,
            "application_credential_secret": secret.value,
        }
        return {"auth_type": "v3applicationcredential", "auth": {"auth_url": options.address, **secrets}}
    assert options.password
    secrets = {
        "username": options.user,
        "password": options.password.value,
        "project_name": options.project,
        "user_domain_name": options.user_domain,
        "project_domain_name": options.project_domain,
    }
    return {"auth_type": "v3password", "auth": {"auth_url": options.address, **secrets}}


class OpenStackDriver(Driver):
    """One OpenStack project."""

    name = "openstack"

    def __init__(self, api: OpenStackApi) -> None:
        self._api = api
        self._volume_snapshots = VolumeSnapshots(api)

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        machines: list[ReportedMachine] = []
        path, total = f"/servers/detail?limit={_PAGE_SIZE}", 0
        while path:
            page, length, last_ref = await self._api.read("compute", path, read_machines)
            machines += page
            total = count_listed(total, range(length))
            path = f"/servers/detail?limit={_PAGE_SIZE}&marker={path_segment(last_ref)}" if last_ref else ""
        return machines

    async def machine(self, machine_ref: str) -> ReportedMachine:
        return read_machine(await self._server(machine_ref))

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        server = await self._server(machine_ref)
        images, omitted = await self._images(MACHINE, machine_ref)
        if any(image.known_volume_refs for image in images):  # only Cinder knows to which server these belong
            own = await self._volume_snapshots.refs_of(server)
            images = [image for image in images if not (refs := image.known_volume_refs) or own.intersection(refs)]
        found = sorted((image.snapshot for image in images), key=lambda snapshot: (snapshot.created_at, snapshot.ref))
        return ReportedSnapshots(found, omitted=tuple(omitted))

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        if command.memory:
            raise ProviderRefused(_NO_MEMORY)
        # Nova may have executed an earlier, timed-out request after recovery had looked for its image.
        existing = await self._find_images(work, command)
        image_id = existing[0].ref if existing else await self._create_image(work, command)
        await work.checkpoint(image_id)
        with _as_unknown_outcome(ProviderUnavailable, ProviderDenied):
            snapshot = await self._await_image(work, command, image_id)
        if snapshot is None:
            raise Canceled if work.cancel_requested() else ProviderRefused(_ABANDONED)
        return snapshot

    async def revert(self, work: Work, command: RevertCommand) -> None:
        await self._server(command.machine_ref)
        raise ProviderRefused(_NO_REVERT)

    async def delete(self, work: Work, command: DeleteCommand) -> None:
        image = await self._require_image(command)
        volume_refs = image.volume_refs
        await work.checkpoint(orjson.dumps(volume_refs).decode())
        await self._api.write("image", "DELETE", f"/images/{path_segment(command.snapshot_ref)}")
        with _as_unknown_outcome(ProviderUnavailable, ProviderDenied):
            if await self._image(command.snapshot_ref) is not None:
                raise OutcomeUnknown("The provider accepted the delete, but the snapshot still exists.")
            await self._volume_snapshots.delete(volume_refs)

    async def update(self, work: Work, command: UpdateCommand) -> None:
        token, changes = (await self._require_image(command)).snapshot.token, {}
        if command.name is not None:
            changes["name"] = provider_snapshot_name(command.name, work.token, _is_legal, (), MAX_LENGTH)
        if command.description is not None:
            changes |= description_properties(command.machine_ref, token, command.description)
        patch = [{"op": "add", "path": f"/{name}", "value": value} for name, value in changes.items()]
        await self._api.write("image", "PATCH", f"/images/{path_segment(command.snapshot_ref)}", patch)

    async def recover(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        with _as_unknown_outcome(ProviderDenied):
            match command:
                case CreateCommand():
                    snapshot = await self._recover_create(work, command)
                    return Recovery.NOT_STARTED if snapshot is None else snapshot
                case DeleteCommand():
                    if await self._image(command.snapshot_ref) is not None:
                        return Recovery.NOT_STARTED
                    await self._volume_snapshots.delete(orjson.loads(work.task_ref or "[]"))
                    return Recovery.DONE
                case RevertCommand():
                    return Recovery.NOT_STARTED  # is refused before anything is sent
                case _:
                    assert_never(command)

    async def health(self) -> None:
        await self._api.read("compute", "/servers?limit=1", partial(read_refs, name="servers"))
        await self._api.read("image", "/images?limit=1", partial(read_refs, name="images"))

    async def close(self) -> None:
        self._api.client.close()

    # ---- work

    async def _create_image(self, work: Work, command: CreateCommand) -> str:
        """Requests an image. Returns its ref."""
        name = provider_snapshot_name(command.name, work.token, _is_legal, (), MAX_LENGTH)
        body = {
            "createImage": {
                "name": name,
                "metadata": image_properties(command.machine_ref, work.token, command.description),
            }
        }
        answer = await self._api.write("compute", "POST", f"/servers/{path_segment(command.machine_ref)}/action", body)
        if not isinstance(answer, dict) or not isinstance(image_id := answer.get("image_id"), str):
            raise malformed(write=True)
        return image_id

    async def _find_images(self, work: Work, command: CreateCommand) -> list[Image]:
        """The images of the machine with the operation's token, oldest first.

        Further images with this token are copies: images of servers that were created from the first one.
        """
        found, omitted = await self._images(TOKEN, f"{command.machine_ref} {work.token}")
        if omitted:  # one of them may be the image
            raise ProviderUnavailable(omitted[0])
        own = [image for image in found if image.machine_ref == command.machine_ref]  # else the token is inherited
        return sorted(own, key=lambda image: (image.snapshot.created_at, image.ref))

    async def _await_image(self, work: Work, command: CreateCommand, image_id: str) -> ReportedSnapshot | None:
        """Waits until the image is complete and its server idle. Returns None if the image no longer exists."""
        delays, polls_left, cancel_failed = self._api.poll_delays(), _IDLE_POLLS, False
        while (image := await self._poll_image(image_id)) is not None:
            task = await self._task_state(command.machine_ref)
            if image.status != "active" and task == _IDLE:
                image = await self._poll_image(image_id)  # it may have become active just before the server became idle
                if image is not None and image.status != "active":
                    # Nova drops one of two concurrent requests, and leaves its image without data.
                    await self._delete_image(image_id, image.volume_refs)
                    return None
            elif image.status == "active" and await self._volume_snapshots_ready(image):
                polls_left -= 1
                if task not in _PHASES or not polls_left:
                    return image.snapshot
            elif work.cancel_requested() and not cancel_failed:
                with suppress(ProviderRefused, ProviderDenied):
                    await self._delete_image(image_id, image.volume_refs)
                    raise Canceled
                cancel_failed = True
            await work.progress(None, _PHASES.get(task))
            await asyncio.sleep(next(delays))
        return None

    async def _volume_snapshots_ready(self, image: Image) -> bool:
        """Whether all volume snapshots of the image are available. Raises ProviderRefused if one of them failed."""
        refs = image.volume_refs
        states = [await self._volume_snapshots.state(ref) for ref in refs]
        if not {*states} <= {"available", "creating", "unknown"}:
            with suppress(ProviderError):  # best effort: the remains of a failed image are of no use
                await self._delete_image(image.ref, refs)
            raise ProviderRefused(_VOLUME_SNAPSHOT_FAILED)
        return all(state == "available" for state in states)

    async def _delete_image(self, image_id: str, volume_refs: Sequence[str]) -> None:
        """Deletes an image and its volume snapshots."""
        with suppress(ProviderMissing):
            await self._api.write("image", "DELETE", f"/images/{path_segment(image_id)}")
        if await self._poll_image(image_id) is not None:
            raise OutcomeUnknown("The provider accepted the delete, but the snapshot still exists.")
        await self._volume_snapshots.delete(volume_refs)

    async def _recover_create(self, work: Work, command: CreateCommand) -> ReportedSnapshot | None:
        """Finds the image of a create, by the checkpointed ref or else by the token, and waits for it.

        Returns None if there is no such image.
        """
        if work.task_ref is not None:
            return await self._await_image(work, command, work.task_ref)
        for delay in self._api.poll_delays():
            task = await self._task_state(command.machine_ref)
            for image in await self._find_images(work, command):
                return await self._await_image(work, command, image.ref)
            if task == _IDLE:  # else the server's task may be this create, whose image is not listed yet
                break
            await asyncio.sleep(delay)
        return None

    async def _poll_image(self, image_id: str) -> Image | None:
        """The image; None if it does not exist. Retries without limit while the provider is unavailable.

        The command has been sent, so the operation's deadline limits the wait.
        """
        for delay in self._api.poll_delays():
            try:
                return await self._image(image_id)
            except ProviderUnavailable:
                await asyncio.sleep(delay)
        raise AssertionError  # the delays have no end

    async def _task_state(self, machine_ref: str) -> str:
        """The server's task state in Nova; `_IDLE` without a task or a server, "unknown" if Nova is unavailable."""
        try:
            return str((await self._server(machine_ref)).get("OS-EXT-STS:task_state"))
        except ProviderMissing:
            return _IDLE
        except ProviderUnavailable:
            return "unknown"

    # ---- reading

    async def _server(self, machine_ref: str) -> dict[str, Any]:
        server = await self._api.read("compute", f"/servers/{path_segment(machine_ref)}", read_server)
        if server is None:
            raise ProviderMissing("The provider has no such machine.")
        return server

    async def _image(self, image_id: str) -> Image | None:
        """An image, with or without data; None if it does not exist."""
        try:
            image = await self._api.read("image", f"/images/{path_segment(image_id)}", read_image)
        except ProviderMissing:
            return None
        if image.status is None:
            raise malformed(write=False)
        return image if image.has_data else None

    async def _require_image(self, command: DeleteCommand | UpdateCommand) -> Image:
        """The image of a snapshot. Raises ProviderMissing if the server or the image does not exist."""
        await self._server(command.machine_ref)
        image = await self._image(command.snapshot_ref)
        if image is None or image.machine_ref != command.machine_ref:
            raise ProviderMissing("The provider has no such snapshot.")
        return image

    async def _images(self, name: str, value: str) -> tuple[list[Image], list[str]]:
        """The images with this property, and the reasons for the entries that could not be read."""
        images: list[Image] = []
        omitted: list[str] = []
        path, total = f"/images?{name}={path_segment(value)}&limit={_PAGE_SIZE}", 0
        while path:
            page = await self._api.read("image", path, partial(read_images, name=name, value=value))
            images += page.images
            omitted += page.omitted
            total = count_listed(total, range(page.length))
            path = page.next_path
        return images, omitted


def _is_legal(name: str) -> bool:
    """Whether Nova accepts `name` as the name of an image."""
    return name.isprintable() and name == name.strip() and all(character <= "\uffff" for character in name)


@contextmanager
def _as_unknown_outcome(*kinds: type[ProviderError]) -> Iterator[None]:
    """Raises errors of these types as OutcomeUnknown, because the command has already been sent."""
    try:
        yield
    except kinds as error:
        raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None
