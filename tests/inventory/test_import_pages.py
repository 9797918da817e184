"""Imports of several pages and files. ManageIQ's `vms` contains all instances too, and a page up to 1,000 machines."""

import json
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from gateway.inventory.imports.importer import ImportResult, import_files
from tests.databases import SLOW_KINDS, Databases
from tests.inventory.files import MACHINES, collection, import_pages, select, snapshot, vm
from tests.make_dump import write_mixed_pages

KIND_OF = "SELECT id, kind, name FROM machine ORDER BY id"
INFRA, CLOUD = "ManageIQ::Providers::Vmware::InfraManager::Vm", "ManageIQ::Providers::Amazon::CloudManager::Vm"
WEB = vm(11, name="web-11", cloud=False, type=INFRA, uid_ems="4221-11", ems_ref="vm-11")
DATABASE = vm(201, name="db-201", cloud=True, type=CLOUD, uid_ems="i-0abc", ems_ref="i-0abc")


def write(directory: Path, **pages: Any) -> dict[str, Path]:
    """Writes each page to a file of this name."""
    paths = {name: directory / f"{name}.json" for name in pages}
    for name, path in paths.items():
        path.write_text(json.dumps(pages[name]))
    return paths


@pytest.fixture
def mixed(tmp_path: Path) -> dict[str, Path]:
    """ManageIQ's `vms`, with an instance, and `instances`, with the same one."""
    return write(tmp_path, vms=collection(WEB, DATABASE), instances=collection(DATABASE, name="instances"))


def imported(url: str, *paths: Path) -> ImportResult:
    return import_files(url, paths, tenant="default")


@pytest.mark.parametrize("order", [["vms", "instances"], ["instances", "vms"]])
def test_same_machine_in_both_collections(url: str, mixed: dict[str, Path], order: list[str]) -> None:
    """One import after the other."""
    results = [imported(url, mixed[name]) for name in order]
    assert [len(result.problems) for result in results] == [0, 0]
    assert sum(result.machines.created for result in results) == 2
    assert sum(result.machines.updated for result in results) == 0
    assert select(url, KIND_OF) == [(11, "VM", "web-11"), (201, "INSTANCE", "db-201")]


@pytest.mark.parametrize("order", [["vms", "instances"], ["instances", "vms"], ["vms", "vms", "instances"]])
def test_same_machine_in_two_files(url: str, mixed: dict[str, Path], order: list[str]) -> None:
    """Both in one import."""
    result = imported(url, *(mixed[name] for name in order))
    assert not result.problems
    assert str(result) == "machines: 2 created, 0 updated, 0 unchanged; snapshots: 0 created, 0 updated, 0 unchanged"
    assert select(url, KIND_OF) == [(11, "VM", "web-11"), (201, "INSTANCE", "db-201")]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", list(permutations(["vms", "instances"])))
def test_kind_without_cloud_and_type(url: str, tmp_path: Path, order: Sequence[str], together: bool) -> None:
    """Of a machine with few attributes, the collection `instances` decides, and `vms` does not."""
    paths = write(tmp_path, vms=collection(vm(11), vm(201)), instances=collection(vm(201), name="instances"))
    for names in [order] if together else [[name] for name in order]:
        imported(url, *(paths[name] for name in names))
    assert select(url, KIND_OF) == [(11, "VM", "vm 11"), (201, "INSTANCE", "vm 201")]


def test_kind_of_an_earlier_import_is_corrected(url: str, tmp_path: Path) -> None:
    """Earlier versions took all machines of `vms` for Vms."""
    import_pages(url, tmp_path, collection(vm(201, snapshot(3), uid_ems="i-0abc", ems_ref="i-0abc")))
    assert select(url, "SELECT id, kind FROM machine") == [(201, "VM")]
    result = import_pages(url, tmp_path, collection(DATABASE | {"snapshots": [snapshot(3)]}))
    assert str(result) == "machines: 0 created, 1 updated, 0 unchanged; snapshots: 0 created, 0 updated, 1 unchanged"
    assert select(url, KIND_OF) == [(201, "INSTANCE", "db-201")]


def test_machine_on_two_pages(url: str, tmp_path: Path) -> None:
    """ManageIQ's pages are not stable. The last record with a complete list of snapshots is imported."""
    without_list = vm(11, name="third")
    del without_list["snapshots"]
    odd = vm(11, snapshot(3, name=1.5), name="fourth")
    result = import_pages(
        url,
        tmp_path,
        collection(vm(11, snapshot(3), name="first"), vm(12)),
        collection(vm(11, snapshot(3), snapshot(4, parent_id=3), name="second"), without_list, odd) | {"count": 2},
    )
    assert [str(problem).partition(" Attr")[0] for problem in result.problems.listed] == [
        "vms.json: page 2: resources[2].snapshots[0]:"
    ]
    assert select(url, "SELECT id, name, snapshot_count FROM machine ORDER BY id") == [
        (11, "second", 2),
        (12, "vm 12", 0),
    ]


# ---- forms of files


@pytest.mark.parametrize(
    "form",
    [
        lambda pages, machines: "\n".join(map(json.dumps, pages)),
        lambda pages, machines: json.dumps(pages),
        lambda pages, machines: "".join(map(json.dumps, pages)),
        lambda pages, machines: "\n".join(map(json.dumps, machines)),
        lambda pages, machines: json.dumps(machines),
        lambda pages, machines: "\ufeff" + json.dumps(pages, indent=4).replace("\n", "\r\n"),
    ],
    ids=[
        "pages on lines",
        "list of pages",
        "pages one after the other",
        "machines on lines",
        "list of machines",
        "Windows",
    ],
)
def test_forms_of_files(url: str, tmp_path: Path, form: Any) -> None:
    machines = [vm(11, snapshot(3)), vm(12), vm(13, snapshot(4))]
    pages = [collection(*machines[:2]) | {"count": 3}, collection(machines[2]) | {"count": 3}]
    path = tmp_path / "vms.json"
    path.write_bytes(form(pages, machines).encode())
    result = imported(url, path)
    assert not result.problems
    assert str(result) == "machines: 3 created, 0 updated, 0 unchanged; snapshots: 2 created, 0 updated, 0 unchanged"


