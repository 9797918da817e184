"""Tests the libvirt driver with QEMU: incomplete snapshots, processes that die during a command, refusals."""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    Recovery,
    ReportedSnapshot,
    RevertCommand,
    UpdateCommand,
    Work,
)
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.models import PowerState
from tests.databases import required
from tests.drivers.worlds.libvirt_qemu import PART, lacking
from tests.hypervisors.guest import domain_xml, write_image
from tests.hypervisors.libvirtd import Libvirtd, kill
from tests.waiting import until, until_async

pytestmark = pytest.mark.thorough

MEMORY = 300  # MiB; saving takes long enough to be interrupted


@pytest.fixture(scope="module")
def daemon() -> Iterator[Libvirtd]:
    if reason := lacking():
        (pytest.fail if required(PART) else pytest.skip)(reason)
    daemon = Libvirtd()
    yield daemon
    daemon.stop()


@pytest.fixture
def run(daemon: Libvirtd) -> Callable[..., None]:
    module = import_module("gateway.drivers.libvirt.driver")

    def run(test: Callable[[Any], Awaitable[None]], **more: Any) -> None:
        async def inside() -> None:
            driver = module.LibvirtDriver(module.Options(address=daemon.address), 2, **more)
            try:
                await test(driver)
            finally:
                await driver.close()

        asyncio.run(inside())

    return run


Run = Callable[..., None]


@pytest.fixture
def big(daemon: Libvirtd) -> Iterator[str]:
    """A running machine whose memory takes a while to save."""
    yield daemon.add("big", touched=MEMORY)
    daemon.remove("big")


def create(driver: Any, ref: str, name: str, *, memory: bool = True) -> Awaitable[ReportedSnapshot]:
    made: Awaitable[ReportedSnapshot] = driver.create(Work(f"token-{name}"), CreateCommand(ref, name, None, memory))
    return made


