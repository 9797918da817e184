"""The vsphere driver on a vCenter whose data is odd: each oddity costs its own field, and the record states it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.drivers.base import UNKNOWN_TIME, CreateCommand, DeleteCommand, Work
from gateway.drivers.vsphere.driver import VsphereDriver
from gateway.errors import OutcomeUnknown, ProviderDenied
from gateway.models import PowerState
from tests.hypervisors.vcenter import VCenter, named, running

LONG = "x" * 30_000
CREATED = "2026-01-02T03:04:05Z</val>"
READ = "RetrievePropertiesEx"


def values(record: object) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).__slots__}  # type: ignore[attr-defined]


MACHINES: list[tuple[str, str, str, dict[str, Any], str | None]] = [
    (
        "a time that is no time",
        CREATED,
        "yesterday</val>",
        {"created_at": None},
        "The creation time is not a time: 'yesterday'.",
    ),
    (
        "a time in milliseconds",
        CREATED,
        "1700000000000</val>",
        {"created_at": None},
        "The creation time is not a time: '1700000000000'.",
    ),
    (
        "a time without an offset",
        CREATED,
        "2026-05-06T07:08:09</val>",
        {"created_at": datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)},
        None,
    ),
    (
        "a time in the year 1",
        CREATED,
        "0001-01-01T00:00:00Z</val>",
        {"created_at": None},
        "The creation time 0001-01-01T00:00:00+00:00 is out of range.",
    ),
    (
        "an unknown power state",
        ">poweredOn</val>",
        ">molten</val>",
        {"power_state": PowerState.UNKNOWN},
        "The power state is missing or malformed.",
    ),
    (
        "a value of an unknown type",
        '"VirtualMachinePowerState">poweredOn</val>',
        '"Plasma"><a><b/></a></val>',
        {"power_state": PowerState.UNKNOWN},
        "The power state is missing or malformed.",
    ),
    ("an unknown element", "<name>name</name>", "<name>name</name><a><b>1</b></a>", {}, None),
    ("a name with control characters", ">on</val>", ">o\x01&#2;n</val>", {"name": "o\ufffd\ufffdn"}, None),
    (
        "a name of 30 kB",
        ">on</val>",
        f">{LONG}</val>",
        {"name": LONG[:1_024]},
        "The name was changed, because it is too long or contains invalid characters.",
    ),
    (
        "a name that is a number",
        '"xsd:string">on</val>',
        '"xsd:int">7</val>',
        {"name": None},
        "The name is missing or malformed.",
    ),
    ("a name that is no number", '"xsd:string">on</val>', '"xsd:int">a</val>', {"name": "a"}, None),
]


@pytest.mark.parametrize(
    ("old", "new", "fields", "problem"), [row[1:] for row in MACHINES], ids=[row[0] for row in MACHINES]
)
def test_an_odd_machine(vc: VCenter, old: str, new: str, fields: dict[str, Any], problem: str | None) -> None:
    async def test(driver: VsphereDriver) -> None:
        usual = {machine.ref: machine for machine in await driver.machines()}
        ref = await named(driver, "on")
        expected = {name: ref if name == "name" and value is None else value for name, value in fields.items()}
        for odd in (driver.machines, lambda: one(driver, ref)):
            vc.rule(READ, "alter", old=old, new=new)
            found = {machine.ref: machine for machine in await odd()}
            assert values(found.pop(ref)) == values(usual[ref]) | expected | {"problem": problem}
            assert usual | found == usual

    running(vc.driver(), test)


async def one(driver: VsphereDriver, ref: str) -> list[Any]:
    return [await driver.machine(ref)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('<obj type="VirtualMachine">', '<obj type="Folder">'),
        ('<obj type="VirtualMachine">', '<obj type="Plasma">'),
        ('<obj type="VirtualMachine">', "<obj>"),
        ('<objects><obj type="VirtualMachine">', '<objects xsi:type="Plasma"><obj type="VirtualMachine">'),
    ],
    ids=["another type", "an unknown type", "no type", "an object of an unknown type"],
)
def test_a_machine_that_cannot_be_identified(vc: VCenter, old: str, new: str) -> None:
    """It may be any, so it is listed, without a ref."""

    async def test(driver: VsphereDriver) -> None:
        usual = {machine.ref for machine in await driver.machines()}
        vc.rule(READ, "alter", old=old, new=new)
        found = await driver.machines()
        assert len(found) in (len(usual), len(usual) + 1)  # the template is listed, if its object is the one
        [unknown] = [machine for machine in found if machine.unreadable is not None]
        assert (unknown.ref, unknown.unreadable) == ("", "The provider's identifier '' is not valid.")
        assert {machine.ref for machine in found} - {""} < usual | {""}

    running(vc.driver(), test)


def test_odd_snapshots(vc: VCenter) -> None:
    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        parent = await driver.create(Work("t1"), CreateCommand(ref, "parent", "why", False))
        child = await driver.create(Work("t2"), CreateCommand(ref, "child", None, False))
        for old, new, fields, problem in (
            (
                "<createTime>",
                "<createTime>yesterday",
                {"created_at": UNKNOWN_TIME},
                "The creation time is not a time: ",
            ),
            ("<name>parent</name>", f"<name>{LONG}</name>", {"name": LONG[:1_024]}, "The name was changed, "),
            ("<name>parent</name>", "<name>&#0;</name>", {"name": "\ufffd"}, ""),
            ("<state>poweredOff", "<state>molten", {}, ""),
            ("<size>", "<size>many", {}, ""),
        ):
            vc.rule(READ, "alter", old=old, new=new)
            listing = await driver.snapshots(ref)
            found = {snapshot.ref: snapshot for snapshot in listing.snapshots}
            odd = values(found[parent.ref])
            assert (odd["problem"] or "").startswith(problem), odd
            assert odd | {"problem": None, "size_bytes": None} == values(parent) | fields | {"size_bytes": None}
            assert (found[child.ref].parent_ref, listing.current_ref) == (parent.ref, child.ref)

    running(vc.driver(), test)


def test_a_snapshot_that_cannot_be_identified(vc: VCenter) -> None:
    """It is left out, with a reason, and its children become those of its parent."""

    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        made = [await driver.create(Work(f"t{level}"), CreateCommand(ref, "n", None, False)) for level in range(3)]
        element = f'<snapshot type="VirtualMachineSnapshot">{made[1].ref}</snapshot>'
        for new in ("", element.replace(made[1].ref, ""), element.replace("VirtualMachineSnapshot", "Plasma")):
            vc.rule(READ, "alter", old=element, new=new)
            listing = await driver.snapshots(ref)
            found = [(snapshot.ref, snapshot.parent_ref) for snapshot in listing.snapshots]
            assert found == [(made[0].ref, None), (made[2].ref, made[0].ref)]
            assert "A snapshot was left out." in " ".join(listing.omitted)
        vc.rule(READ, "alter", old="<childSnapshotList>", new='<childSnapshotList xsi:type="Plasma">')
        listing = await driver.snapshots(ref)
        assert [snapshot.ref for snapshot in listing.snapshots] == [made[0].ref]
        assert [*listing.omitted] == ["The provider did not report 'childSnapshotList', or in a malformed way."]

    running(vc.driver(), test)


def test_a_machine_of_which_the_user_may_not_read_all(vc: VCenter) -> None:
    missing = (
        '<missingSet><path>name</path><fault><fault xsi:type="NoPermission"><object type="VirtualMachine">vm-1</object>'
        "<privilegeId>System.Read</privilegeId></fault><localizedMessage>no</localizedMessage></fault></missingSet>"
    )

    end = '</objects><objects><obj type="HostSystem">'  # follows the first machine

    async def test(driver: VsphereDriver) -> None:
        ref, usual = await named(driver, "on"), await driver.machines()
        vc.rule(READ, "alter", old=end, new=end.replace("</objects>", f"{missing}</objects>"))
        found = await driver.machines()
        assert [machine.ref for machine in found] == [machine.ref for machine in usual]
        assert [(machine.ref, machine.unreadable) for machine in found if machine.unreadable is not None] == [
            (ref, "The gateway's user lacks a permission at the provider. (no; System.Read)")
        ]
        for call in (driver.machine, driver.snapshots):
            vc.rule(READ, "alter", old="</objects>", new=f"{missing}</objects>")
            with pytest.raises(ProviderDenied):
                await call(ref)

    running(vc.driver(), test)


def test_a_current_snapshot_of_another_type_is_unknown(vc: VCenter) -> None:
    """Such a reference costs the whole response with pyVmomi (github.com/vmware/govmomi/issues/2281)."""

    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        made = await driver.create(Work("t"), CreateCommand(ref, "n", None, False))
        vc.rule(
            READ, "alter", old='<currentSnapshot type="VirtualMachineSnapshot">', new='<currentSnapshot type="Task">'
        )
        listing = await driver.snapshots(ref)
        assert ([*listing.snapshots], listing.current_ref) == ([made], None)

    running(vc.driver(), test)


def test_snapshots_that_could_not_be_read_are_not_none(vc: VCenter) -> None:
    missing = (
        '<missingSet><path>snapshot</path><fault><fault xsi:type="SystemError"><reason>no</reason></fault>'
        "<localizedMessage>no</localizedMessage></fault></missingSet>"
    )

    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        made = await driver.create(Work("t"), CreateCommand(ref, "n", None, False))
        reason = "The provider did not report {!r}, or in a malformed way."
        for old, new, listed, omitted in (
            ('"VirtualMachineSnapshotInfo">', '"Plasma">', [], reason.format("val")),
            ("</objects>", f"{missing}</objects>", [made], reason.format("snapshot")),
        ):
            vc.rule(READ, "alter", old=old, new=new)
            listing = await driver.snapshots(ref)
            assert ([*listing.snapshots], [*listing.omitted]) == (listed, [omitted])

    running(vc.driver(), test)


def test_odd_tasks(vc: VCenter) -> None:
    """Odd progress and an odd result do not matter. A task whose state is unknown has an unknown outcome."""

    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        vc.rule("CreateSnapshot_Task", "hold")
        reported: list[int | None] = []

        async def progress(percent: int | None, _: str | None) -> None:
            reported.append(percent)
            vc.order("release")

        async def checkpoint(_: str) -> None:
            vc.rule(READ, "alter", old="<progress>42", new="<progress>42.5")

        made = await driver.create(
            Work("t", checkpoint=checkpoint, progress=progress), CreateCommand(ref, "n", None, False)
        )
        assert reported[0] is None

        async def garble(_: str) -> None:
            vc.rule(READ, "alter", old="<state>", new="<state>molten", times=2)

        with pytest.raises(OutcomeUnknown):
            await driver.delete(Work("d", checkpoint=garble), DeleteCommand(ref, made.ref))

    running(vc.driver(), test)


def test_writes_are_read_strictly(vc: VCenter) -> None:
    """A task whose ref is malformed may have started."""

    async def test(driver: VsphereDriver) -> None:
        ref = await named(driver, "on")
        vc.rule("CreateSnapshot_Task", "alter", old='type="Task"', new='type="Plasma"')
        with pytest.raises(OutcomeUnknown):
            await driver.create(Work("t"), CreateCommand(ref, "n", None, False))

    running(vc.driver(), test)
