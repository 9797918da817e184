"""Files that are not imported: what is said, and that nothing has changed."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.errors import StartupError
from gateway.inventory.imports.records import ImportRefused
from gateway.inventory.imports.run import import_file
from tests.inventory.files import bring_in, change, collection, everything, snapshot, vm

LONG = "resources[1].snapshots[0]: name is longer than 4,000 characters"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "vms.json: ends too early: the JSON is not whole"),
        ("{", "vms.json: ends too early: the JSON is not whole"),
        ('{"name": "vms", "resources": [{"id": 11, "snap', "vms.json: ends too early: the JSON is not whole"),
        ("hello", "vms.json: is not JSON: invalid char in json text"),
        ('{"name": "vms", "resources": [],}', "vms.json: is not JSON: invalid object key (must be a string)"),
        ('{"resources": [{"id": 123456789012345678901234567890}]}', "vms.json: is not JSON: integer overflow"),
        (b'{"name": "\xff"}', "vms.json: is not UTF-8"),
        (b"\xff\xfe{\x00}\x00", "vms.json: is not JSON: invalid char in json text"),
        ("17", "vms.json: is not a ManageIQ collection: expected an object"),
        ("{}", 'vms.json: has no list "resources": ask ManageIQ with expand=resources,snapshots'),
        (
            '{"name": "vms", "resources": {"id": 11}}',
            'vms.json: has no list "resources": ask ManageIQ with expand=resources,snapshots',
        ),
        (
            '{"name": "hosts", "resources": []}',
            "vms.json: name: 'hosts' is not a collection of machines: vms or instances",
        ),
        ('{"name": "vms", "resources": [11]}', "vms.json: resources[0]: a machine must be an object"),
        ("[11]", "vms.json: [0]: a machine must be an object"),
        ('{"name": "vms", "resources": []} 17', "vms.json: page 2: is not a ManageIQ collection: expected an object"),
        (
            '{"name": "vms", "resources": [{"id": 11, "snapshots": 3}]}',
            "vms.json: resources[0].snapshots: must be one list",
        ),
        (
            '{"name": "vms", "resources": [{"id": 11, "snapshots": [{"id": 3}, 4]}]}',
            "vms.json: resources[0].snapshots[1]: a snapshot must be an object",
        ),
        (
            '{"resources": [{"id": 11}]}',
            "vms.json: resources[0]: neither a Vm nor an Instance: it has no href, cloud or type that says which",
        ),
    ],
)
def test_files_that_are_something_else(url: str, tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "vms.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = everything(url)
    with pytest.raises(ImportRefused) as refused:
        import_file(url, path, tenant="default")
    assert str(refused.value) == message
    assert everything(url) == before


@pytest.mark.parametrize(
    ("machines", "message"),
    [
        ([vm(1), vm(2, snapshot(3), snapshot(4, create_time="yesterday"))],
         'resources[1].snapshots[1]: create_time "yesterday" is not an ISO 8601 time'),
        ([vm(1), vm(2, snapshot(3, name="x" * 4001))], LONG),
        ([vm(1), vm(2), vm(0)], 'resources[2]: id 0 is not a number from 1 to 4000000000000000000'),
        ([vm(1), vm(2), vm(1)], "resources[2]: machine 1 is in the file already, at resources[0]"),
        ([vm(1, snapshot(3)), vm(2, snapshot(4), snapshot(3))],
         "resources[1].snapshots[1]: snapshot 3 is in the file already, at resources[0].snapshots[0]"),
        ([vm(1, snapshot(3), snapshot(4, parent_id=5))],
         "resources[0].snapshots[1]: parent_id 5 is not a snapshot in this machine's list"),
        ([vm(1, snapshot(3)), vm(2, snapshot(4, parent_id=3))],
         "resources[1].snapshots[0]: parent_id 3 is not a snapshot in this machine's list"),
        ([vm(1, snapshot(3, current=1), snapshot(4), snapshot(5, current=1))],
         "resources[0].snapshots[2]: is current, and so is an earlier snapshot of the same machine"),
        ([vm(1, snapshot(3), snapshot(4, parent_id=4))], "resources[0].snapshots[1]: descends from itself"),
        ([vm(1, snapshot(2), snapshot(3, parent_id=5), snapshot(4, parent_id=3), snapshot(5, parent_id=4))],
         "resources[0].snapshots[1]: descends from itself"),
    ],
)  # fmt: skip
def test_records_that_make_no_sense(url: str, tmp_path: Path, machines: list[Any], message: str) -> None:
    before = everything(url)
    with pytest.raises(ImportRefused) as refused:
        bring_in(url, tmp_path, collection(*machines))
    assert str(refused.value) == f"vms.json: {message}"
    assert everything(url) == before


def test_a_mistake_in_the_second_page(url: str, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused) as refused:
        bring_in(url, tmp_path, collection(vm(1)), collection(vm(1)))
    assert str(refused.value) == "vms.json: page 2: resources[0]: machine 1 is in the file already, at resources[0]"


def test_a_long_file_that_breaks_off(url: str, tmp_path: Path) -> None:
    path = tmp_path / "vms.json"
    whole = json.dumps(collection(*(vm(number, padding="x" * 1_000) for number in range(1, 1_000))))
    path.write_text(whole[:-100_000])
    before = everything(url)
    with pytest.raises(ImportRefused, match=r"^vms.json: after resources\[\d+\]: ends too early"):
        import_file(url, path, tenant="default")
    assert everything(url) == before


def test_a_file_that_is_not_there(url: str, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused) as refused:
        import_file(url, tmp_path / "none.json", tenant="default")
    assert str(refused.value) == f"{tmp_path}/none.json: no such file or directory"


def test_a_merge_that_fails_at_its_very_end(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring_in(url, tmp_path, collection(vm(11, snapshot(3), snapshot(4))))
    before = everything(url)
    nonsense = dict.fromkeys(("sqlite", "postgresql"), ("SELECT nonsense",))
    monkeypatch.setattr("gateway.inventory.imports.merge.ADVANCE_SEQUENCES", nonsense)
    with pytest.raises((StartupError, psycopg.Error)):
        bring_in(url, tmp_path, collection(vm(11, snapshot(3, name="new"), snapshot(5)), vm(12)))
    assert everything(url) == before


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"^the database .* cannot be created"):
        bring_in(f"sqlite:///{tmp_path}/none/gateway.db", tmp_path, collection())


# ---- numbers that are taken


def refused_after(url: str, tmp_path: Path, first: Any, second: Any, **options: Any) -> str:
    bring_in(url, tmp_path, first)
    before = everything(url)
    with pytest.raises(ImportRefused) as refused:
        bring_in(url, tmp_path, second, **options)
    assert everything(url) == before
    return str(refused.value)


def test_a_machine_number_that_is_another_machine(url: str, tmp_path: Path) -> None:
    first = collection(vm(11, name="web", uid_ems="a"))
    second = collection(vm(10), vm(11, name="db", ems_ref="vm-99", uid_ems="b"))
    assert refused_after(url, tmp_path, first, second) == (
        "vms.json: resources[1]: number 11 is taken: in the file it is Vm 'db' (vm-99),"
        " here it is Vm 'web' (vm-11) of provider 'manageiq'"
    )


def test_a_machine_number_of_the_other_kind(url: str, tmp_path: Path) -> None:
    first = collection(vm(11))
    second = collection(vm(11), name="instances")
    assert refused_after(url, tmp_path, first, second) == (
        "vms.json: resources[0]: number 11 is taken: in the file it is Instance 'vm 11' (vm-11),"
        " here it is Vm 'vm 11' (vm-11) of provider 'manageiq'"
    )


def test_a_machine_number_of_another_import(url: str, tmp_path: Path) -> None:
    assert refused_after(url, tmp_path, collection(vm(11)), collection(vm(11)), provider="other") == (
        "vms.json: resources[0]: number 11 is taken: in the file it is Vm 'vm 11' (vm-11),"
        " here it is Vm 'vm 11' (vm-11) of provider 'manageiq'"
    )


def test_a_snapshot_number_of_another_machine(url: str, tmp_path: Path) -> None:
    first = collection(vm(11, snapshot(3, name="a")), vm(12))
    second = collection(vm(12, snapshot(4), snapshot(3, name="b")))
    assert refused_after(url, tmp_path, first, second) == (
        "vms.json: resources[0].snapshots[1]: snapshot 3 is taken: in the file it is 'b' of Vm 12,"
        " here it is 'a' of Vm 11 ('vm 11')"
    )


def test_a_machine_that_a_driver_manages_and_is_another(url: str, tmp_path: Path) -> None:
    bring_in(url, tmp_path, collection(vm(11)))
    change(url, "INSERT INTO provider (name, tenant, driver) VALUES ('lab', 'default', 'simulated')")
    change(url, "UPDATE machine SET imported = FALSE, provider = 'lab'")
    with pytest.raises(ImportRefused, match=r"number 11 is taken.* of provider 'lab'$"):
        bring_in(url, tmp_path, collection(vm(11, ems_ref="vm-99")))


def test_a_provider_that_has_a_driver(url: str, tmp_path: Path) -> None:
    change(url, "INSERT INTO provider (name, tenant, driver) VALUES ('lab', 'default', 'simulated')")
    before = everything(url)
    with pytest.raises(ImportRefused) as refused:
        bring_in(url, tmp_path, collection(vm(11)), provider="lab")
    assert str(refused.value) == (
        "vms.json: provider 'lab' has the driver 'simulated': import under another provider's name"
    )
    assert everything(url) == before
