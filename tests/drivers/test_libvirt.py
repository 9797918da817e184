"""Tests the libvirt driver on libvirt's test driver: names, credentials, errors, recovery, change hints."""

import asyncio
import contextlib
import gc
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from gateway.drivers.base import CreateCommand, DeleteCommand, Recovery, ReportedSnapshot, RevertCommand, Work
from gateway.drivers.options import Secret, read_options
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.models import MachineKind, PowerState, SnapshotAction
from tests.databases import required
from tests.drivers.worlds.libvirt_test import MACHINE, OFF, PART, PAUSED, lacking, node_xml

EXISTING = f"""
<test:domainsnapshot>
  <name>before us</name><description>by hand</description><creationTime>1700000000</creationTime>
  <state>running</state><active>1</active>
  <domain type="test"><name>machine</name><uuid>{MACHINE}</uuid><memory>65536</memory><os><type>hvm</type></os></domain>
</test:domainsnapshot>"""

EXTERNAL = EXISTING.replace("before us", "outside").replace("<active>1<", "<active>0<")
EXTERNAL_DISK = EXTERNAL.replace(
    "</state>", "</state><disks><disk name='vda' snapshot='external'><source file='/outside'/></disk></disks>"
)
EXTERNAL_MEMORY = EXTERNAL.replace("</state>", "</state><memory snapshot='external' file='/outside'/>")

AUTH = "<auth><user password='right'>gateway</user></auth>"

Make = Callable[..., Any]


CONNECTIONS: list[Any] = []  # those that the drivers of a test have opened


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes drivers of a test host, which has `machine` in the XML of its first machine, or of `address`."""
    if reason := lacking():
        (pytest.fail if required(PART) else pytest.skip)(reason)
    module, library = import_module("gateway.drivers.libvirt.driver"), import_module("libvirt")
    connect = library.openAuth

    def recorded(*arguments: Any) -> Any:
        CONNECTIONS.append(connect(*arguments))
        return CONNECTIONS[-1]

    CONNECTIONS.clear()
    monkeypatch.setattr(library, "openAuth", recorded)

    def make(machine: str = "", auth: str = "", address: str = "", **options: Any) -> Any:
        node = tmp_path / "node.xml"
        node.write_text(node_xml(machine, auth=auth))
        return module.make("p", module.Options(address=address or f"test://{node}", **options), 2)

    return make


def run(driver: Any, test: Callable[[Any], Awaitable[None]]) -> None:
    async def inside() -> None:
        try:
            await test(driver)
        finally:
            await driver.close()

    asyncio.run(inside())


def domain(ref: str = MACHINE) -> Any:
    """The domain on the driver's own connection, because each connection to the test driver has its own domains."""
    return CONNECTIONS[-1].lookupByUUIDString(ref)


async def create(driver: Any, name: str, token: str = "token123") -> ReportedSnapshot:
    made: ReportedSnapshot = await driver.create(Work(token), CreateCommand(MACHINE, name, None, True))
    return made


