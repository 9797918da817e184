"""Files that are refused: the error message, and that nothing was written.

A file is refused when it is not understood, or when no machine in it is valid.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.errors import StartupError
from gateway.inventory.imports.importer import import_files
from gateway.inventory.imports.problems import ImportRefused
from tests.databases import SLOW_KINDS, Databases
from tests.inventory.files import all_rows, collection, execute, import_pages, snapshot, vm

UNEXPANDED = "has no attributes. Request the collection from ManageIQ with expand=resources,snapshots."
NO_RESOURCES = (
    "vms.json: The collection has no list 'resources'. Request it from ManageIQ with expand=resources,snapshots."
)


@pytest.fixture(scope="module", params=SLOW_KINDS)
def empty(request: pytest.FixtureRequest, databases: Databases) -> str:
    """The URL of a database that stays empty, because every file is refused."""
    return databases.new(request.param)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "vms.json: The file ends before the JSON is complete."),
        ("{", "vms.json: The file ends before the JSON is complete."),
        ('{"name": "vms", "resources": [{"id": 11, "snap', "vms.json: The file ends before the JSON is complete."),
        ("hello", "vms.json: The file is not valid JSON: invalid char in json text."),
        (
            '{"name": "vms", "resources": [],}',
            "vms.json: The file is not valid JSON: invalid object key (must be a string).",
        ),
        (
            '{"resources": [{"id": 123456789012345678901234567890}]}',
            (
                "vms.json: resources[0]: Attribute 'id' must be a whole number from 1 to 4000000000000000000,"
                " not 123456789012345678901234567890."
            ),
        ),
        (f"[{'1' * 5_000}]", "vms.json: The file contains a number of thousands of digits."),
        (b'{"name": "\xff"}', "vms.json: The file is not UTF-8."),
        (b"\xff\xfe{\x00}\x00", "vms.json: The file is UTF-16. Convert it to UTF-8 first."),
        (
            gzip.compress(b"{}", mtime=0),
            "vms.json: The file is compressed with gzip. Decompress it first, for example with gunzip.",
        ),
        (b"PK\x03\x04", "vms.json: The file is a ZIP archive. Extract it first."),
        (b"\xef\xbb\xbf", "vms.json: The file ends before the JSON is complete."),
        ("[" * 100_000, "vms.json: The file ends before the JSON is complete."),
        ('{"error": {"kind": "unauthorized"}}', NO_RESOURCES),
        ('{"name": "vms", "resources": []}\n{"error": {}}', NO_RESOURCES.replace(": ", ": page 2: ", 1)),
        (
            '{"resources": [], "name": "hosts"}',
            "vms.json: name: The collection must be 'vms' or 'instances', not 'hosts'.",
        ),
        ('{"name": ["vms"], "resources": []}', "vms.json: name: The collection must be 'vms' or 'instances', not []."),
        (
            '{"name": "vms", "resources": [{"id": 1}, {"href": "/api/vms/2"}]}',
            f"vms.json: resources[1]: The machine {UNEXPANDED}",
        ),
        (
            '{"name": "vms", "resources": [{"id": 1, "snapshots": [{"id": 3}, {"href": "/api/vms/1/snapshots/4"}]}]}',
            f"vms.json: resources[0].snapshots[1]: The snapshot {UNEXPANDED}",
        ),
        ("17", "vms.json: Expected a JSON object with a ManageIQ collection."),
        ("{}", NO_RESOURCES),
        (
            '{"name": "vms", "resources": {"id": 11}}',
            NO_RESOURCES,
        ),
        (
            '{"name": "hosts", "resources": []}',
            "vms.json: name: The collection must be 'vms' or 'instances', not 'hosts'.",
        ),
        ('{"name": "vms", "resources": [11]}', "vms.json: resources[0]: A machine must be a JSON object."),
        ("[11]", "vms.json: [0]: A machine must be a JSON object."),
        ('{"name": "vms", "resources": []} 17', "vms.json: page 2: Expected a JSON object with a ManageIQ collection."),
        (
            '{"name": "vms", "resources": [{"id": 11, "snapshots": 3}]}',
            "vms.json: resources[0]: Attribute 'snapshots' must be a list and occur once.",
        ),
        (
            '{"resources": [{"id": 11}]}',
            (
                "vms.json: resources[0]: The machine has no 'href', 'cloud' or 'type' that says whether it is a"
                " Vm or an Instance."
            ),
        ),
    ],
)
def test_file_that_is_not_a_collection(empty: str, tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "vms.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = all_rows(empty)
    with pytest.raises(ImportRefused) as refused:
        import_files(empty, [path], tenant="default")
    assert str(refused.value) == message
    assert all_rows(empty) == before


def test_truncated_long_file(empty: str, tmp_path: Path) -> None:
    path = tmp_path / "vms.json"
    complete = json.dumps(collection(*(vm(number, padding="x" * 1_000) for number in range(1, 1_000))))
    path.write_text(complete[:-100_000])
    before = all_rows(empty)
    with pytest.raises(
        ImportRefused, match=r"^vms.json: after resources\[\d+\]: The file ends before the JSON is complete"
    ):
        import_files(empty, [path], tenant="default")
    assert all_rows(empty) == before


def test_missing_file(empty: str, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused) as refused:
        import_files(empty, [tmp_path / "none.json"], tenant="default")
    assert str(refused.value) == f"{tmp_path}/none.json: The file cannot be opened: No such file or directory."


def test_one_of_several_files_is_not_understood(empty: str, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("vms.json", "instances.json")]
    paths[0].write_text(json.dumps(collection(vm(11, snapshot(3)))))
    paths[1].write_text("{")
    before = all_rows(empty)
    with pytest.raises(ImportRefused) as refused:
        import_files(empty, paths, tenant="default")
    assert str(refused.value) == "instances.json: The file ends before the JSON is complete."
    assert all_rows(empty) == before


def test_merge_that_fails_in_its_last_statement(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_pages(url, tmp_path, collection(vm(11, snapshot(3), snapshot(4))))
    before = all_rows(url)
    invalid = dict.fromkeys(("sqlite", "postgresql"), ("SELECT no_such_column",))
    monkeypatch.setattr("gateway.inventory.imports.merge.ADVANCE_SEQUENCES", invalid)
    with pytest.raises((StartupError, psycopg.Error)):
        import_pages(url, tmp_path, collection(vm(11, snapshot(3, name="new"), snapshot(5)), vm(12)))
    assert all_rows(url) == before


def test_missing_database(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"^The database file .* cannot be created"):
        import_pages(f"sqlite:///{tmp_path}/none/gateway.db", tmp_path, collection())


# ---- ids that belong to another machine or snapshot


def refused_after(url: str, tmp_path: Path, first: Any, second: Any, **options: Any) -> str:
    import_pages(url, tmp_path, first)
    before = all_rows(url)
    with pytest.raises(ImportRefused) as refused:
        import_pages(url, tmp_path, second, **options)
    assert all_rows(url) == before
    return str(refused.value)


def test_machine_id_of_another_machine(url: str, tmp_path: Path) -> None:
    first = collection(vm(11, name="web", uid_ems="a"))
    second = collection(vm(11, name="db", ems_ref="vm-99", uid_ems="b"))
    assert refused_after(url, tmp_path, first, second) == (
        "vms.json: resources[0]: Id 11 belongs to different machines: in the file to Vm 'db' (vm-99),"
        " in the database to Vm 'web' (vm-11) of provider 'manageiq'."
    )


def test_machine_id_of_another_provider(url: str, tmp_path: Path) -> None:
    assert refused_after(url, tmp_path, collection(vm(11)), collection(vm(11)), provider="other") == (
        "vms.json: resources[0]: Id 11 belongs to different machines: in the file to Vm 'vm 11' (vm-11),"
        " in the database to Vm 'vm 11' (vm-11) of provider 'manageiq'."
    )


def test_machine_id_of_a_different_managed_machine(url: str, tmp_path: Path) -> None:
    import_pages(url, tmp_path, collection(vm(11)))
    execute(url, "INSERT INTO provider (name, tenant, driver) VALUES ('lab', 'default', 'simulated')")
    execute(url, "UPDATE machine SET imported = FALSE, provider = 'lab'")
    with pytest.raises(ImportRefused, match=r"Id 11 belongs to different machines: .* of provider 'lab'\.$"):
        import_pages(url, tmp_path, collection(vm(11, ems_ref="vm-99")))


def test_provider_that_has_a_driver(url: str, tmp_path: Path) -> None:
    execute(url, "INSERT INTO provider (name, tenant, driver) VALUES ('lab', 'default', 'simulated')")
    before = all_rows(url)
    with pytest.raises(ImportRefused) as refused:
        import_pages(url, tmp_path, collection(vm(11)), provider="lab")
    assert str(refused.value) == "Provider 'lab' has the driver 'simulated'. Use another name with --provider."
    assert all_rows(url) == before
