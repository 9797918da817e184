"""An odd record of a file costs that record: it is left out and reported, and all others are imported."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.inventory.imports.dump_file import DumpFile
from gateway.inventory.imports.importer import ImportResult, import_files
from tests.databases import SLOW_KINDS
from tests.examples import EXAMPLES
from tests.inventory.files import collection, execute, import_pages, select, snapshot, vm

TREE = "SELECT machine_id, id, parent_id, CASE WHEN is_current THEN 1 ELSE 0 END FROM snapshot ORDER BY machine_id, id"
IDS = "SELECT id FROM machine ORDER BY id"
ID_RANGE = "must be a whole number from 1 to 4000000000000000000"
CYCLE = "The snapshot is its own ancestor: the values of 'parent_id' form a cycle."
NO_MACHINE = "The machine was left out."
NO_SNAPSHOT = "The snapshot was left out."
NO_PARENT = "The snapshot was imported without a parent."
UNCHANGED = "Machines and snapshots that are missing from the files were not changed."


def problems(result: ImportResult) -> list[str]:
    """The messages of an import of the file `vms.json`, without its name."""
    return [line.removeprefix("vms.json: ") for line in result.problems.lines()]


@pytest.mark.parametrize(
    ("odd", "problem", "counts"),
    [
        (17, "A machine must be a JSON object.", (1, 0)),
        ([[1]], "A machine must be a JSON object.", (1, 0)),
        ({"name": "x"}, "The record has neither an 'id' nor an 'href' that ends in an id.", (1, 0)),
        (vm(0, snapshot(3), snapshot(4)), f"Attribute 'id' {ID_RANGE}, not 0.", (1, 2)),
        (vm(12, snapshot(3), id=10**400), f"Attribute 'id' {ID_RANGE}, not 1{'0' * 59}….", (1, 1)),
        (vm(12, name=["x"]), "Attribute 'name' must be text, not a list.", (1, 0)),
        (vm(12, name={"x": {"y": []}}), "Attribute 'name' must be text, not an object.", (1, 0)),
        (vm(12, name="x" * 1_000_000), "Attribute 'name' is longer than 4,000 characters.", (1, 0)),
        (vm(12, name="a\0"), "Attribute 'name' contains a NUL character.", (1, 0)),
        (vm(12, name="\ud83d"), "Attribute 'name' contains half of a surrogate pair, which is no character.", (1, 0)),
        (vm(12, power_state=["\x1b"]), "Attribute 'power_state' must be text, not a list.", (1, 0)),
        (vm(12, gone_on="\x1b[2J\n\u202e"), "Attribute 'gone_on' must be an ISO 8601 time, not \"\\x1b[2J\\n\\u202e\".",
         (1, 0)),
        (vm(12, host={"name": 1.5}), "Attribute 'host.name' must be text, not 1.5.", (1, 0)),
        (vm(12, created_on="10000-01-01"), "Attribute 'created_on' must be an ISO 8601 time, not \"10000-01-01\".",
         (1, 0)),
        ({"id": 12, "snapshots": {}}, "Attribute 'snapshots' must be a list and occur once.", (1, 0)),
        (vm(11, ems_ref="vm-99"), "The files already contain another machine 11, at vms.json: resources[0].", (1, 0)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("url", SLOW_KINDS, indirect=True)
def test_odd_machine(url: str, tmp_path: Path, odd: Any, problem: str, counts: tuple[int, int]) -> None:
    result = import_pages(url, tmp_path, collection(vm(11, snapshot(1)), odd, vm(13, snapshot(2))))
    assert problems(result) == [f"resources[1]: {problem} {NO_MACHINE}"]
    assert (result.machines.left_out, result.snapshots.left_out) == counts
    assert select(url, IDS) == [(11,), (13,)]
    assert select(url, TREE) == [(11, 1, None, 0), (13, 2, None, 0)]


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        (17, "A snapshot must be a JSON object."),
        ([[]], "A snapshot must be a JSON object."),
        ({}, "The record has neither an 'id' nor an 'href' that ends in an id."),
        (snapshot(4, create_time="yesterday"), "Attribute 'create_time' must be an ISO 8601 time, not \"yesterday\"."),
        (
            snapshot(4, create_time=1484092800000),
            "Attribute 'create_time' must be an ISO 8601 time, not 1484092800000.",
        ),
        (
            snapshot(4, create_time="0000-00-00"),
            "Attribute 'create_time' must be an ISO 8601 time, not \"0000-00-00\".",
        ),
        (snapshot(4, name="x" * 4001), "Attribute 'name' is longer than 4,000 characters."),
        (snapshot(4, name="x\udc00"), "Attribute 'name' contains half of a surrogate pair, which is no character."),
        (snapshot(4, total_size=-1), "Attribute 'total_size' must be a number of bytes, not -1."),
        (snapshot(4, total_size=1e300), "Attribute 'total_size' must be a number of bytes, not 1E+300."),
        (snapshot(4, parent_id={}), f"Attribute 'parent_id' {ID_RANGE}, not an object."),
        (snapshot(4, current=2), "Attribute 'current' must be 0 or 1, not 2."),
        (snapshot(1), "The files already contain snapshot 1, at vms.json: resources[0].snapshots[0]."),
        (snapshot(3), "The files already contain snapshot 3, at vms.json: resources[1].snapshots[0]."),
    ],
)
@pytest.mark.parametrize("url", SLOW_KINDS, indirect=True)
def test_odd_snapshot(url: str, tmp_path: Path, odd: Any, problem: str) -> None:
    result = import_pages(url, tmp_path, collection(vm(11, snapshot(1)), vm(12, snapshot(3), odd, snapshot(5))))
    assert problems(result) == [f"resources[1].snapshots[1]: {problem} {NO_SNAPSHOT}"]
    assert str(result) == (
        "machines: 2 created, 0 updated, 0 unchanged; snapshots: 3 created, 0 updated, 0 unchanged, 1 left out"
    )
    assert select(url, TREE) == [(11, 1, None, 0), (12, 3, None, 0), (12, 5, None, 0)]


@pytest.mark.parametrize(
    ("snapshots", "found", "tree"),
    [
        (
            [snapshot(3), snapshot(4, parent_id=5), snapshot(6, parent_id=4)],
            [f"[1]: Attribute 'parent_id' must be a snapshot of the same machine, not 5. {NO_PARENT}"],
            [(3, None, 0), (4, None, 0), (6, 4, 0)],
        ),
        (
            [snapshot(3), snapshot(4, parent_id=90)],
            [f"[1]: Attribute 'parent_id' must be a snapshot of the same machine, not 90. {NO_PARENT}"],
            [(3, None, 0), (4, None, 0)],
        ),
        (
            [snapshot(3, current=1), snapshot(4), snapshot(5, current=1)],
            [
                (
                    "[2]: The snapshot is current, but so is an earlier snapshot of the same machine."
                    " The snapshot was imported as not current."
                )
            ],
            [(3, None, 1), (4, None, 0), (5, None, 0)],
        ),
        (
            [snapshot(3), snapshot(4, parent_id=4), snapshot(5, parent_id=4)],
            [f"[1]: {CYCLE} {NO_PARENT}"],
            [(3, None, 0), (4, None, 0), (5, 4, 0)],
        ),
        (  # a cycle of three, with a branch, beside a snapshot whose parent has a larger id
            [
                snapshot(2),
                snapshot(3, parent_id=5),
                snapshot(4, parent_id=3),
                snapshot(5, parent_id=4),
                snapshot(6, parent_id=5),
                snapshot(8, parent_id=9),
                snapshot(9, parent_id=2),
            ],
            [f"[1]: {CYCLE} {NO_PARENT}"],
            [(2, None, 0), (3, None, 0), (4, 3, 0), (5, 4, 0), (6, 5, 0), (8, 9, 0), (9, 2, 0)],
        ),
    ],
    ids=["unknown parent", "parent on another machine", "two current", "own parent", "cycle"],
)
def test_snapshots_that_contradict_each_other(
    url: str, tmp_path: Path, snapshots: list[Any], found: list[str], tree: list[tuple[Any, ...]]
) -> None:
    result = import_pages(url, tmp_path, collection(vm(10, snapshot(90)), vm(11, *snapshots)))
    assert problems(result) == [f"resources[1].snapshots{problem}" for problem in found]
    assert result.snapshots.left_out == 0
    assert select(url, TREE) == [(10, 90, None, 0), *((11, *row) for row in tree)]


def test_longest_names(url: str, tmp_path: Path) -> None:
    """PostgreSQL's indexes refuse long texts, unless it can compress them."""
    longest, too_long = ("".join(map(chr, range(0x4E00, 0x4E00 + number))) for number in (666, 667))
    valid = vm(11, snapshot(3, name=longest), name=longest)
    odd = vm(13, snapshot(4, name=too_long), snapshot(5, description=longest * 100))
    result = import_pages(url, tmp_path, collection(valid, vm(12, name=too_long), odd))
    reason = "Attribute 'name' is longer than 2,000 bytes."
    assert problems(result) == [
        f"resources[1]: {reason} {NO_MACHINE}",
        f"resources[2].snapshots[0]: {reason} {NO_SNAPSHOT}",
    ]
    assert select(url, TREE) == [(11, 3, None, 0), (13, 5, None, 0)]
    assert select(url, "SELECT description FROM snapshot WHERE id = 5") == [((longest * 13)[:8_192],)]