async def error_of(call: Awaitable[Any]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await call
    return caught.value


async def power(driver: Any, ref: str) -> PowerState:
    found: PowerState = (await driver.machine(ref)).power_state
    return found


async def interrupted(daemon: Libvirtd, reason: str, call: Awaitable[Any]) -> asyncio.Future[Any]:
    """Starts the call, and returns when libvirt has paused the machine for `reason` and QEMU is stopped by a signal."""
    task = asyncio.ensure_future(call)
    await asyncio.to_thread(daemon.pause_qemu, "big", reason)
    return task


def test_a_snapshot_is_not_ready_while_it_is_being_written(run: Run, daemon: Libvirtd, big: str) -> None:
    async def test(driver: Any) -> None:
        before = await create(driver, big, "before")
        task = await interrupted(daemon, "SAVE", create(driver, big, "a"))
        reported = await driver.snapshots(big)
        assert [(s.ref, s.parent_ref, s.ready) for s in reported.snapshots] == [
            ("before", None, True),
            ("a", "before", False),
        ]
        assert reported.current_ref == "before"
        for call in (
            create(driver, big, "b"),
            driver.revert(Work("r"), RevertCommand(big, "before")),
            driver.delete(Work("d"), DeleteCommand(big, "before")),
        ):
            assert type(await error_of(call)) is ProviderBusy
        recovery = asyncio.ensure_future(driver.recover(Work("token-a"), CreateCommand(big, "a", None, True)))
        await driver.health()
        assert not task.done()
        assert not recovery.done()
        daemon.resume_qemu("big")
        assert await recovery == await task
        assert list((await driver.snapshots(big)).snapshots) == [before, await task]
        assert await power(driver, big) is PowerState.ON

    run(test)


def test_libvirtd_dies_while_memory_is_saved(run: Run, daemon: Libvirtd, big: str) -> None:
    """QEMU completes the snapshot, which libvirt does not list. The next attempt replaces it under the same name.

    If QEMU is still writing when libvirtd restarts, libvirtd may misread QEMU's late answer and kill the machine.
    """

    async def test(driver: Any) -> None:
        hints = driver.change_hints()
        hint = asyncio.ensure_future(anext(hints))
        task = await interrupted(daemon, "SAVE", create(driver, big, "a"))
        assert await hint == big
        daemon.kill()
        error = await error_of(task)
        assert (type(error), error.message) == (OutcomeUnknown, "The connection to the provider was lost.")
        assert await anext(hints, None) is None
        command = CreateCommand(big, "a", None, True)
        assert type(await error_of(driver.recover(Work("token-a"), command))) is ProviderUnavailable
        daemon.resume_qemu("big")
        await asyncio.to_thread(until, lambda: daemon.tags("big") == ["a"])
        daemon.start()
        assert await driver.recover(Work("token-a"), command) is Recovery.NOT_STARTED
        assert ((await driver.snapshots(big)).snapshots, daemon.tags("big")) == ([], ["a"])
        assert await power(driver, big) is PowerState.ON
        assert await driver.recover(Work("token-a"), command) is Recovery.NOT_STARTED
        daemon.await_line("big", bool)  # the machine runs
        made = await create(driver, big, "a")
        assert (made.ref, daemon.tags("big")) == ("a", ["a"])

    run(test)


def test_recovery_does_not_resume_a_machine_that_its_user_suspended(run: Run, daemon: Libvirtd, big: str) -> None:
    async def test(driver: Any) -> None:
        daemon.virsh("suspend", "big")
        assert await driver.recover(Work("t"), CreateCommand(big, "a", None, True)) is Recovery.NOT_STARTED
        assert await power(driver, big) is PowerState.SUSPENDED

    run(test)


def test_qemu_dies_while_memory_is_saved(run: Run, daemon: Libvirtd, big: str) -> None:
    async def test(driver: Any) -> None:
        task = await interrupted(daemon, "SAVE", create(driver, big, "a"))
        kill(daemon.qemu("big"))
        error = await error_of(task)
        assert (type(error), error.message) == (ProviderRefused, "The provider reported an error.")
        assert ((await driver.snapshots(big)).snapshots, daemon.tags("big")) == ([], [])
        assert await power(driver, big) is PowerState.OFF
        assert await driver.recover(Work("token-a"), CreateCommand(big, "a", None, True)) is Recovery.NOT_STARTED
        daemon.virsh("start", "big")
        assert (await create(driver, big, "a")).ref == "a"

    run(test)


def test_libvirtd_dies_while_memory_is_loaded(run: Run, daemon: Libvirtd, big: str) -> None:
    """When libvirtd restarts, it kills the machine that was starting. The content of the disk is unknown."""

    async def test(driver: Any) -> None:
        await create(driver, big, "a")
        await create(driver, big, "b")
        tasks: list[str] = []

        async def checkpoint(task_ref: str) -> None:
            tasks.append(task_ref)

        revert = RevertCommand(big, "a")
        call = driver.revert(Work("r", checkpoint=checkpoint), revert)
        task = await interrupted(daemon, "STARTING_UP", call)
        daemon.kill()
        daemon.resume_qemu("big")
        assert type(await error_of(task)) is OutcomeUnknown
        daemon.start()
        assert type(await error_of(driver.recover(Work("r", tasks[0]), revert))) is OutcomeUnknown
        reported = await driver.snapshots(big)
        assert ([s.ref for s in reported.snapshots], reported.current_ref) == (["a", "b"], "b")
        assert await power(driver, big) is PowerState.OFF

    run(test)


def test_a_revert_restores_the_power_state(run: Run, daemon: Libvirtd) -> None:
    async def test(driver: Any) -> None:
        ref = daemon.add("runs", running=False)
        await create(driver, ref, "off", memory=False)
        daemon.virsh("start", "runs")
        await create(driver, ref, "on")
        daemon.virsh("suspend", "runs")
        await create(driver, ref, "suspended")
        powers = {"off": PowerState.OFF, "on": PowerState.ON, "suspended": PowerState.SUSPENDED}
        for name in ("off", "on", "on", "off", "suspended"):
            tasks: list[str] = []

            async def checkpoint(task_ref: str, tasks: list[str] = tasks) -> None:
                tasks.append(task_ref)

            revert = RevertCommand(ref, name)
            await driver.revert(Work("r", checkpoint=checkpoint), revert)
            assert await power(driver, ref) is powers[name]
            assert (await driver.snapshots(ref)).current_ref == name
            assert await driver.recover(Work("r", tasks[0]), revert) is Recovery.DONE

    run(test)


def test_the_driver_reconnects_after_libvirtd_was_restarted(run: Run, daemon: Libvirtd) -> None:
    async def test(driver: Any) -> None:
        ref = daemon.add("hinted", running=False)
        machines = await driver.machines()
        hints = driver.change_hints()
        hint = asyncio.ensure_future(anext(hints))

        async def has_subscribed() -> bool:
            daemon.virsh("define", str(daemon.directory / "domain.xml"))  # a change of the machine
            return bool(hint.done())

        await until_async(has_subscribed)
        daemon.kill()
        async with asyncio.timeout(20):
            assert {await hint, *[each async for each in hints]} == {ref}  # they end, because the connection is lost
        daemon.start()
        assert await driver.machines() == machines

    run(test)


def test_a_libvirtd_that_hangs_is_unavailable(run: Run, daemon: Libvirtd) -> None:
    async def test(driver: Any) -> None:
        await driver.health()
        pid = int((daemon.directory / "libvirtd.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            for call in (driver.machines(), create(driver, str(uuid4()), "a")):
                error = await error_of(call)
                assert (type(error), error.message) == (ProviderUnavailable, "The provider did not answer in time.")
        finally:
            os.kill(pid, signal.SIGCONT)

    run(test, read_timeout=2.0)


def test_snapshot_blockers_match_the_refusals_of_libvirt(run: Run, daemon: Libvirtd) -> None:
    raw, flash = "<readonly/>", '<features><acpi/></features><os><loader readonly="yes" type="pflash">'
    changes: dict[str, tuple[str, str, str]] = {
        "raw": (
            'type="qcow2"',
            'type="raw"',
            "The disk vda has the format raw, which cannot store snapshots. Convert it to qcow2.",
        ),
        "left-out": (
            'device="disk">',
            'device="disk" snapshot="no">',
            "The disk vda is excluded from internal snapshots, which always include all disks.",
        ),
        "read-only": ("<target", f"{raw}<target", "The machine has no disk that can store a snapshot."),
        "flash": (
            "<os>",
            f"{flash}/nowhere</loader>",
            "The machine boots from UEFI flash, of which this version of libvirt cannot create internal snapshots.",
        ),
    }

    async def test(driver: Any) -> None:
        image = daemon.image("blocked")
        write_image(image)
        daemon.adopt(image)
        for name, (old, new, reason) in changes.items():
            ref = str(uuid4())
            daemon.define(domain_xml(name, ref, image, daemon.directory / "none").replace(old, new))
            assert (await driver.machine(ref)).snapshot_blocker == reason
            error = await error_of(create(driver, ref, "a", memory=False))
            assert (type(error), error.provider_message) == (ProviderRefused, reason)
            assert daemon.virsh("snapshot-create-as", name, "a", check=False) == ""
            assert (await driver.snapshots(ref)).snapshots == []

    run(test)


def test_a_failed_revert_has_an_unknown_outcome(run: Run, daemon: Libvirtd) -> None:
    """Some of several disks may have been reverted: libvirt does not undo that."""

    async def test(driver: Any) -> None:
        ref = daemon.add("fails", running=False)
        made = await create(driver, ref, "a", memory=False)
        image = daemon.image("fails")
        image.chmod(0)
        error = await error_of(driver.revert(Work("r"), RevertCommand(ref, made.ref)))
        assert (type(error), error.message) == (
            OutcomeUnknown,
            "The provider failed, and may have executed a part of the operation.",
        )
        assert "Permission denied" in str(error.provider_message)
        image.chmod(0o600)
        await driver.revert(Work("r"), RevertCommand(ref, made.ref))

    run(test)


def test_a_numeric_name_is_refused_as_ambiguous(run: Run, daemon: Libvirtd) -> None:
    """QEMU reverts to the snapshot with that id instead of that name, and libvirt reports success."""

    async def test(driver: Any) -> None:
        ref = daemon.add("digits", running=False)
        for disk, name in ((17, "2"), (34, "other")):
            daemon.write("digits", disk)
            daemon.virsh("snapshot-create-as", "digits", name)
        daemon.virsh("snapshot-revert", "digits", "2")
        assert daemon.disk("digits") == 34
        error = await error_of(driver.revert(Work("r"), RevertCommand(ref, "2")))
        assert (type(error), error.message) == (
            ProviderRefused,
            "QEMU could mistake the snapshot's name for the id of another snapshot, and revert to that one.",
        )
        daemon.write("digits", 51)
        made = await create(driver, ref, "2", memory=False)
        daemon.write("digits", 68)
        await driver.revert(Work("r"), RevertCommand(ref, made.ref))
        assert daemon.disk("digits") == 51

    run(test)


def test_external_snapshots_of_other_clients_are_reported(run: Run, daemon: Libvirtd) -> None:
    async def test(driver: Any) -> None:
        ref = daemon.add("external", running=False)
        daemon.virsh("snapshot-create-as", "external", "made", "--disk-only")
        (reported,) = (await driver.snapshots(ref)).snapshots
        assert (reported.ref, reported.memory, reported.ready) == ("made", False, True)
        error = await error_of(driver.revert(Work("r"), RevertCommand(ref, "made")))
        assert (type(error), error.message) == (ProviderRefused, "The provider reported an error.")
        assert "revert to external snapshot not supported" in str(error.provider_message)

    run(test)


# ---- updates


def update(driver: Any, ref: str, name: str, description: str) -> Awaitable[None]:
    changed: Awaitable[None] = driver.update(Work("u"), UpdateCommand(ref, name, description=description))
    return changed


def add_domain_with_secrets(daemon: Libvirtd, name: str) -> str:
    """A stopped guest whose domain has a password, a description and foreign metadata, as others' domains do."""
    ref = daemon.add(name, running=False)
    xml = daemon.virsh("dumpxml", name, "--inactive")
    metadata = '<metadata><app:note xmlns:app="urn:x" text="1&#10;2">a<!-- comment --><app:b/></app:note></metadata>'
    daemon.define(
        xml.replace("<os>", f"<description>of the domain</description>{metadata}<os>", 1).replace(
            "</devices>", '<graphics type="vnc" port="-1" autoport="yes" passwd="sesame"/></devices>'
        )
    )
    return ref


def records(daemon: Libvirtd, name: str) -> dict[str, str]:
    """libvirt's files on the snapshots of a guest, by the snapshot's name, without the snapshot's description."""
    folder = daemon.directory / "conf/libvirt/qemu/snapshot" / name
    # The description of a snapshot is indented by two spaces, that of its domain by four.
    description = re.compile(r"^  <description>.*?</description>\n", re.MULTILINE | re.DOTALL)
    return {path.stem: description.sub("", path.read_text()) for path in folder.iterdir()}


def test_an_update_changes_nothing_but_the_description(run: Run, daemon: Libvirtd) -> None:
    """libvirt redefines the snapshot. Its record, the disks, the memory and the running machine stay as they are."""

    async def test(driver: Any) -> None:
        ref = add_domain_with_secrets(daemon, "described")
        await create(driver, ref, "off", memory=False)
        daemon.virsh("start", "described")
        daemon.await_line("described", bool)
        for name in ("a", "b"):
            await create(driver, ref, name)
        await driver.revert(Work("r"), RevertCommand(ref, "a"))
        await create(driver, ref, "c")
        saved = daemon.guest_lines("described")[-1]
        await driver.revert(Work("r"), RevertCommand(ref, "a"))  # has a parent and two children, and is current
        process, tags, before = daemon.qemu("described"), daemon.tags("described"), records(daemon, "described")
        assert all("sesame" in text and 'xmlns:app="urn:x" text="1&#10;2"' in text for text in before.values())
        reported = await driver.snapshots(ref)
        assert reported.current_ref == "a"
        snapshots = {snapshot.ref: snapshot for snapshot in reported.snapshots}
        for number, name in enumerate(("off", "a", "b", "c", "a")):
            for description in (f"new {number}\n<&> ☃", "", f"again {number}"):
                await update(driver, ref, name, description)
                snapshots[name] = replace(snapshots[name], description=description or None)
                assert await driver.snapshots(ref) == replace(reported, snapshots=list(snapshots.values()))
                assert records(daemon, "described") == before
        assert (daemon.qemu("described"), daemon.tags("described")) == (process, tags)
        assert await power(driver, ref) is PowerState.ON

        daemon.kill()
        daemon.start()
        assert await driver.snapshots(ref) == replace(reported, snapshots=list(snapshots.values()))
        count = len(daemon.guest_lines("described"))
        await driver.revert(Work("r"), RevertCommand(ref, "c"))
        first = daemon.await_line("described", lambda line: line.memory <= saved.memory + 1, since=count)
        assert first.boot == saved.boot
        assert first.disk == first.memory
        await driver.delete(Work("d"), DeleteCommand(ref, "a"))
        parents = {snapshot.ref: snapshot.parent_ref for snapshot in (await driver.snapshots(ref)).snapshots}
        assert parents == {"off": None, "b": "off", "c": "off"}
        await driver.revert(Work("r"), RevertCommand(ref, "off"))
        assert await power(driver, ref) is PowerState.OFF
        daemon.remove("described")

    run(test)


def test_external_snapshots_of_other_clients_can_be_described(run: Run, daemon: Libvirtd) -> None:
    async def test(driver: Any) -> None:
        ref = add_domain_with_secrets(daemon, "theirs")
        daemon.virsh("snapshot-create-as", "theirs", "off", "--disk-only")
        daemon.virsh("start", "theirs")
        daemon.virsh("snapshot-create-as", "theirs", "disks", "--disk-only", "--description", "by hand")
        daemon.virsh(
            "snapshot-create-as", "theirs", "memory", "--memspec", f"{daemon.directory}/theirs.memory,snapshot=external"
        )
        before, reported = records(daemon, "theirs"), await driver.snapshots(ref)
        snapshots = {snapshot.ref: snapshot for snapshot in reported.snapshots}
        assert [*snapshots] == ["off", "disks", "memory"]
        for name in ("off", "disks", "memory"):
            for description in ("new", ""):
                await update(driver, ref, name, description)
                snapshots[name] = replace(snapshots[name], description=description or None)
                assert await driver.snapshots(ref) == replace(reported, snapshots=list(snapshots.values()))
        assert records(daemon, "theirs") == before
        daemon.remove("theirs")

    run(test)


def test_errors_of_an_update(run: Run, daemon: Libvirtd, big: str) -> None:
    async def test(driver: Any) -> None:
        made = await create(driver, big, "a")
        for change in ({"name": "new"}, {"name": "new", "description": "new"}):
            error = await error_of(driver.update(Work("u"), UpdateCommand(big, "a", **change)))
            assert (type(error), error.message) == (
                ProviderRefused,
                "libvirt cannot rename a snapshot, because QEMU finds its data by the name.",
            )
        assert type(await error_of(update(driver, big, "none", "new"))) is ProviderMissing
        assert type(await error_of(update(driver, str(uuid4()), "a", "new"))) is ProviderMissing
        task = await interrupted(daemon, "SAVE", create(driver, big, "b"))
        assert type(await error_of(update(driver, big, "a", "new"))) is ProviderBusy
        daemon.resume_qemu("big")
        second = await task
        assert (await driver.snapshots(big)).snapshots == [made, second]
        daemon.kill()
        assert type(await error_of(update(driver, big, "a", "new"))) is ProviderUnavailable
        daemon.start()
        await update(driver, big, "a", "new")
        assert (await driver.snapshots(big)).snapshots == [replace(made, description="new"), second]

    run(test)


@pytest.fixture
def small(daemon: Libvirtd) -> Iterator[Path]:
    """A file system of 2 MiB."""
    path = daemon.directory / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=777", "gw", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk(run: Run, daemon: Libvirtd, small: Path) -> None:
    async def test(driver: Any) -> None:
        ref = daemon.add("full", touched=20, directory=small)
        error = await error_of(create(driver, ref, "a"))
        assert type(error) is ProviderRefused  # QEMU does not report the reason
        assert (
            error.message == "The machine's memory could not be written to its disk. Check whether the storage is full."
        )
        daemon.await_line("full", bool)
        daemon.virsh("destroy", "full")
        with pytest.raises(OSError, match="No space left"):
            (small / "filling").write_bytes(bytes(4 << 20))
        error = await error_of(create(driver, ref, "b", memory=False))
        assert (type(error), error.message) == (
            ProviderFull,
            "The provider's disk is full, or its disk quota is reached.",
        )
        assert (await driver.snapshots(ref)).snapshots == []

    run(test)
