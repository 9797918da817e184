"""What is particular to libvirt and shows on its test driver: names, credentials, recovery, hints."""

import asyncio
import contextlib
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

AUTH = "<auth><user password='right'>gateway</user></auth>"

Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes drivers of a host that it writes; `address` instead of it."""
    if reason := lacking():
        (pytest.fail if required(PART) else pytest.skip)(reason)
    module = import_module("gateway.drivers.libvirt.driver")

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


def domain(driver: Any, ref: str = MACHINE) -> Any:
    """The domain as libvirt's own clients have it. The test driver's world lives in the connection alone."""
    return driver._line.connection.lookupByUUIDString(ref)


async def create(driver: Any, name: str, token: str = "token123") -> ReportedSnapshot:
    seen: ReportedSnapshot = await driver.create(Work(token), CreateCommand(MACHINE, name, None, True))
    return seen


async def error_of(call: Awaitable[Any]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await call
    return caught.value


def test_machines_are_what_libvirt_says(make: Make) -> None:
    async def test(driver: Any) -> None:
        powers = {"machine": PowerState.ON, "off": PowerState.OFF, "paused": PowerState.SUSPENDED}
        machines = await driver.machines()
        assert [(seen.name, seen.power_state, seen.ref) for seen in machines] == [
            (name, powers[name], ref) for name, ref in zip(powers, (MACHINE, OFF, PAUSED), strict=True)
        ]
        assert {(seen.host, seen.obstacle) for seen in machines} == {(socket.gethostname(), None)}
        domain(driver).reset(0)
        domain(driver, OFF).create()
        domain(driver, PAUSED).destroy()
        powers = {"machine": PowerState.ON, "off": PowerState.ON, "paused": PowerState.OFF}
        assert {seen.name: seen.power_state for seen in await driver.machines()} == powers

    run(make(), test)


def test_snapshots_of_others_are_shown_as_they_are(make: Make) -> None:
    async def test(driver: Any) -> None:
        seen = await driver.snapshots(MACHINE)
        moment = datetime.fromtimestamp(1700000000, UTC)
        assert seen.current_ref == "before us"
        assert list(seen.snapshots) == [
            ReportedSnapshot(ref="before us", name="before us", created_at=moment, description="by hand", memory=True)
        ]
        domain(driver).snapshotCreateXML("<domainsnapshot><name>again</name></domainsnapshot>", 0)
        seen = await driver.snapshots(MACHINE)
        assert [(s.ref, s.parent_ref, s.token) for s in seen.snapshots] == [
            ("before us", None, None),
            ("again", "before us", None),
        ]
        domain(driver).revertToSnapshot(domain(driver).snapshotLookupByName("before us"), 0)
        domain(driver).snapshotLookupByName("again").delete(0)
        seen = await driver.snapshots(MACHINE)
        assert ([s.ref for s in seen.snapshots], seen.current_ref) == (["before us"], "before us")

    run(make(EXISTING), test)


@pytest.mark.parametrize(
    ("name", "there"),
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
def test_names_on_libvirt(make: Make, name: str, there: str) -> None:
    async def test(driver: Any) -> None:
        await driver.health()
        domain(driver).snapshotCreateXML("<domainsnapshot><name>taken</name></domainsnapshot>", 0)
        made = await create(driver, name)
        assert (made.ref, made.name, made.token) == (there, there, "token123")
        assert {s.ref for s in (await driver.snapshots(MACHINE)).snapshots} == {"taken", there}

    run(make(), test)


def test_credentials(make: Make) -> None:
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


def test_a_provider_that_is_away(make: Make, tmp_path: Path) -> None:
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
                anext(driver.hints()),
            ):
                error = await error_of(call)
                assert (type(error), error.message) == (ProviderUnavailable, "the provider cannot be reached")
                assert "No such file" in str(error.provider_message)

    run(make(address=f"qemu+unix:///session?socket={tmp_path}/none"), test)


@contextlib.contextmanager
def babbler(path: Path) -> Iterator[None]:
    """Answers whoever connects with what is no libvirt."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def babble() -> None:
            with listening.accept()[0] as peer:
                peer.recv(1 << 16)
                with contextlib.suppress(OSError):
                    peer.sendall(b"HTTP/1.0 200 OK\r\n\r\n" * 10)

        thread = threading.Thread(target=babble)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def test_nonsense_is_no_answer(make: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("s") / "s"

    async def test(driver: Any) -> None:
        assert isinstance(await error_of(driver.machines()), ProviderUnavailable)

    with babbler(place):
        run(make(address=f"qemu+unix:///session?socket={place}"), test)


def test_what_is_gone_is_missing(make: Make) -> None:
    async def test(driver: Any) -> None:
        made = await create(driver, "a")
        domain(driver).snapshotLookupByName("a").delete(0)
        for call in (
            driver.revert(Work("r"), RevertCommand(MACHINE, made.ref)),
            driver.delete(Work("d"), DeleteCommand(MACHINE, made.ref)),
        ):
            error = await error_of(call)
            assert (type(error), error.message) == (ProviderMissing, "the machine has no such snapshot")
        domain(driver, OFF).undefine()
        for ref in (OFF, OFF.upper(), "nowhere", ""):
            error = await error_of(driver.machine(ref))
            assert (type(error), error.message) == (ProviderMissing, "the provider has no such machine")
        assert [seen.ref for seen in await driver.machines()] == [MACHINE, PAUSED]

    run(make(), test)


def test_snapshots_that_do_not_hold_still_are_no_missing_machine(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes away between the listing and the look at it says that there is no such snapshot."""

    async def test(driver: Any) -> None:
        await create(driver, "a")
        library = import_module("libvirt")
        listing = library.virDomain.listAllSnapshots
        left = [0]

        def listed_and_gone(self: Any, flags: int) -> Any:
            found = listing(self, flags)
            if left[0]:
                left[0] -= 1
                found[0].delete(0)
                self.snapshotCreateXML(f"<domainsnapshot><name>left {left[0]}</name></domainsnapshot>", 0)
            return found

        monkeypatch.setattr(library.virDomain, "listAllSnapshots", listed_and_gone)
        left[0] = 1
        assert [s.ref for s in (await driver.snapshots(MACHINE)).snapshots] == ["left 0"]
        left[0] = 3
        assert type(await error_of(driver.snapshots(MACHINE))) is ProviderBusy

    run(make(), test)


def test_a_name_that_somebody_takes_in_between(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("gateway.drivers.libvirt.driver")
    wire_name = module.wire_name

    async def test(driver: Any) -> None:
        await driver.health()

        def take(*arguments: Any) -> str:
            monkeypatch.setattr(module, "wire_name", wire_name)
            domain(driver).snapshotCreateXML("<domainsnapshot><name>a</name></domainsnapshot>", 0)
            name: str = wire_name(*arguments)
            return name

        monkeypatch.setattr(module, "wire_name", take)
        assert type(await error_of(create(driver, "a"))) is ProviderBusy
        assert (await create(driver, "a")).ref == "a-token123"

    run(make(), test)


def test_a_create_that_comes_again_makes_nothing_more(make: Make) -> None:
    async def test(driver: Any) -> None:
        made = await create(driver, "a")
        assert await create(driver, "a") == made
        assert list((await driver.snapshots(MACHINE)).snapshots) == [made]

    run(make(), test)


def test_the_matrix_says_what_to_do(make: Make) -> None:
    async def test(driver: Any) -> None:
        matrix = driver.matrix(MachineKind.VM)
        for ref, power, memory, advice in (
            (MACHINE, PowerState.ON, False, "include it, or shut the machine down"),
            (PAUSED, PowerState.SUSPENDED, False, "include it, or shut the machine down"),
            (OFF, PowerState.OFF, True, "leave it out, or start the machine"),
        ):
            action = SnapshotAction.CREATE_WITH_MEMORY if memory else SnapshotAction.CREATE
            reason = matrix.reason_against(action, power)
            assert reason.endswith(advice)
            error = await error_of(driver.create(Work("t"), CreateCommand(ref, "a", None, memory)))
            assert (type(error), error.provider_message) == (ProviderRefused, reason)
            made = await driver.create(Work("t"), CreateCommand(ref, "a", None, not memory))
            assert made.memory is not memory

    run(make(), test)


def test_a_revert_is_only_called_done_when_that_shows(make: Make) -> None:
    """By current, or by the new process of a machine that runs. One that is off shows nothing when it stays there."""

    async def test(driver: Any) -> None:
        tasks: list[str] = []

        async def checkpoint(task_ref: str) -> None:
            tasks.append(task_ref)

        async def revert_each(ref: str, memory: bool) -> tuple[RevertCommand, RevertCommand]:
            a, b = [await driver.create(Work(name), CreateCommand(ref, name, None, memory)) for name in "ab"]
            to_a, to_b = RevertCommand(ref, a.ref), RevertCommand(ref, b.ref)
            assert await driver.recover(Work("r"), to_a) is Recovery.NOT_BEGUN  # it was not even checkpointed
            tasks.clear()
            for wish in (to_b, to_b, to_a):
                await driver.revert(Work("r", checkpoint=checkpoint), wish)
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
            "the provider does not show whether the machine was reverted",
        )

    run(make(), test)


def test_hints_name_the_machine_and_end_with_the_connection(make: Make) -> None:
    async def test(driver: Any) -> None:
        hints = driver.hints()
        first = asyncio.ensure_future(anext(hints))
        await driver.health()
        while not driver._hearers:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        domain(driver).suspend()
        assert await first == MACHINE
        domain(driver, OFF).create()
        assert await anext(hints) == OFF
        await driver.close()
        with pytest.raises(StopAsyncIteration):
            await anext(hints)
        assert driver._hearers == set()

    run(make(), test)


def test_options_that_make_no_sense(make: Make) -> None:
    options = import_module("gateway.drivers.libvirt.driver").Options

    def faults(**table: Any) -> list[str]:
        return read_options(options, table, lambda _, value: Secret(value))[1]

    assert faults(address="test:///default") == []
    assert faults() == ["needs 'address': libvirt's connection URI, such as qemu:///system"]
    assert faults(address="qemu") == ["has an address 'qemu', which must be a connection URI, such as qemu:///system"]
    assert faults(address="qemu:///system", user="u") == ["must have both 'user' and 'password', or neither"]
    assert faults(address="qemu:///system", password="p") == ["must have both 'user' and 'password', or neither"]