def test_odd_snapshot_keeps_its_row_from_an_earlier_import(url: str, tmp_path: Path) -> None:
    import_pages(url, tmp_path, collection(vm(11, snapshot(3), snapshot(4, current=1)), vm(12, snapshot(5))))
    odd = [vm(11, snapshot(4, current="?"), snapshot(6)), vm(12, snapshot(5, total_size=-1), snapshot(7, current=1))]
    result = import_pages(url, tmp_path, collection(*odd))
    assert len(problems(result)) == 2
    assert select(url, TREE) == [
        (11, 3, None, 0),
        (11, 4, None, 1),
        (11, 6, None, 0),
        (12, 5, None, 0),
        (12, 7, None, 1),
    ]
    import_pages(url, tmp_path, collection(vm(11, snapshot(4), snapshot(6, current=1)), vm(12, snapshot(7))))
    assert select(url, TREE) == [(11, 4, None, 0), (11, 6, None, 1), (12, 7, None, 0)]


def test_another_current_snapshot_in_an_incomplete_list(url: str, tmp_path: Path) -> None:
    import_pages(url, tmp_path, collection(vm(11, snapshot(3, current=1))))
    import_pages(url, tmp_path, collection(vm(11, snapshot(3, name=1.5), snapshot(4, current=1))))
    assert select(url, TREE) == [(11, 3, None, 0), (11, 4, None, 1)]


