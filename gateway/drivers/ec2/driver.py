"""The `ec2` driver: instances of Amazon EC2, or of a cloud that speaks its API. A snapshot is an image (AMI) made of an
instance, with the EBS snapshots of its disks, which are called disks here.

EC2 is eventually consistent: what was just made may not show yet. CreateImage knows no client token, but no two images
of an account have the same name, and an operation that is begun again asks for the same names again.
"""

import asyncio
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

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
from gateway.drivers.ec2.api import DESCRIPTION, NONSENSE, TOKEN, Api, Image, InUse, NameTaken, refusal
from gateway.drivers.operation_tags import wire_name
from gateway.drivers.options import Secret, option
from gateway.errors import (
    OutcomeUnknown,
    ProviderDenied,
    ProviderError,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.models import MachineKind, PowerState, SnapshotAction

_LONGEST_TAG, _LONGEST_DESCRIPTION, _LONGEST_NAME = 256, 255, 128
_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,}")

_UNFINISHED = {"pending", "transient"}
_FAILED = {"failed", "error", "invalid"}

_MATRIX = Matrix(
    {
        SnapshotAction.CREATE: {
            PowerState.UNKNOWN: "the instance is starting or stopping; wait until it runs or is stopped",
        },
        SnapshotAction.CREATE_WITH_MEMORY: "EC2 does not save the memory of instances",
        SnapshotAction.REVERT: "EC2 cannot take an instance back to an image; launch another instance from it",
    },
    tree=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Without a key or a profile, credentials are looked for where AWS's own tools look for them."""

    region: str = option("Region of the instances, such as eu-central-1.")
    access_key_id: str | None = option("Id of the access key.", None)
    secret_access_key: Secret | None = option("Secret of the access key.", None)
    profile: str | None = option("Profile in AWS's configuration files that has the credentials.", None)
    address: str | None = option("Address of the API, where that is not AWS's own.", None)
    timeout: float = option("Seconds until a connection or an answer is given up on.", 20.0)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9-]{1,63}", self.region):
            raise ValueError(f"has 'region' {self.region!r}, which must be letters, digits and hyphens")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("has one of 'access_key_id' and 'secret_access_key', and needs both or neither")
        if self.access_key_id is not None and self.profile is not None:
            raise ValueError("has both 'access_key_id' and 'profile', and needs one or neither")
        if self.address is not None and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", self.address):
            raise ValueError(f"has 'address' {self.address!r}, which must be https:// or http:// and a host")
        if self.timeout <= 0:
            raise ValueError(f"has 'timeout' {self.timeout!r}, which must be more than 0")


def make(provider: str, options: Options, concurrency: int) -> "Ec2Driver":
    """A driver that connects when it is first asked something."""
    secret = options.secret_access_key
    session = {
        "region_name": options.region,
        "profile_name": options.profile,
        "aws_access_key_id": options.access_key_id,
        "aws_secret_access_key": None if secret is None else secret.value,
    }
    return Ec2Driver(Api(session, options.address, options.timeout, concurrency))


