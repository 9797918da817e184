"""The `ec2` driver: instances of Amazon EC2, or of a cloud with the same API.

A snapshot is an image (AMI) created from an instance. The image consists of one EBS snapshot per disk.

EC2 is eventually consistent: a new image may not be listed yet. CreateImage has no client token, but image names are
unique within an account, and a repeated operation requests the same names. So a repeated CreateImage fails with
InvalidAMIName.Duplicate instead of creating a second image, and the driver then finds the first one by its name.
"""

import asyncio
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, assert_never

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
    require_readable,
)
from gateway.drivers.ec2.api import MALFORMED, Ec2Api, InUse, NameTaken, error_of
from gateway.drivers.ec2.parsing import DESCRIPTION, TOKEN, UNFINISHED, Image
from gateway.drivers.operation_tags import provider_snapshot_name
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

_MAX_TAG, _MAX_DESCRIPTION, _MAX_NAME = 256, 255, 128  # characters
_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,}")

_FAILED = {"failed", "error", "invalid"}
_MISSING = "The provider has no such image of this instance."

_MATRIX = Matrix(
    {SnapshotAction.CREATE, SnapshotAction.DELETE, SnapshotAction.UPDATE},
    {
        SnapshotAction.CREATE: {
            PowerState.UNKNOWN: "The instance is starting or stopping. Wait until it is running or stopped.",
        },
        SnapshotAction.CREATE_WITH_MEMORY: "EC2 does not save the memory of instances.",
        SnapshotAction.REVERT: "EC2 cannot revert an instance to an image. Launch another instance from the image.",
    },
    tree=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Without an access key and a profile, the driver uses the default credential chain of AWS's SDK."""

    region: str = option("Region of the instances, such as eu-central-1.")
    access_key_id: str | None = option("ID of the access key.", None)
    secret_access_key: Secret | None = option("Secret of the access key.", None)
    profile: str | None = option("Profile in AWS's configuration files that contains the credentials.", None)
    address: str | None = option("URL of the API, if it is not that of AWS.", None)
    timeout: float = option("Timeout of a connection attempt and of a response, in seconds.", 20.0)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9-]{1,63}", self.region):
            raise ValueError(f"Option 'region' must consist of letters, digits and hyphens, not {self.region!r}.")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("Options 'access_key_id' and 'secret_access_key' must be set together.")
        if self.access_key_id is not None and self.profile is not None:
            raise ValueError("Options 'access_key_id' and 'profile' are mutually exclusive. Remove one of them.")
        if self.address is not None and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", self.address):
            raise ValueError(f"Option 'address' must be an https:// or http:// URL with a host, not {self.address!r}.")
        if self.timeout <= 0:
            raise ValueError(f"Option 'timeout' must be greater than 0, not {self.timeout!r}.")


def make(provider: str, options: Options, concurrency: int) -> "Ec2Driver":
    """Makes a driver, which connects on its first call."""
    secret = options.secret_access_key
    session = {
        "region_name": options.region,
        "profile_name": options.profile,
        "aws_access_key_id": options.access_key_id,
        "aws_secret_access_key": None if secret is None else secret.value,
    }
    return Ec2Driver(Ec2Api(session, options.address, options.timeout, concurrency))