def test_list_that_has_not_all_snapshots(url: str, tmp_path: Path) -> None:
    """A gateway's list has the newest 1,000 snapshots of each machine. `v_total_snapshots` is the number of all."""
    import_pages(url, tmp_path, collection(vm(11, snapshot(3), snapshot(4))))
    result = import_pages(url, tmp_path, collection(vm(11, snapshot(4), v_total_snapshots=2)))
    assert problems(result) == [f"resources[0]: The list has 1 of the machine's 2 snapshots. {UNCHANGED}"]
    assert select(url, TREE) == [(11, 3, None, 0), (11, 4, None, 0)]


def test_ids_that_belong_to_others_in_the_database(url: str, tmp_path: Path) -> None:
    """The gateway assigns ids too, so ManageIQ's next ones may be taken."""
    import_pages(url, tmp_path, collection(vm(11, snapshot(3, name="a")), vm(12)))
    execute(url, "INSERT INTO provider (name, tenant, driver) VALUES ('lab', 'default', 'simulated')")
    execute(url, "UPDATE machine SET imported = FALSE, provider = 'lab' WHERE id = 11")
    result = import_pages(
        url,
        tmp_path,
        collection(
            vm(10),
            vm(11, snapshot(8), name="db", ems_ref="vm-99"),
            vm(12, snapshot(4), snapshot(3, name="b"), snapshot(5, parent_id=3)),
        ),
    )
    assert problems(result) == [
        (
            "resources[1]: Id 11 belongs to different machines: in the file to Vm 'db' (vm-99), in the database to"
            f" Vm 'vm 11' (vm-11) of provider 'lab'. {NO_MACHINE}"
        ),
        (
            "resources[2].snapshots[1]: Id 3 belongs to different snapshots: in the file to 'b' of Vm 12, in the"
            f" database to 'a' of Vm 11 ('vm 11'). {NO_SNAPSHOT}"
        ),
        f"resources[2].snapshots[2]: Attribute 'parent_id' must be a snapshot of the same machine, not 3. {NO_PARENT}",
    ]
    assert str(result) == (
        "machines: 1 created, 0 updated, 1 unchanged, 1 left out;"
        " snapshots: 2 created, 0 updated, 0 unchanged, 2 left out"
    )
    assert select(url, IDS) == [(10,), (11,), (12,)]
    assert select(url, TREE) == [(11, 3, None, 0), (12, 4, None, 0), (12, 5, None, 0)]


def test_nothing_is_disclosed_about_another_tenant(url: str, tmp_path: Path) -> None:
    import_pages(url, tmp_path, collection(vm(11, snapshot(3, name="secret"), name="theirs")))
    execute(url, "UPDATE machine SET tenant = 'other'")
    execute(url, "UPDATE snapshot SET tenant = 'other'")
    result = import_pages(url, tmp_path, collection(vm(11), vm(12, snapshot(3, name="mine"))))
    assert problems(result) == [
        (
            "resources[0]: Id 11 belongs to different machines: in the file to Vm 'vm 11' (vm-11), in the database to a"
            f" machine of another tenant. {NO_MACHINE}"
        ),
        (
            "resources[1].snapshots[0]: Id 3 belongs to different snapshots: in the file to 'mine' of Vm 12, in the"
            f" database to a snapshot of another tenant. {NO_SNAPSHOT}"
        ),
    ]