@dataclass(slots=True)
class Ec2Driver(Driver):
    """One account in one region."""

    api: Api
    look: float = 5.0  # seconds between looks at work in progress
    patience: float = 120.0  # seconds that EC2 may take to show what was made or deleted
    name: str = "ec2"

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        return await self.api.instances({})

    async def machine(self, machine_ref: str) -> ReportedMachine:
        found = await self.api.instances({"instance-id": [machine_ref]})
        if not found:
            raise ProviderMissing("the provider has no such instance")
        return found[0]

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        await self.machine(machine_ref)
        images = await self.api.images({"source-instance-id": [machine_ref]})
        return ReportedSnapshots(await self._seen([image for image in images if image.state not in _FAILED]))

    async def create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        action = SnapshotAction.CREATE_WITH_MEMORY if wish.memory else SnapshotAction.CREATE
        _check(await self.machine(wish.machine_ref), action)
        image_ref = await self._begin(work, wish)
        await work.checkpoint(image_ref)
        return await self._finish(work, wish, image_ref, ProviderError)

    async def revert(self, work: Work, wish: RevertCommand) -> None:
        _check(await self.machine(wish.machine_ref), SnapshotAction.REVERT)

    async def delete(self, work: Work, wish: DeleteCommand) -> None:
        image = await self._image(wish.snapshot_ref)
        if image is not None and image.machine_ref != wish.machine_ref:
            raise ProviderMissing("the provider has no such image of this instance")
        disks = await self._disks_of(wish.machine_ref, wish.snapshot_ref, image)
        if image is not None:
            await work.checkpoint(" ".join([image.ref, *disks]))
            await self._deregister(image.ref)
        elif not disks:  # if there are any, an earlier delete did not get to its end
            raise ProviderMissing("the provider has no such image of this instance")
        with _unknown(ProviderUnavailable):
            await self._clear(wish.snapshot_ref, disks)

    async def recover(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        lost = (ProviderDenied, ProviderRefused)
        match wish:
            case CreateCommand():
                with _unknown(*lost):
                    image_ref = work.task_ref or await self._marked(wish.machine_ref, work.token)
                if image_ref is not None:
                    return await self._finish(work, wish, image_ref, *lost)
                # If it only does not show yet, it is found by its name when it is begun again.
            case DeleteCommand():
                with _unknown(*lost):
                    if await self._image(wish.snapshot_ref) is None:
                        told = (work.task_ref or "").split()[1:]
                        disks = told or await self._disks_of(wish.machine_ref, wish.snapshot_ref, None)
                        await self._clear(wish.snapshot_ref, disks)
                        return Recovery.DONE
        return Recovery.NOT_BEGUN

    async def health(self) -> None:
        await self.api.answers()

    async def close(self) -> None:
        self.api.close()

    # ---- making

    async def _begin(self, work: Work, wish: CreateCommand) -> str:
        """Has an image made, unless an earlier attempt did; its ref."""
        tags = {"Name": wish.name[:_LONGEST_TAG], TOKEN: work.token}
        arguments: dict[str, Any] = {"InstanceId": wish.machine_ref, "NoReboot": True}
        if wish.description:
            tags[DESCRIPTION] = wish.description[:_LONGEST_TAG]
            arguments["Description"] = re.sub(r"[^ -~]", "?", wish.description)[:_LONGEST_DESCRIPTION]
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        arguments["TagSpecifications"] = [{"ResourceType": type_, "Tags": listed} for type_ in ("image", "snapshot")]
        for taken in ((), (wish.name,)):
            name = wire_name(wish.name, work.token, _NAME.fullmatch, taken, _LONGEST_NAME)
            try:
                answer = await self.api.tell("create_image", Name=name, **arguments)
            except NameTaken:
                holder = await self._named(name)
                if holder is not None and holder.token == work.token:
                    return holder.ref
            else:
                if not answer.get("ImageId"):
                    raise OutcomeUnknown(NONSENSE)
                return str(answer["ImageId"])
        raise ProviderRefused("the provider has other images of every name that was tried")

    async def _named(self, name: str) -> Image | None:
        """The image of that name, once it shows; None when it does not."""
        last = time.monotonic() + self.patience
        while True:
            found = await self.api.images({"name": [name]})
            if found or time.monotonic() > last:
                return found[0] if found else None
            await asyncio.sleep(self.look)

    async def _marked(self, machine_ref: str, token: str) -> str | None:
        # Not by the tag alone: copies of an image may have its tags.
        found = await self.api.images({"source-instance-id": [machine_ref], f"tag:{TOKEN}": [token]})
        return found[0].ref if found else None

    async def _finish(
        self, work: Work, wish: CreateCommand, image_ref: str, *unplaced: type[ProviderError]
    ) -> ReportedSnapshot:
        """The snapshot, once the provider has made it. What is `unplaced` while it is asked makes the fate unknown."""
        with _unknown(*unplaced):
            image = await self._settled(work, wish, image_ref)
            if image.state not in _FAILED:
                return (await self._seen([image]))[0]
        with suppress(ProviderError):  # what it leaves is of no use to anybody
            disks = await self._disks_of(wish.machine_ref, image_ref, image)
            await self._deregister(image_ref)
            await self._clear(image_ref, disks)
        code, words = image.reason
        raise refusal(code, words or f"the image is {image.state}")

    async def _settled(self, work: Work, wish: CreateCommand, image_ref: str) -> Image:
        """The image, when the provider is done with it. Raises Canceled."""
        last, stubborn = time.monotonic() + self.patience, False
        while True:
            image = await self._image(image_ref)
            if image is not None and image.state not in _UNFINISHED:
                return image
            if image is not None:
                if work.cancelled() and not stubborn:
                    await self._stop(wish, image)
                    stubborn = True
                disks = await self.api.disks({f"tag:{TOKEN}": [work.token]})
                percents = [disk.percent for disk in disks if disk.percent is not None]
                percent = min(99, sum(percents) // len(percents)) if percents else None
                await work.progress(percent, "Copying the disks")
            elif time.monotonic() > last:
                if work.cancelled():  # an earlier attempt has stopped it
                    await self._clear(image_ref, await self._disks_of(wish.machine_ref, image_ref, None))
                    raise Canceled
                raise OutcomeUnknown("the provider does not show the image that it has begun to make")
            await asyncio.sleep(self.look)

    async def _stop(self, wish: CreateCommand, image: Image) -> None:
        """Raises Canceled when nothing is left of the image; returns when the provider goes on with it."""
        disks = await self._disks_of(wish.machine_ref, image.ref, image)
        try:
            await self._deregister(image.ref)
        except (ProviderRefused, ProviderDenied, ProviderUnavailable):
            return
        await self._clear(image.ref, disks)
        raise Canceled

    # ---- deleting

    async def _deregister(self, image_ref: str) -> None:
        with suppress(ProviderMissing):  # somebody was faster, or it shows for longer than it is there
            await self.api.tell("deregister_image", ImageId=image_ref)

    async def _clear(self, image_ref: str, disk_refs: Collection[str]) -> None:
        """Deletes disks of an image that is deregistered; returns when the provider shows none of it any more."""
        last, pause, wanted = time.monotonic() + self.patience, 0.0, {*disk_refs}
        while True:
            left = await self.api.disks_by_ref(sorted(wanted))
            if not left and await self._image(image_ref) is None:
                return
            if pause and time.monotonic() > last:
                raise OutcomeUnknown("the provider still shows what was deleted")
            await asyncio.sleep(pause)
            pause = self.look
            for disk in left:
                try:
                    await self.api.tell("delete_snapshot", SnapshotId=disk.ref)
                except ProviderMissing:
                    continue
                except InUse as error:
                    if image_ref not in (error.provider_message or ""):
                        wanted.discard(disk.ref)  # another image has it too
                except (ProviderRefused, ProviderDenied) as error:
                    message = "the image is deregistered, but the snapshot of a disk could not be deleted"
                    raise type(error)(message, provider_message=error.provider_message) from None

    async def _disks_of(self, machine_ref: str, image_ref: str, image: Image | None) -> list[str]:
        """Disks that were made for the image, be it there or not; an image may have disks of others too."""
        found = await self.api.disks({"description": [f"Created by CreateImage({machine_ref}) for {image_ref}*"]})
        if image is not None and image.token is not None:
            found += [disk for disk in await self.api.disks_by_ref(image.disk_refs) if disk.token == image.token]
        return sorted({disk.ref for disk in found})

    # ---- asking

    async def _image(self, image_ref: str) -> Image | None:
        found = await self.api.images({"image-id": [image_ref]})
        return found[0] if found else None

    async def _seen(self, images: Sequence[Image]) -> list[ReportedSnapshot]:
        """As snapshots, oldest first; with a size where EC2 knows that of every disk."""
        disks = await self.api.disks_by_ref([ref for image in images for ref in image.disk_refs])
        sizes = {disk.ref: disk.size for disk in disks}
        return [
            ReportedSnapshot(
                ref=image.ref,
                name=image.name,
                created_at=image.created_at,
                description=image.description,
                size_bytes=_sum([sizes.get(ref) for ref in image.disk_refs]),
                token=image.token,
                ready=image.state not in _UNFINISHED,
            )
            for image in sorted(images, key=lambda image: (image.created_at, image.ref))
        ]


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


def _check(machine: ReportedMachine, action: SnapshotAction) -> None:
    if reason := _MATRIX.reason_against(action, machine.power_state) or machine.obstacle:
        raise ProviderRefused("the provider refused", provider_message=reason)


@contextmanager
def _unknown(*unplaced: type[ProviderError]) -> Iterator[None]:
    """Makes these of errors that the fate of what was handed over is unknown."""
    try:
        yield
    except unplaced as error:
        raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None