def test_positions_in_the_forms_of_files(url: str, tmp_path: Path) -> None:
    odd = vm(1, snapshot(3, current=7))
    same_name = tmp_path / "more"
    same_name.mkdir()
    paths = [tmp_path / "vms.json", same_name / "vms.json"]
    paths[0].write_text(json.dumps(odd) + json.dumps([odd | {"id": 2}, collection(odd | {"id": 3})]))
    paths[1].write_text(json.dumps(collection(odd | {"id": 4})) + json.dumps(collection(odd | {"id": 5})))
    assert [problem.position for problem in imported(url, *paths).problems.listed] == [
        f"{paths[0]}: $.snapshots[0]",
        f"{paths[0]}: page 2: [0].snapshots[0]",
        f"{paths[0]}: page 2: [1].resources[0].snapshots[0]",
        f"{paths[1]}: resources[0].snapshots[0]",
        f"{paths[1]}: page 2: resources[0].snapshots[0]",
    ]


# ---- missing pages


def test_first_page_only(url: str, tmp_path: Path) -> None:
    page = collection(vm(11)) | {"count": 2_500, "subcount": 1, "pages": 2_500}
    result = import_pages(url, tmp_path, page)
    assert result.problems.lines() == [
        (
            "vms.json: The files contain 1 of the 2,500 machines of the collection."
            " Request its other pages too, with limit and offset."
            " Machines and snapshots that are missing from the files were not changed."
        )
    ]
    assert result.machines.created == 1


@pytest.mark.parametrize(
    ("pages", "seen"),
    [
        ([collection(vm(11), vm(12)) | {"count": 4}, collection(vm(12), vm(13)) | {"count": 4}], 3),  # 12 twice
        ([collection(vm(11)) | {"count": 2}, collection(vm(11), vm(201), name="instances") | {"count": 2}], 1),
        ([collection(vm(11), vm(0)) | {"count": 3}], 2),  # the odd one is not missing
        ([collection(vm(11)) | {"count": 9, "subquery_count": 2}], 1),
        ([collection(vm(11)) | {"count": 9, "subquery_count": 1}], None),
        ([collection(vm(11)) | {"count": "9"}, collection() | {"count": 1}], None),
        ([{"resources": [vm(11)], "name": "vms", "count": 1}], None),
    ],
)
def test_missing_machines(url: str, tmp_path: Path, pages: list[Any], seen: int | None) -> None:
    lines = import_pages(url, tmp_path, *pages).problems.lines()
    found = [
        line.partition("contain ")[2].partition(" of")[0] for line in lines if "machines of the collection" in line
    ]
    assert found == ([] if seen is None else [str(seen)])


# ---- archived machines


def test_archived_machines_are_gone(url: str, tmp_path: Path) -> None:
    gone = "SELECT id, gone_at IS NOT NULL, snapshot_count FROM machine ORDER BY id"
    times = "SELECT id, gone_at FROM machine ORDER BY id"
    file = collection(vm(11, snapshot(3), ems_id=None), vm(12, archived=True, gone_on="2017-01-11"), vm(13, ems_id="7"))
    import_pages(url, tmp_path, file)
    assert [tuple(map(int, row)) for row in select(url, gone)] == [(11, 1, 1), (12, 1, 0), (13, 0, 0)]
    before = select(url, times)
    assert import_pages(url, tmp_path, file).machines.unchanged == 3
    assert select(url, times) == before
    import_pages(url, tmp_path, collection(vm(11, ems_id="7"), vm(13, ems_id=None)))
    assert [tuple(map(int, row)) for row in select(url, gone)] == [(11, 0, 0), (12, 1, 0), (13, 1, 0)]


# ---- the whole


@pytest.mark.parametrize("kind", SLOW_KINDS)
@pytest.mark.parametrize(("machines", "per_page"), [(50, 10), pytest.param(5_000, 1_000, marks=pytest.mark.thorough)])
def test_mixed_dump_in_six_pages_twice(
    databases: Databases, tmp_path: Path, kind: str, machines: int, per_page: int
) -> None:
    """Prints the results (`pytest -s`)."""
    url = databases.new(kind)
    paths = write_mixed_pages(tmp_path, machines, per_page)
    assert len(paths) == 6
    results = [imported(url, *order) for order in (paths, paths[::-1])]
    for result in results:
        print(f"{kind}: {result}")
    rows = f"machines: {machines:,} created, 0 updated, 0 unchanged; snapshots: {machines * 3:,} created"
    assert str(results[0]) == f"{rows}, 0 updated, 0 unchanged"
    assert str(results[1]) == (
        f"machines: 0 created, 0 updated, {machines:,} unchanged;"
        f" snapshots: 0 created, 0 updated, {machines * 3:,} unchanged"
    )
    assert [len(result.problems) for result in results] == [0, 0]
    assert select(url, "SELECT kind, count(*) FROM machine GROUP BY kind ORDER BY kind") == [
        ("INSTANCE", machines // 10),
        ("VM", machines - machines // 10),
    ]
    assert len(select(url, MACHINES)) == machines
    assert select(url, "SELECT count(*) FROM snapshot WHERE is_current") == [(machines,)]