def test_many_problems_are_counted(url: str, tmp_path: Path) -> None:
    """Of those found while reading, and of those found by SQL."""
    invalid = [snapshot(number, current=7) for number in range(1, 81)]
    orphans = [snapshot(number, parent_id=99_999) for number in range(101, 251)]
    result = import_pages(url, tmp_path, collection(vm(11, *invalid, *orphans)))
    lines = problems(result)
    assert (len(result.problems), len(lines), lines[-1]) == (230, 101, "130 more problems are not listed.")
    assert [line.partition(":")[0] for line in lines[:100]] == [
        f"resources[0].snapshots[{index}]" for index in range(100)
    ]
    assert (result.snapshots.created, result.snapshots.left_out) == (150, 80)
    assert select(url, "SELECT message FROM audit_entry") == [(str(result),)]


def test_deep_json_in_ignored_attributes(url: str, tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    path = tmp_path / "vms.json"
    snapshot = f'{{"id": 3, "disks": {deep}, "big": {"9" * 400}}}'
    machine = f'{{"id": 11, "tags": {deep}, "huge": 1e999, "odd": "\\ud83d", "snapshots": [{snapshot}]}}'
    path.write_text(f'{{"name": "vms", "actions": {deep}, "resources": [{machine}]}}')
    result = import_files(url, [path], tenant="default")
    assert not result.problems
    assert select(url, TREE) == [(11, 3, None, 0)]


# ---- any values

TEXTS = st.text(max_size=8) | st.sampled_from(["\0", "\ud800", "x" * 5_000, "3", "-1", "2017-01-11", "vms"])
NUMBERS = (
    st.integers() | st.sampled_from([10**400, 2**63, 0, 1e308, -0.0]) | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=5,
)
# Ids that no other record has, and values that are no ids.
OTHER_IDS = st.integers(100, 120) | VALUES.filter(lambda value: str(value) not in ["1", "2", "11", "13"])


def records(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Records of a valid id or another value, with any values of some attributes."""
    attributes = st.dictionaries(st.sampled_from(names), VALUES, max_size=6)
    return st.builds(lambda id, rest: rest | {"id": id, "tags": []}, OTHER_IDS, attributes)


SNAPSHOTS = records(
    ["name", "description", "parent_id", "current", "total_size", "memory", "state", "ems_ref", "create_time"]
)
MACHINES = records(
    [
        "name",
        "host",
        "flavor",
        "uid_ems",
        "ems_ref",
        "power_state",
        "created_on",
        "archived",
        "gone_on",
        "cloud",
        "type",
    ]
)


@pytest.mark.parametrize("url", SLOW_KINDS, indirect=True)
@settings(max_examples=EXAMPLES // 2)
@given(odd=VALUES | st.builds(lambda machine, snapshots: machine | {"snapshots": snapshots},
                              MACHINES, VALUES | st.lists(SNAPSHOTS | VALUES, max_size=4)))  # fmt: skip
def test_any_record_leaves_its_neighbors_alone(url: str, tmp_path: Path, odd: Any) -> None:
    neighbors = [vm(11, snapshot(1, current=1)), vm(13, snapshot(2))]
    import_pages(url, tmp_path, collection(neighbors[0], odd, neighbors[1]))
    assert {(11, 1, None, 1), (13, 2, None, 0)} <= set(select(url, TREE))
    assert {(11,), (13,)} <= set(select(url, IDS))


# ---- escapes of half a surrogate pair


class Blocks:
    """A file that returns at most `size` bytes at a time."""

    def __init__(self, content: bytes, size: int) -> None:
        self._content = content
        self._size = size

    def read(self, _size: int = -1) -> bytes:
        block, self._content = self._content[: self._size], self._content[self._size :]
        return block


PIECES = st.sampled_from(
    [
        r"\\",
        r"\"",
        r"\n",
        r"\u0041",
        r"\ud83d",
        r"\uDE00",
        r"\ud83d\ude00",
        r"\uD83D\uDE00",
        "ud800",
        "a",
        "é",
        "\U0001f600",
    ]
)


@settings(max_examples=EXAMPLES)
@given(pieces=st.lists(PIECES, max_size=12), size=st.integers(4, 30))
def test_halves_of_surrogate_pairs_are_replaced(pieces: list[str], size: int) -> None:
    """Whatever the blocks in which the file is read. Python's parser accepts the halves."""
    content = f'"{"".join(pieces)}"'.encode()
    file = DumpFile(Blocks(content, size))  # type: ignore[arg-type]
    read = b"".join(iter(lambda: file.read(size), b""))
    expected = "".join(
        "\ufdd0" if "\ud800" <= character <= "\udfff" else character for character in json.loads(content)
    )
    assert json.loads(read) == expected
    assert file.bytes_read == len(content)