async def error_of(call: Awaitable[Any]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await call
    return caught.value


def test_machines_are_reported_as_libvirt_lists_them(make: Make) -> None:
    async def test(driver: Any) -> None:
        powers = {"machine": PowerState.ON, "off": PowerState.OFF, "paused": PowerState.SUSPENDED}
        machines = await driver.machines()
        assert [(each.name, each.power_state, each.ref) for each in machines] == [
            (name, powers[name], ref) for name, ref in zip(powers, (MACHINE, OFF, PAUSED), strict=True)
        ]
        assert {(each.host, each.snapshot_blocker) for each in machines} == {(socket.gethostname(), None)}
        domain().reset(0)
        domain(OFF).create()
        domain(PAUSED).destroy()
        powers = {"machine": PowerState.ON, "off": PowerState.ON, "paused": PowerState.OFF}
        assert {each.name: each.power_state for each in await driver.machines()} == powers

    run(make(), test)


def test_snapshots_of_other_clients_are_reported(make: Make) -> None:
    async def test(driver: Any) -> None:
        reported = await driver.snapshots(MACHINE)
        moment = datetime.fromtimestamp(1700000000, UTC)
        assert reported.current_ref == "before us"
        assert list(reported.snapshots) == [
            ReportedSnapshot(ref="before us", name="before us", created_at=moment, description="by hand", memory=True)
        ]
        domain().snapshotCreateXML("<domainsnapshot><name>again</name></domainsnapshot>", 0)
        reported = await driver.snapshots(MACHINE)
        assert [(s.ref, s.parent_ref, s.token) for s in reported.snapshots] == [
            ("before us", None, None),
            ("again", "before us", None),
        ]
        domain().revertToSnapshot(domain().snapshotLookupByName("before us"), 0)
        domain().snapshotLookupByName("again").delete(0)
        reported = await driver.snapshots(MACHINE)
        assert ([s.ref for s in reported.snapshots], reported.current_ref) == (["before us"], "before us")

    run(make(EXISTING), test)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vor dem Umzug ☃ <&> 100 %", "vor dem Umzug ☃ <&> 100 %"),
        ("-n", "-n"),
        ("n" * 40, "n" * 40),
        ("n" * 41, "n" * 31 + "-token123"),
        ("a/b", "a-b-token123"),
        (".hidden", "hidden-token123"),
        ('with "quotes"', "with-quotes-token123"),
        ("back\\slash", "back-slash-token123"),
        ("2026", "s-2026-token123"),
        ("two\nlines", "two-lines-token123"),
        ("taken", "taken-token123"),
    ],
)
def test_names_that_libvirt_does_not_accept_are_replaced(make: Make, name: str, expected: str) -> None:
    async def test(driver: Any) -> None:
        await driver.health()
        domain().snapshotCreateXML("<domainsnapshot><name>taken</name></domainsnapshot>", 0)
        made = await create(driver, name)
        assert (made.ref, made.name, made.token) == (expected, expected, "token123")
        assert {s.ref for s in (await driver.snapshots(MACHINE)).snapshots} == {"taken", expected}

    run(make(), test)


def test_credentials_are_checked(make: Make) -> None:
    async def succeed(driver: Any) -> None:
        await driver.health()

    async def fail(driver: Any) -> None:
        for call in (driver.health, driver.machines, lambda: create(driver, "a")):
            error = await error_of(call())
            assert isinstance(error, ProviderDenied)
            assert "authentication failed" in str(error.provider_message)
            assert "wrong" not in f"{error.message}{error.provider_message}"

    run(make(auth=AUTH, user="gateway", password=Secret("right")), succeed)
    run(make(auth=AUTH, user="gateway", password=Secret("wrong")), fail)
    run(make(auth=AUTH), fail)


def test_an_unreachable_provider_is_unavailable(make: Make, tmp_path: Path) -> None:
    async def test(driver: Any) -> None:
        for _ in range(2):
            for call in (
                driver.health(),
                driver.machines(),
                driver.machine(MACHINE),
                driver.snapshots(MACHINE),
                create(driver, "a"),
                driver.revert(Work("r"), RevertCommand(MACHINE, "a")),
                driver.delete(Work("d"), DeleteCommand(MACHINE, "a")),
                driver.recover(Work("r", "x"), RevertCommand(MACHINE, "a")),
                anext(driver.change_hints()),
            ):
                error = await error_of(call)
                assert (type(error), error.message) == (ProviderUnavailable, "The provider cannot be reached.")
                assert "No such file" in str(error.provider_message)

    run(make(address=f"qemu+unix:///session?socket={tmp_path}/none"), test)


