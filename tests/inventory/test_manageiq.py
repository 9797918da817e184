"""What ManageIQ's attributes mean, one by one."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from gateway.inventory.imports.manageiq import machine, snapshot
from gateway.models import MachineKind, PowerState

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
        ({"id": 3, "total_size": 17.0}, "size_bytes", 17),
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
        ({"id": 3, "disks": [], "filename": None, "surprise": 1}, "id", 3),
    ],
)
def test_snapshot(attributes: dict[str, Any], field: str, value: object) -> None:
    assert getattr(snapshot(attributes), field) == value


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, "has neither an id nor an href that ends in one"),
        ({"href": "http://h/api/vms/eleven"}, "has neither an id nor an href that ends in one"),
        ({"id": "three"}, 'id "three" is not a number from 1 to 4000000000000000000'),
        ({"id": "٣"}, 'id "٣" is not a number from 1 to 4000000000000000000'),
        ({"id": 0}, "id 0 is not a number from 1 to 4000000000000000000"),
        ({"id": -3}, "id -3 is not a number from 1 to 4000000000000000000"),
        ({"id": True}, "id True is not a number from 1 to 4000000000000000000"),
        ({"id": 2**63 - 1}, "id 9223372036854775807 is not a number from 1 to 4000000000000000000"),
        ({"id": 3, "parent_id": "x"}, 'parent_id "x" is not a number from 1 to 4000000000000000000'),
        ({"id": 3, "name": 1.5}, "name 1.5 is not text"),
        ({"id": 3, "name": "a\0b"}, "name contains a NUL character"),
        ({"id": 3, "name": "x" * 4_001}, "name is longer than 4,000 characters"),
        ({"id": 3, "description": True}, "description True is not text"),
        ({"id": 3, "current": 2}, "current 2 is neither 0 nor 1"),
        ({"id": 3, "current": "yes"}, 'current "yes" is neither 0 nor 1'),
        ({"id": 3, "total_size": -1}, "total_size -1 is not a number of bytes"),
        ({"id": 3, "total_size": "1 GB"}, 'total_size "1 GB" is not a number of bytes'),
        ({"id": 3, "total_size": 0.5}, "total_size 0.5 is not a number of bytes"),
        ({"id": 3, "create_time": "yesterday"}, 'create_time "yesterday" is not an ISO 8601 time'),
        ({"id": 3, "create_time": 1484092800}, "create_time 1484092800 is not an ISO 8601 time"),
        (
            {"id": 3, "create_time": "0001-01-01T00:00:00+05:00"},
            'create_time "0001-01-01T00:00:00+05:00" is not an ISO 8601 time',
        ),
    ],
)
def test_snapshot_that_makes_no_sense(attributes: dict[str, Any], reason: str) -> None:
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
    ],
)
def test_machine(attributes: dict[str, Any], field: str, value: object) -> None:
    assert getattr(machine({"id": 11} | attributes, "vms"), field) == value


@pytest.mark.parametrize(
    ("attributes", "name", "kind"),
    [
        ({}, "vms", MachineKind.VM),
        ({}, "instances", MachineKind.INSTANCE),
        ({"href": "http://h/api/vms/11"}, None, MachineKind.VM),
        ({"href": "http://h/api/instances/11"}, None, MachineKind.INSTANCE),
        ({"cloud": True}, None, MachineKind.INSTANCE),
        ({"cloud": False}, None, MachineKind.VM),
        ({"type": "ManageIQ::Providers::Vmware::InfraManager::Vm"}, None, MachineKind.VM),
        ({"type": "ManageIQ::Providers::Openstack::CloudManager::Vm"}, None, MachineKind.INSTANCE),
    ],
)
def test_kind(attributes: dict[str, Any], name: str | None, kind: MachineKind) -> None:
    assert machine({"id": 11} | attributes, name).kind is kind


def test_kind_that_nothing_tells() -> None:
    with pytest.raises(ValueError, match="neither a Vm nor an Instance"):
        machine({"id": 11}, None)


def test_times_are_utc() -> None:
    made = snapshot({"id": 3, "create_time": "2017-01-11T05:30:00+05:30"}).created_at
    assert made is not None
    assert made.tzinfo is UTC
    assert made == datetime(2017, 1, 11, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
