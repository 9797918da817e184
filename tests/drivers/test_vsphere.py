"""Tests reads, errors, sessions and change hints of the vsphere driver."""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from gateway.drivers.base import CreateCommand, DeleteCommand, ReportedMachine, RevertCommand, Work
from gateway.drivers.options import Secret, read_options
from gateway.drivers.vsphere import parsing
from gateway.drivers.vsphere.driver import Options, VsphereDriver
from gateway.errors import (
    ProviderDenied,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.models import MachineKind, PowerState
from tests.hypervisors.vcenter import VCenter, named, running
from tests.waiting import until_async

Test = Callable[[VsphereDriver], Awaitable[None]]


def run(vc: VCenter, test: Test, **options: Any) -> None:
    running(vc.driver(**options), test)


def raw(vc: VCenter, start: Callable[[Any], Any], traversal: Any, *properties: Any) -> list[Any]:
    """Reads properties directly from the provider."""
    with vc.session() as session:
        return session.read(lambda login: login.collect(start(login), traversal, *properties))


# ---- machines


def test_machines_are_reported_with_all_properties(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        machines = {machine.name: machine for machine in await driver.machines()}
        (template,) = [
            each
            for each in raw(vc, lambda login: login.view, parsing.VIEW_TO_MACHINES, parsing.VIEW, parsing.MACHINE_NAME)
            if each.values.get("name") == "template"
        ]
        assert {name: machine.power_state for name, machine in machines.items()} == {
            "on": PowerState.ON,
            "off": PowerState.OFF,
            "suspended": PowerState.SUSPENDED,
        }
        on = machines["on"]
        assert on == ReportedMachine(
            ref=on.ref,
            kind=MachineKind.VM,
            name="on",
            power_state=PowerState.ON,
            uid=on.uid,
            description="this is on",
            host="DC0_C0_H0",
            created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        )
        assert on.ref.startswith("vm-")
        (found,) = raw(vc, lambda login: login.machine(on.ref), None, (vim.VirtualMachine, ("config.uuid",)))
        assert on.uid == found.values["config.uuid"]  # the BIOS UUID, as in ManageIQ, not the instance UUID
        for _ in range(2):
            with pytest.raises(ProviderMissing):
                await driver.machine(template.ref)

    run(vc, test)


def test_a_listing_takes_one_request_per_page(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        machines = await driver.machines()
        vc.calls()
        assert await driver.machines() == machines
        assert vc.calls() == ["RetrievePropertiesEx"]
        await driver.snapshots(machines[0].ref)
        assert vc.calls() == ["RetrievePropertiesEx"]
        vc.order("pages", length=2)
        assert await driver.machines() == machines
        assert vc.calls() == ["RetrievePropertiesEx"] + ["ContinueRetrievePropertiesEx"] * 2  # 4 machines and a host

    run(vc, test)


def test_the_power_state_of_a_disconnected_machine_is_unknown(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        vc.order("set", machine="on", path="runtime.connectionState", value="disconnected")
        assert (await driver.machine(ref)).power_state is PowerState.UNKNOWN
        with pytest.raises(ProviderRefused) as refused:
            await driver.create(Work("t"), CreateCommand(ref, "n", None, True))
        assert refused.value.provider_message == "The machine's power state is unknown, so its memory cannot be saved."
        assert (await driver.snapshots(ref)).snapshots == []

    run(vc, test)


def test_names_are_escaped_as_by_vsphere_clients(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        name = "8/23/2023 \\ 100 % ☃"
        vc.order("set", machine="on", path="name", value="web%2f1")
        assert (await driver.machine(ref)).name == "web/1"
        made = await driver.create(Work("t"), CreateCommand(ref, name, "why\x1b", False))
        (found,) = raw(vc, lambda login: login.machine(ref), None, parsing.SNAPSHOTS)
        (node,) = found.values["snapshot"].rootSnapshotList
        assert (made.name, node.name) == (name, "8%2f23%2f2023 %5c 100 %25 ☃")
        assert made.description == "why\ufffd"  # XML cannot represent an escape character
        assert parsing.unescaped("50% of 8%2F23") == "50% of 8/23"  # an unescaped percent sign stays

    run(vc, test)


@pytest.mark.parametrize("name", ["x" * 81, "/" * 27, "a\nb"])
def test_names_that_vsphere_does_not_accept_are_replaced(vc: VCenter, name: str) -> None:
    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "off")
        made = await driver.create(Work("0123456789"), CreateCommand(ref, name, None, False))
        assert made.name.endswith("-01234567")
        assert len(made.name) <= 80
        assert made.token == "0123456789"

    run(vc, test)


def test_sizes_and_memory_come_from_the_files() -> None:
    def disk(*keys: int) -> Any:
        return vim.vm.FileLayoutEx.DiskLayout(chain=[vim.vm.FileLayoutEx.DiskUnit(fileKey=[key]) for key in keys])

    def snapshot(name: str, data: int, memory: int, *keys: int) -> Any:
        return vim.vm.FileLayoutEx.SnapshotLayout(
            key=vim.vm.Snapshot(name), dataKey=data, memoryKey=memory, disk=[disk(*keys)]
        )

    def node(name: str, *children: Any) -> Any:
        return vim.vm.SnapshotTree(
            snapshot=vim.vm.Snapshot(name),
            name=name,
            description="",
            createTime=datetime(2026, 1, 2, tzinfo=UTC),
            state="poweredOn",
            childSnapshotList=children,
        )

    sizes = {1: 1, 2: 20, 3: 300, 4: 4_000, 5: 50_000, 6: 600_000, 7: 7_000_000}
    layout = vim.vm.FileLayoutEx(
        file=[vim.vm.FileLayoutEx.FileInfo(key=key, size=size) for key, size in sizes.items()],
        disk=[disk(1, 2, 3)],
        snapshot=[snapshot("a", 4, -1, 1), snapshot("b", 5, 6, 1, 2)],
    )
    info = vim.vm.SnapshotInfo(
        currentSnapshot=vim.vm.Snapshot("b"), rootSnapshotList=[node("a", node("b")), node("new")]
    )
    reported = parsing.parse_snapshots({"snapshot": info, "layoutEx": layout})
    assert [(s.ref, s.parent_ref, s.memory, s.size_bytes) for s in reported.snapshots] == [
        ("a", None, False, 4_000 + 20),
        ("new", None, True, None),  # not in the file layout yet
        ("b", "a", True, 50_000 + 600_000 + 300),
    ]
    assert reported.current_ref == "b"
    assert [s.size_bytes for s in parsing.parse_snapshots({"snapshot": info}).snapshots] == [None] * 3


# ---- options and errors


def test_invalid_options() -> None:
    table = {"address": "vc.example.org", "user": "u", "password": 1}

    def faults(**others: Any) -> list[str]:
        return read_options(Options, table | others, lambda _name, _value: Secret("s"))[1]

    assert faults() == []
    for valid in ("https://vc.example.org", "https://[::1]:8443/sdk", "10.0.0.1:443"):
        assert faults(address=valid) == []
    for invalid in ("", "http://vc.example.org", "https://vc.example.org:port", "https://u:p@vc", "https://vc/ui"):
        assert faults(address=invalid) == [
            f"Option 'address' must be a URL such as https://vcenter.example.org:443, not {invalid!r}."
        ]
    assert faults(thumbprint="AB:" * 31 + "AB") == []
    assert faults(thumbprint="AB:CD") == [
        "Option 'thumbprint' must be the SHA-256 fingerprint of a certificate, 64 hexadecimal digits."
    ]
    assert faults(timeout=0.5) == ["Option 'timeout' must be at least 1, not 0.5."]
    assert "s" not in repr(Secret("s")).removeprefix("Secret")


def test_an_unreachable_provider_is_unavailable(vc: VCenter) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen

        async def test(driver: VsphereDriver) -> None:
            for _ in range(2):
                for call in (
                    driver.health(),
                    driver.machines(),
                    driver.snapshots("vm-1"),
                    driver.create(Work("t"), CreateCommand("vm-1", "n", None, False)),
                    driver.recover(Work("t", "task-1"), DeleteCommand("vm-1", "snapshot-1")),
                    anext(driver.change_hints()),
                ):
                    with pytest.raises(ProviderUnavailable) as error:
                        await call
                    assert error.value.message == "The provider cannot be reached."

        run(vc, test, address=f"https://127.0.0.1:{taken.getsockname()[1]}")


def test_only_trusted_certificates_are_accepted(vc: VCenter, tmp_path: Path) -> None:
    async def untrusted(driver: VsphereDriver) -> None:
        for _ in range(2):
            with pytest.raises(ProviderUnavailable) as error:
                await driver.health()
            assert (
                error.value.message
                == "The provider's certificate is not trusted. Check the options 'ca_file' and 'thumbprint'."
            )

    async def unreadable(driver: VsphereDriver) -> None:
        with pytest.raises(ProviderUnavailable) as error:
            await driver.health()
        assert error.value.message == "The file of the option 'ca_file' cannot be read."

    async def trusted(driver: VsphereDriver) -> None:
        await driver.health()
        assert len(await driver.machines()) == 3

    certificate = hashlib.sha256(ssl.PEM_cert_to_DER_cert(vc.ca_file.read_text())).hexdigest()
    run(vc, untrusted, ca_file=None)
    run(vc, untrusted, ca_file=None, thumbprint="0" * 64)
    assert vc.calls() == []
    run(vc, unreadable, ca_file=str(tmp_path / "none.pem"))
    run(vc, trusted, ca_file=None, thumbprint=certificate.upper())


def test_the_thumbprint_is_checked_at_every_connect(vc: VCenter) -> None:
    certificate = hashlib.sha256(ssl.PEM_cert_to_DER_cert(vc.ca_file.read_text())).hexdigest()
    stub = vc.stub(ca_file=None, thumbprint=certificate)
    with vc.session(stub) as session:
        assert session.read(lambda login: login.content.about.name)
        stub.DropConnections()
        stub.schemeArgs["thumbprint"] = "0" * 64  # as if another server answered at the address
        with pytest.raises(ProviderUnavailable) as error:
            session.read(lambda login: login.collect(login.view, parsing.VIEW_TO_MACHINES, parsing.MACHINE_NAME))
        assert (
            error.value.message
            == "The provider's certificate is not trusted. Check the options 'ca_file' and 'thumbprint'."
        )
        stub.schemeArgs["thumbprint"] = certificate


def test_wrong_credentials_are_denied(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        for call in (driver.health(), driver.create(Work("t"), CreateCommand("vm-1", "n", None, False))):
            with pytest.raises(ProviderDenied) as error:
                await call
            assert "wrong-secret" not in f"{error.value.message} {error.value.provider_message}"

    run(vc, test, password=Secret("wrong-secret"))


def test_an_expired_session_is_renewed_once(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        vc.order("expire")
        vc.calls()
        await asyncio.gather(*[driver.machines() for _ in range(3)])
        assert vc.calls("Login") == ["Login"]
        vc.order("expire")
        made = await driver.create(Work("t"), CreateCommand(ref, "n", None, True))
        vc.rule("RemoveSnapshot_Task", "fault", fault="NotAuthenticated")  # expires between the read and the write
        await driver.delete(Work("t"), DeleteCommand(ref, made.ref))
        assert vc.calls("Login", "RemoveSnapshot_Task") == [
            "Login",
            "RemoveSnapshot_Task",
            "Login",
            "RemoveSnapshot_Task",
        ]
        vc.order("expire")
        vc.rule("Login", "fault", fault="InvalidLogin")  # and the password has been changed
        with pytest.raises(ProviderDenied):
            await driver.machines()
        assert len(await driver.machines()) == 3

    run(vc, test)


def test_a_read_is_repeated_once_after_a_closed_connection(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        await driver.machines()
        vc.calls()
        vc.rule("RetrievePropertiesEx", "drop")
        assert len(await driver.machines()) == 3
        assert vc.calls() == ["RetrievePropertiesEx"] * 2
        vc.rule("RetrievePropertiesEx", "drop", times=2)
        with pytest.raises(ProviderUnavailable):
            await driver.machines()

    run(vc, test)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"how": "garble"}, "The provider's response is malformed."),
        ({"how": "code", "code": 503}, "The connection to the provider was lost."),
        pytest.param({"how": "hang"}, "The provider did not answer in time.", marks=pytest.mark.thorough),
        ({"how": "fault", "fault": "HostNotConnected"}, "The machine's host is not connected."),
    ],
)
def test_a_read_without_an_answer_is_never_an_empty_list(vc: VCenter, how: dict[str, Any], message: str) -> None:
    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        made = await driver.create(Work("t"), CreateCommand(ref, "n", None, False))
        calls = (
            driver.machines(),
            driver.snapshots(ref),
            driver.create(Work("u"), CreateCommand(ref, "n", None, False)),
            driver.revert(Work("u"), RevertCommand(ref, made.ref)),
        )
        vc.rule("RetrievePropertiesEx", **how, times=len(calls))
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [(type(error), str(error)) for error in errors] == [(ProviderUnavailable, message)] * len(calls)
        assert (await driver.snapshots(ref)).snapshots == [made]

    run(vc, test, timeout=2.0 if how["how"] == "hang" else 10.0)


def test_closing_logs_out(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        await driver.health()
        vc.calls()
        await driver.close()
        assert vc.calls() == ["Logout"]
        await driver.close()
        assert vc.calls() == []

    run(vc, test)


# ---- change hints


def test_change_hints_name_machines_changed_by_other_clients(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        ref, off = await named(driver, "on"), await named(driver, "off")
        other = vc.driver()
        hints: Any = driver.change_hints()
        first = asyncio.ensure_future(anext(hints))
        await vc.called("WaitForUpdatesEx", 2)  # the first describes the present state
        made = await other.create(Work("t"), CreateCommand(ref, "n", None, True))
        assert await first == ref
        vc.order("set", machine="off", path="name", value="renamed")
        await hint(hints, off)
        await other.delete(Work("t"), DeleteCommand(ref, made.ref))
        await hint(hints, ref)
        await hints.aclose()
        assert "DestroyPropertyCollector" in vc.calls()
        await other.close()

    run(vc, test)


def test_change_hints_end_with_the_session_and_can_be_restarted(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        hints = driver.change_hints()
        first = asyncio.ensure_future(anext(hints))
        await vc.called("WaitForUpdatesEx", 2)
        vc.order("expire")
        vc.order("set", machine="on", path="name", value="renamed")
        assert await first == ref  # the pending wait is still answered
        with pytest.raises(ProviderUnavailable) as error:
            await anext(hints)
        assert error.value.message == "The provider has ended the session."
        hints = driver.change_hints()
        first = asyncio.ensure_future(anext(hints))
        await vc.called("WaitForUpdatesEx", 2)
        vc.order("set", machine="renamed", path="name", value="renamed again")
        assert await first == ref
        first = asyncio.ensure_future(anext(hints))
        await vc.called("WaitForUpdatesEx", 1)
        first.cancel()  # as when the gateway stops
        with pytest.raises(asyncio.CancelledError):
            await first
        assert "DestroyPropertyCollector" in vc.calls()

    run(vc, test)


async def hint(hints: AsyncIterator[str], ref: str) -> None:
    """Waits for a hint of the machine. One change may cause several hints, and several changes one hint."""

    async def is_hinted() -> bool:
        return await anext(hints) == ref

    await until_async(is_hinted, pause=0.0)