@contextlib.contextmanager
def http_server(path: Path) -> Iterator[None]:
    """Answers the first connection with HTTP, which is not libvirt's protocol."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def answer() -> None:
            with listening.accept()[0] as peer:
                peer.recv(1 << 16)
                with contextlib.suppress(OSError):
                    peer.sendall(b"HTTP/1.0 200 OK\r\n\r\n" * 10)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def test_a_malformed_response_is_unavailable(make: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "s"

    async def test(driver: Any) -> None:
        assert isinstance(await error_of(driver.machines()), ProviderUnavailable)

    with http_server(path):
        run(make(address=f"qemu+unix:///session?socket={path}"), test)


def test_deleted_snapshots_and_machines_are_missing(make: Make) -> None:
    async def test(driver: Any) -> None:
        made = await create(driver, "a")
        domain().snapshotLookupByName("a").delete(0)
        for call in (
            driver.revert(Work("r"), RevertCommand(MACHINE, made.ref)),
            driver.delete(Work("d"), DeleteCommand(MACHINE, made.ref)),
        ):
            error = await error_of(call)
            assert (type(error), error.message) == (ProviderMissing, "The machine has no such snapshot.")
        domain(OFF).undefine()
        for ref in (OFF, OFF.upper(), "nowhere", ""):
            error = await error_of(driver.machine(ref))
            assert (type(error), error.message) == (ProviderMissing, "The provider has no such machine.")
        assert [each.ref for each in await driver.machines()] == [MACHINE, PAUSED]

    run(make(), test)


@pytest.mark.parametrize("external", [EXTERNAL_DISK, EXTERNAL_MEMORY], ids=["disk", "memory"])
def test_an_external_snapshot_is_not_deleted_if_internal_ones_may_be_lost(make: Make, external: str) -> None:
    async def test(driver: Any) -> None:
        delete = DeleteCommand(MACHINE, "outside")
        for _ in range(2):
            error = await error_of(driver.delete(Work("d"), delete))
            assert type(error) is ProviderRefused
            assert error.message.startswith("The snapshot is an external one, created by another client, and the")
            assert error.message.endswith("Delete the internal snapshots first.")
        assert {each.ref for each in (await driver.snapshots(MACHINE)).snapshots} == {"before us", "outside"}
        await driver.delete(Work("d"), DeleteCommand(MACHINE, "before us"))
        await driver.delete(Work("d"), delete)
        assert list((await driver.snapshots(MACHINE)).snapshots) == []

    run(make(EXISTING + external), test)


def test_a_create_whose_snapshot_cannot_be_read_is_unknown(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not be taken for one that did not start: it would be created a second time."""

    async def test(driver: Any) -> None:
        command = CreateCommand(MACHINE, "a", None, True)
        assert await driver.recover(Work("token123"), command) is Recovery.NOT_STARTED
        with monkeypatch.context() as patch:
            patch.setattr(import_module("libvirt").virDomainSnapshot, "getXMLDesc", lambda *_: "<domainsnapshot>")
            assert type(await error_of(create(driver, "a"))) is OutcomeUnknown
            for _ in range(2):
                assert type(await error_of(driver.recover(Work("token123"), command))) is OutcomeUnknown
        assert (await driver.recover(Work("token123"), command)).name == "a"

    run(make(), test)


