"""The conversion of ManageIQ's attributes, one by one."""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from gateway.inventory.imports.manageiq import machine, snapshot
from gateway.models import MachineKind, PowerState, SnapshotState

JANUARY = datetime(2017, 1, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    ("attributes", "field", "value"),
    [
        ({"id": 3}, "id", 3),
        ({"id": "3"}, "id", 3),
        ({"id": None, "href": "http://h/api/vms/11/snapshots/3"}, "id", 3),
        ({"href": "/api/vms/11/snapshots/3?expand=x"}, "id", 3),
        ({"id": 10000000000003}, "id", 10000000000003),
        ({"id": 3, "parent_id": "2"}, "parent_id", 2),
        ({"id": 3, "parent_id": 2}, "parent_id", 2),
        ({"id": 3, "parent_id": None}, "parent_id", None),
        ({"id": 3}, "name", ""),
        ({"id": 3, "name": None}, "name", ""),
        ({"id": 3, "name": "  Straße "}, "name", "  Straße "),
        ({"id": 3, "name": "Straße"}, "name_folded", "strasse"),
        ({"id": 3, "description": "É"}, "description_folded", "é"),
        ({"id": 3, "current": 1}, "is_current", True),
        ({"id": 3, "current": 0}, "is_current", False),
        ({"id": 3, "current": None}, "is_current", False),
        ({"id": 3, "current": True}, "is_current", True),
        ({"id": 3, "current": "1"}, "is_current", True),
        ({"id": 3, "total_size": None}, "size_bytes", None),
        ({"id": 3, "total_size": 5_000_000_000}, "size_bytes", 5_000_000_000),
        ({"id": 3, "total_size": "17"}, "size_bytes", 17),
        ({"id": 3, "total_size": Decimal("17.0")}, "size_bytes", 17),
        ({"id": 3, "ems_ref": "snapshot-42", "uid_ems": "u"}, "provider_ref", "snapshot-42"),
        ({"id": 3, "ems_ref": None, "uid_ems": "u"}, "provider_ref", "u"),
        ({"id": 3, "ems_ref": "", "uid_ems": ""}, "provider_ref", "3"),
        ({"id": 3, "ems_ref": 42}, "provider_ref", "42"),
        ({"id": 3, "create_time": "2017-01-11T00:00:00Z"}, "created_at", JANUARY),
        ({"id": 3, "create_time": "2017-01-11"}, "created_at", JANUARY),
        ({"id": 3, "create_time": "2017-01-11T02:00:00+02:00"}, "created_at", JANUARY),
        ({"id": 3, "create_time": "2017-01-11 00:00:00"}, "created_at", JANUARY),
        ({"id": 3, "create_time": "2017-01-11 00:00:00 UTC"}, "created_at", JANUARY),
        ({"id": 3, "create_time": "20170111T000000Z"}, "created_at", JANUARY),
        ({"id": 3, "create_time": "2017-01-11T00:00:00.123456Z"}, "created_at", JANUARY + timedelta(0, 0, 123456)),
        ({"id": 3, "create_time": None, "created_on": "2017-01-11"}, "created_at", JANUARY),
        ({"id": 3, "create_time": None}, "created_at", None),
        ({"id": 3}, "memory", False),
        ({"id": 3, "memory": True}, "memory", True),
        ({"id": 3, "created_by": "Alice"}, "created_by_folded", "alice"),
        ({"id": 3}, "state", SnapshotState.READY),
        ({"id": 3, "state": "deleting"}, "state", SnapshotState.READY),
        ({"id": 3, "state": "error"}, "state", SnapshotState.ERROR),
        ({"id": 3, "state": "error", "ems_ref": None}, "provider_ref", None),
        ({"id": 3, "disks": [], "filename": None, "surprise": 1}, "id", 3),
    ],
)
def test_snapshot_attributes(attributes: dict[str, Any], field: str, value: object) -> None:
    assert getattr(snapshot(attributes), field) == value


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, "The record has neither an 'id' nor an 'href' that ends in an id."),
        ({"href": "http://h/api/vms/eleven"}, "The record has neither an 'id' nor an 'href' that ends in an id."),
        ({"id": "three"}, "Attribute 'id' must be a whole number from 1 to 4000000000000000000, not \"three\"."),
        ({"id": "٣"}, "Attribute 'id' must be a whole number from 1 to 4000000000000000000, not \"٣\"."),
        ({"id": 0}, "Attribute 'id' must be a whole number from 1 to 4000000000000000000, not 0."),
        ({"id": -3}, "Attribute 'id' must be a whole number from 1 to 4000000000000000000, not -3."),
        ({"id": True}, "Attribute 'id' must be a whole number from 1 to 4000000000000000000, not True."),
        (
            {"id": 2**63 - 1},
            "Attribute 'id' must be a whole number from 1 to 4000000000000000000, not 9223372036854775807.",
        ),
        (
            {"id": 3, "parent_id": "x"},
            "Attribute 'parent_id' must be a whole number from 1 to 4000000000000000000, not \"x\".",
        ),
        ({"id": 3, "name": 1.5}, "Attribute 'name' must be text, not 1.5."),
        ({"id": 3, "name": "a\0b"}, "Attribute 'name' contains a NUL character."),
        ({"id": 3, "name": "x" * 4_001}, "Attribute 'name' is longer than 4,000 characters."),
        ({"id": 3, "name": "x" * 2_001}, "Attribute 'name' is longer than 2,000 bytes."),
        ({"id": 3, "name": "é" * 1_001}, "Attribute 'name' is longer than 2,000 bytes."),
        ({"id": 3, "name": "ΐ" * 700}, "Attribute 'name' is longer than 2,000 bytes."),  # folded, six bytes each
        ({"id": 3, "description": True}, "Attribute 'description' must be text, not True."),
        ({"id": 3, "current": 2}, "Attribute 'current' must be 0 or 1, not 2."),
        ({"id": 3, "current": "yes"}, "Attribute 'current' must be 0 or 1, not \"yes\"."),
        ({"id": 3, "total_size": -1}, "Attribute 'total_size' must be a number of bytes, not -1."),
        ({"id": 3, "total_size": "1 GB"}, "Attribute 'total_size' must be a number of bytes, not \"1 GB\"."),
        ({"id": 3, "total_size": Decimal("0.5")}, "Attribute 'total_size' must be a number of bytes, not 0.5."),
        ({"id": 3, "total_size": Decimal("1E+9999")}, "Attribute 'total_size' must be a number of bytes, not 1E+9999."),
        ({"id": 3, "total_size": 2**63}, f"Attribute 'total_size' must be a number of bytes, not {2**63}."),
        ({"id": 3, "name": {}}, "Attribute 'name' must be text, not an object."),
        ({"id": 3, "name": []}, "Attribute 'name' must be text, not a list."),
        ({"id": 3, "memory": "yes"}, "Attribute 'memory' must be 0 or 1, not \"yes\"."),
        ({"id": 3, "state": "creating"}, "The snapshot is still being created. Import the machine again later."),
        ({"id": 3, "create_time": "yesterday"}, "Attribute 'create_time' must be an ISO 8601 time, not \"yesterday\"."),
        ({"id": 3, "create_time": 1484092800}, "Attribute 'create_time' must be an ISO 8601 time, not 1484092800."),
        (
            {"id": 3, "create_time": "0001-01-01T00:00:00+05:00"},
            "Attribute 'create_time' must be an ISO 8601 time, not \"0001-01-01T00:00:00+05:00\".",
        ),
    ],
)
def test_invalid_snapshot(attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        snapshot(attributes)


@pytest.mark.parametrize(
    ("attributes", "field", "value"),
    [
        ({}, "name", ""),
        ({}, "provider_ref", "11"),
        ({"ems_ref": "vm-5", "uid_ems": "4221"}, "provider_ref", "vm-5"),
        ({"ems_ref": "vm-5", "uid_ems": "4221"}, "provider_uid", "4221"),
        ({"ems_ref": None, "uid_ems": "4221"}, "provider_ref", "4221"),
        ({"power_state": "on"}, "power_state", PowerState.ON),
        ({"power_state": "OFF"}, "power_state", PowerState.OFF),
        ({"power_state": "suspended"}, "power_state", PowerState.SUSPENDED),
        ({"power_state": "paused"}, "power_state", PowerState.SUSPENDED),
        ({"power_state": "never"}, "power_state", PowerState.UNKNOWN),
        ({"power_state": None}, "power_state", PowerState.UNKNOWN),
        ({"host": "esx-01"}, "host", "esx-01"),
        ({"host": {"name": "Esx-01"}}, "host_folded", "esx-01"),
        ({"flavor": {"name": "m1.small"}}, "flavor", "m1.small"),
        ({"flavor": {}}, "flavor", None),
        ({"availability_zone": "nova"}, "availability_zone", "nova"),
        ({"created_on": "2017-01-11T01:00:00+01:00"}, "created_at", JANUARY),
        ({}, "is_gone", False),
        ({"ems_id": "3"}, "is_gone", False),
        ({"ems_id": None}, "is_gone", True),
        ({"ems_id": None, "archived": False}, "is_gone", False),
        ({"archived": True}, "is_gone", True),
        ({"archived": False, "orphaned": True}, "is_gone", True),
        ({"archived": True, "gone_on": "2017-01-11"}, "gone_at", JANUARY),
    ],
)
def test_machine_attributes(attributes: dict[str, Any], field: str, value: object) -> None:
    assert getattr(machine({"id": 11} | attributes, "vms"), field) == value


@pytest.mark.parametrize(
    ("attributes", "name", "kind"),
    [
        ({}, "vms", None),  # `vms` contains all Instances too
        ({}, "instances", MachineKind.INSTANCE),
        ({"cloud": True}, "vms", MachineKind.INSTANCE),
        ({"cloud": False, "type": "ManageIQ::Providers::Openstack::CloudManager::Vm"}, "vms", MachineKind.VM),
        ({"cloud": None, "type": "ManageIQ::Providers::Openstack::CloudManager::Vm"}, "vms", MachineKind.INSTANCE),
        ({"cloud": False}, "instances", MachineKind.VM),
        ({"href": "http://h/api/vms/11"}, None, None),
        ({"href": "http://h/api/instances/11"}, None, MachineKind.INSTANCE),
        ({"cloud": True}, None, MachineKind.INSTANCE),
        ({"cloud": False}, None, MachineKind.VM),
        ({"type": "ManageIQ::Providers::Vmware::InfraManager::Vm"}, None, MachineKind.VM),
        ({"type": "ManageIQ::Providers::Openstack::CloudManager::Vm"}, None, MachineKind.INSTANCE),
    ],
)
def test_machine_kind(attributes: dict[str, Any], name: str | None, kind: MachineKind | None) -> None:
    assert machine({"id": 11} | attributes, name).kind is kind


def test_machine_without_a_kind() -> None:
    with pytest.raises(ValueError, match="whether it is a Vm or an Instance"):
        machine({"id": 11}, None)


@pytest.mark.parametrize("name", ["host", "flavor", "availability_zone"])
def test_machine_with_an_invalid_name_of_another_object(name: str) -> None:
    reason = f"Attribute '{name}.name' must be text, not an object."
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        machine({"id": 11, name: {"name": {}}}, "vms")


def test_times_are_converted_to_utc() -> None:
    created_at = snapshot({"id": 3, "create_time": "2017-01-11T05:30:00+05:30"}).created_at
    assert created_at is not None
    assert created_at.tzinfo is UTC
    assert created_at == datetime(2017, 1, 11, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