@dataclass(slots=True)
class Ec2Driver(Driver):
    """One account in one region."""

    api: Ec2Api
    poll_interval: float = 5.0  # seconds, while an image is created or deleted
    visibility_timeout: float = 120.0  # seconds until EC2 must list a new image, or stop listing a deleted one
    name: str = "ec2"

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        return await self.api.instances({})

    async def machine(self, machine_ref: str) -> ReportedMachine:
        found = await self.api.instances({"instance-id": [machine_ref]})
        if not found:
            raise ProviderMissing("The provider has no such instance.")
        return require_readable(found[0])

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        await self.machine(machine_ref)
        images = await self.api.images({"source-instance-id": [machine_ref]})
        found = await self._read_snapshots([image for image in images.items if image.state not in _FAILED])
        return ReportedSnapshots(found, omitted=tuple(images.omitted))

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        action = SnapshotAction.CREATE_WITH_MEMORY if command.memory else SnapshotAction.CREATE
        _check(await self.machine(command.machine_ref), action)
        image_ref = await self._create_image(work, command)
        await work.checkpoint(image_ref)
        return await self._finish(work, command, image_ref, ProviderError)

    async def revert(self, work: Work, command: RevertCommand) -> None:
        _check(await self.machine(command.machine_ref), SnapshotAction.REVERT)

    async def delete(self, work: Work, command: DeleteCommand) -> None:
        image = await self._image(command.snapshot_ref)
        if image is not None and image.machine_ref != command.machine_ref:
            raise ProviderMissing(_MISSING)
        ebs_refs = await self._ebs_snapshots_of(command.machine_ref, command.snapshot_ref, image)
        if image is not None:
            await work.checkpoint(" ".join([image.snapshot.ref, *ebs_refs]))
            await self._deregister(image.snapshot.ref)
        elif not ebs_refs:  # if EBS snapshots remain, an earlier delete was interrupted
            raise ProviderMissing(_MISSING)
        with _as_unknown_outcome(ProviderUnavailable):
            await self._delete_ebs_snapshots(command.snapshot_ref, ebs_refs)

    async def update(self, work: Work, command: UpdateCommand) -> None:
        image = await self._image(command.snapshot_ref)
        if image is None or image.machine_ref != command.machine_ref:
            raise ProviderMissing(_MISSING)
        ebs_refs = await self._ebs_snapshots_of(command.machine_ref, command.snapshot_ref, image)
        changes = {"Name": command.name, DESCRIPTION: command.description}
        tags = {key: value for key, value in changes.items() if value is not None}
        await self.api.write("create_tags", Resources=[image.snapshot.ref, *ebs_refs], Tags=_tag_list(tags))

    async def recover(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        ambiguous = (ProviderDenied, ProviderRefused)
        match command:
            case CreateCommand():
                with _as_unknown_outcome(*ambiguous):
                    image_ref = work.task_ref or await self._find_by_token(command.machine_ref, work.token)
                if image_ref is not None:
                    return await self._finish(work, command, image_ref, *ambiguous)
                # An image that exists but is not listed yet is found by its name when `create` is called again.
            case DeleteCommand():
                with _as_unknown_outcome(*ambiguous):
                    if await self._image(command.snapshot_ref) is None:
                        checkpointed = (work.task_ref or "").split()[1:]
                        ebs_refs = checkpointed or await self._ebs_snapshots_of(
                            command.machine_ref, command.snapshot_ref, None
                        )
                        await self._delete_ebs_snapshots(command.snapshot_ref, ebs_refs)
                        return Recovery.DONE
            case RevertCommand():
                pass  # is refused before anything is sent
            case _:
                assert_never(command)
        return Recovery.NOT_STARTED

    async def health(self) -> None:
        await self.api.ping()

    async def close(self) -> None:
        self.api.close()

    # ---- creating

    async def _create_image(self, work: Work, command: CreateCommand) -> str:
        """Requests an image, unless an earlier attempt has done so. Returns the image's ref."""
        tags = {"Name": command.name, TOKEN: work.token}
        arguments: dict[str, Any] = {"InstanceId": command.machine_ref, "NoReboot": True}
        if command.description:
            tags[DESCRIPTION] = command.description
            arguments["Description"] = re.sub(r"[^ -~]", "?", command.description)[:_MAX_DESCRIPTION]
        arguments["TagSpecifications"] = [
            {"ResourceType": type_, "Tags": _tag_list(tags)} for type_ in ("image", "snapshot")
        ]
        for taken in ((), (command.name,)):
            name = provider_snapshot_name(command.name, work.token, _NAME.fullmatch, taken, _MAX_NAME)
            try:
                answer = await self.api.write("create_image", Name=name, **arguments)
            except NameTaken:
                holder = await self._find_by_name(name)
                if holder is not None and holder.snapshot.token == work.token:
                    return holder.snapshot.ref
                if holder is not None and holder.snapshot.token_unread:  # it may be this operation's
                    raise OutcomeUnknown(MALFORMED, provider_message=holder.snapshot.problem) from None
            else:
                if not answer.get("ImageId"):
                    raise OutcomeUnknown(MALFORMED)
                return str(answer["ImageId"])
        raise ProviderRefused("Other images of the account have the names that were tried.")

    async def _find_by_name(self, name: str) -> Image | None:
        """The image with this name, once EC2 lists it; None if EC2 does not list it within `visibility_timeout`."""
        deadline = time.monotonic() + self.visibility_timeout
        while True:
            found = (await self.api.images({"name": [name]})).complete()
            if found or time.monotonic() > deadline:
                return found[0] if found else None
            await asyncio.sleep(self.poll_interval)

    async def _find_by_token(self, machine_ref: str, token: str) -> str | None:
        # The tag alone does not suffice: copies of an image may have its tags.
        found = await self.api.images({"source-instance-id": [machine_ref], f"tag:{TOKEN}": [token]})
        return next((image.snapshot.ref for image in found.complete()), None)

    async def _finish(
        self, work: Work, command: CreateCommand, image_ref: str, *ambiguous: type[ProviderError]
    ) -> ReportedSnapshot:
        """Waits until the image is complete and returns it as a snapshot.

        Errors of the types `ambiguous` while waiting are raised as OutcomeUnknown. If the creation failed, the driver
        deletes what remains of the image and raises the error.
        """
        with _as_unknown_outcome(*ambiguous):
            image = await self._await_image(work, command, image_ref)
            if image.state not in _FAILED:
                return (await self._read_snapshots([image]))[0]
        with suppress(ProviderError):  # best effort: the remains of a failed image are of no use
            ebs_refs = await self._ebs_snapshots_of(command.machine_ref, image_ref, image)
            await self._deregister(image_ref)
            await self._delete_ebs_snapshots(image_ref, ebs_refs)
        code, text = image.reason
        raise error_of(code, text or f"The image is in the state {image.state}.")

    async def _await_image(self, work: Work, command: CreateCommand, image_ref: str) -> Image:
        """Waits until the image is in a final state and returns it. Raises Canceled if it was canceled."""
        deadline, cancel_failed = time.monotonic() + self.visibility_timeout, False
        while True:
            image = await self._image(image_ref)
            if image is not None and image.state is not None and image.state not in UNFINISHED:
                return image
            if image is not None:
                if work.cancel_requested() and not cancel_failed:
                    await self._cancel(command, image)
                    cancel_failed = True
                ebs_snapshots = await self.api.ebs_snapshots({f"tag:{TOKEN}": [work.token]})
                percents = [each.percent for each in ebs_snapshots if each.percent is not None]
                percent = min(99, sum(percents) // len(percents)) if percents else None
                await work.progress(percent, "Copying the disks")
            elif time.monotonic() > deadline:
                if work.cancel_requested():  # an earlier attempt has deregistered it
                    ebs_refs = await self._ebs_snapshots_of(command.machine_ref, image_ref, None)
                    await self._delete_ebs_snapshots(image_ref, ebs_refs)
                    raise Canceled
                raise OutcomeUnknown("EC2 accepted the creation of the image, but does not list the image.")
            await asyncio.sleep(self.poll_interval)

    async def _cancel(self, command: CreateCommand, image: Image) -> None:
        """Deletes the image and raises Canceled, or returns if EC2 does not permit it and continues the creation."""
        ebs_refs = await self._ebs_snapshots_of(command.machine_ref, image.snapshot.ref, image)
        try:
            await self._deregister(image.snapshot.ref)
        except (ProviderRefused, ProviderDenied, ProviderUnavailable):
            return
        await self._delete_ebs_snapshots(image.snapshot.ref, ebs_refs)
        raise Canceled

    # ---- deleting

    async def _deregister(self, image_ref: str) -> None:
        with suppress(ProviderMissing):  # another client deleted it, or EC2 still lists a deleted image
            await self.api.write("deregister_image", ImageId=image_ref)

    async def _delete_ebs_snapshots(self, image_ref: str, ebs_refs: Collection[str]) -> None:
        """Deletes EBS snapshots of a deregistered image. Returns once EC2 lists neither them nor the image.

        An EBS snapshot that another image uses is left alone.
        """
        deadline, pause, remaining = time.monotonic() + self.visibility_timeout, 0.0, {*ebs_refs}
        while True:
            listed = await self.api.ebs_snapshots_by_ref(sorted(remaining))
            if not listed and await self._image(image_ref) is None:
                return
            if pause and time.monotonic() > deadline:
                raise OutcomeUnknown("EC2 still lists the deleted image or its EBS snapshots.")
            await asyncio.sleep(pause)
            pause = self.poll_interval
            for ebs_snapshot in listed:
                try:
                    await self.api.write("delete_snapshot", SnapshotId=ebs_snapshot.ref)
                except ProviderMissing:
                    continue
                except InUse as error:
                    if image_ref not in (error.provider_message or ""):
                        remaining.discard(ebs_snapshot.ref)  # another image uses it
                except (ProviderRefused, ProviderDenied) as error:
                    message = "The image was deregistered, but one of its EBS snapshots could not be deleted."
                    raise type(error)(message, provider_message=error.provider_message) from None

    async def _ebs_snapshots_of(self, machine_ref: str, image_ref: str, image: Image | None) -> list[str]:
        """The refs of the EBS snapshots that were created with the image, whether or not the image still exists.

        An image may also use EBS snapshots that were not created with it. These are not returned.
        """
        found = await self.api.ebs_snapshots(
            {"description": [f"Created by CreateImage({machine_ref}) for {image_ref}*"]}
        )
        if image is not None and (token := image.snapshot.token) is not None:
            used = await self.api.ebs_snapshots_by_ref(image.ebs_refs)
            found += [each for each in used if each.token == token]
        return sorted({each.ref for each in found})

    # ---- reading

    async def _image(self, image_ref: str) -> Image | None:
        found = await self.api.images({"image-id": [image_ref]})
        return next(iter(found.complete()), None)

    async def _read_snapshots(self, images: Sequence[Image]) -> list[ReportedSnapshot]:
        """The images as snapshots, oldest first. A size is reported if EC2 reports it for every EBS snapshot."""
        ebs_snapshots = await self.api.ebs_snapshots_by_ref([ref for image in images for ref in image.ebs_refs])
        sizes = {each.ref: each.size for each in ebs_snapshots}

        def with_sizes() -> list[ReportedSnapshot]:
            found = [
                replace(image.snapshot, size_bytes=_sum([sizes.get(ref) for ref in image.ebs_refs])) for image in images
            ]
            return sorted(found, key=lambda snapshot: (snapshot.created_at, snapshot.ref))

        return await self.api.compute(with_sizes)  # an instance may have thousands of images


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags in EC2's format, with each value truncated to EC2's limit."""
    return [{"Key": key, "Value": value[:_MAX_TAG]} for key, value in tags.items()]


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


def _check(machine: ReportedMachine, action: SnapshotAction) -> None:
    if reason := _MATRIX.unsupported_reason(action, machine.power_state) or machine.snapshot_blocker:
        raise ProviderRefused("The provider refused the request.", provider_message=reason)


@contextmanager
def _as_unknown_outcome(*kinds: type[ProviderError]) -> Iterator[None]:
    """Raises errors of these types as OutcomeUnknown, because the command has already been sent."""
    try:
        yield
    except kinds as error:
        raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None