def test_snapshots_that_change_during_the_listing_are_busy_not_missing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt raises "no such snapshot" for a snapshot that is deleted between the listing and the read."""

    async def test(driver: Any) -> None:
        await create(driver, "a")
        library = import_module("libvirt")
        listing = library.virDomain.listAllSnapshots
        remaining = [0]

        def list_and_replace(self: Any, flags: int) -> Any:
            found = listing(self, flags)
            if remaining[0]:
                remaining[0] -= 1
                found[0].delete(0)
                self.snapshotCreateXML(f"<domainsnapshot><name>left {remaining[0]}</name></domainsnapshot>", 0)
            return found

        monkeypatch.setattr(library.virDomain, "listAllSnapshots", list_and_replace)
        remaining[0] = 1
        assert [s.ref for s in (await driver.snapshots(MACHINE)).snapshots] == ["left 0"]
        remaining[0] = 3
        assert type(await error_of(driver.snapshots(MACHINE))) is ProviderBusy

    run(make(), test)


def test_a_name_that_is_taken_during_the_create_is_busy(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("gateway.drivers.libvirt.driver")
    provider_snapshot_name = module.provider_snapshot_name

    async def test(driver: Any) -> None:
        await driver.health()

        def take(*arguments: Any) -> str:
            monkeypatch.setattr(module, "provider_snapshot_name", provider_snapshot_name)
            domain().snapshotCreateXML("<domainsnapshot><name>a</name></domainsnapshot>", 0)
            name: str = provider_snapshot_name(*arguments)
            return name

        monkeypatch.setattr(module, "provider_snapshot_name", take)
        assert type(await error_of(create(driver, "a"))) is ProviderBusy
        assert (await create(driver, "a")).ref == "a-token123"

    run(make(), test)


def test_a_repeated_create_returns_the_first_snapshot(make: Make) -> None:
    async def test(driver: Any) -> None:
        made = await create(driver, "a")
        assert await create(driver, "a") == made
        assert list((await driver.snapshots(MACHINE)).snapshots) == [made]

    run(make(), test)


def test_unsupported_creates_are_refused_with_advice(make: Make) -> None:
    async def test(driver: Any) -> None:
        matrix = driver.matrix(MachineKind.VM)
        for ref, power, memory, advice in (
            (MACHINE, PowerState.ON, False, "Include the memory, or shut the machine down."),
            (PAUSED, PowerState.SUSPENDED, False, "Include the memory, or shut the machine down."),
            (OFF, PowerState.OFF, True, "Exclude the memory, or start the machine."),
        ):
            action = SnapshotAction.CREATE_WITH_MEMORY if memory else SnapshotAction.CREATE
            reason = matrix.unsupported_reason(action, power)
            assert reason.endswith(advice)
            error = await error_of(driver.create(Work("t"), CreateCommand(ref, "a", None, memory)))
            assert (type(error), error.provider_message) == (ProviderRefused, reason)
            made = await driver.create(Work("t"), CreateCommand(ref, "a", None, not memory))
            assert made.memory is not memory

    run(make(), test)


def test_a_revert_is_recovered_as_done_only_with_proof(make: Make) -> None:
    """The proof is the current snapshot, or the new process of a running machine. See `libvirt.domains`."""

    async def test(driver: Any) -> None:
        tasks: list[str] = []

        async def checkpoint(task_ref: str) -> None:
            tasks.append(task_ref)

        async def revert_each(ref: str, memory: bool) -> tuple[RevertCommand, RevertCommand]:
            a, b = [await driver.create(Work(name), CreateCommand(ref, name, None, memory)) for name in "ab"]
            to_a, to_b = RevertCommand(ref, a.ref), RevertCommand(ref, b.ref)
            assert await driver.recover(Work("r"), to_a) is Recovery.NOT_STARTED  # there is no checkpoint
            tasks.clear()
            for command in (to_b, to_b, to_a):
                await driver.revert(Work("r", checkpoint=checkpoint), command)
            assert await driver.recover(Work("r", tasks[2]), to_a) is Recovery.DONE
            assert isinstance(await error_of(driver.recover(Work("r", tasks[2]), to_b)), OutcomeUnknown)
            await driver.revert(Work("s"), to_b)
            return to_a, to_b

        _, to_b = await revert_each(MACHINE, True)
        assert await driver.recover(Work("r", tasks[1]), to_b) is Recovery.DONE
        _, to_b = await revert_each(OFF, False)
        error = await error_of(driver.recover(Work("r", tasks[1]), to_b))
        assert (type(error), error.message) == (
            OutcomeUnknown,
            "The provider does not show whether the machine was reverted.",
        )

    run(make(), test)


def test_change_hints_name_the_machine_and_end_with_the_connection(make: Make) -> None:
    async def test(driver: Any) -> None:
        before = queues()
        hints = driver.change_hints()
        first = asyncio.ensure_future(anext(hints))
        await driver.health()
        domain().suspend()
        assert await first == MACHINE
        domain(OFF).create()
        assert await anext(hints) == OFF
        await driver.close()
        with pytest.raises(StopAsyncIteration):
            await anext(hints)
        del hints, first
        assert queues() == before

    run(make(), test)


def queues() -> int:
    """The number of asyncio's queues in memory. A driver has one for each iterator of change hints."""
    gc.collect()
    return sum(isinstance(each, asyncio.Queue) for each in gc.get_objects())


def test_invalid_options(make: Make) -> None:
    options = import_module("gateway.drivers.libvirt.driver").Options

    def faults(**table: Any) -> list[str]:
        return read_options(options, table, lambda _, value: Secret(value))[1]

    assert faults(address="test:///default") == []
    assert faults() == ["Option 'address' is required: Connection URI of libvirt, such as qemu:///system."]
    assert faults(address="qemu") == ["Option 'address' must be a connection URI such as qemu:///system, not 'qemu'."]
    assert faults(address="qemu:///system", user="u") == ["Options 'user' and 'password' must be set together."]
    assert faults(address="qemu:///system", password="p") == ["Options 'user' and 'password' must be set together."]
