"""Writes a file like ManageIQ's response to `GET /api/vms?expand=resources,snapshots`, of any size, in constant memory.

    python tests/make_dump.py --machines 1200 --snapshots 1000000 --big 100000 OUT
    python tests/make_dump.py --mixed --machines 5000 DIRECTORY

The first machine has `--big` snapshots and the others share the rest. The same arguments write the same bytes.

`--mixed` writes the pages of `vms`, of 1000 machines each, and of `instances`, to a directory. As in ManageIQ, `vms`
contains the instances too, here every tenth machine. Each machine has three snapshots.
"""

import argparse
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

_EPOCH = datetime(2019, 1, 1, tzinfo=UTC)
_POWER = ("on", "on", "on", "off", "suspended", "unknown", None)
_PURPOSE = ("before-upgrade", "test", "nightly", "test-restore", "Before patch", "Übergabe", "wip", "release")
_FIRST_MACHINE, _FIRST_SNAPSHOT = 100_000, 1_000_000  # above the ids of the demo world
_INSTANCE_EVERY = 10  # in a mixed dump
_MIXED_SNAPSHOTS = 3  # of each machine in a mixed dump
_HOST = "http://localhost:3000/api"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--machines", type=int, default=1_200)
    arguments.add_argument("--snapshots", type=int, default=1_000_000)
    arguments.add_argument("--big", type=int, default=100_000, help="snapshots of the first machine")
    arguments.add_argument("--collection", choices=("vms", "instances"), default="vms")
    arguments.add_argument("--mixed", action="store_true", help="write pages of vms and instances to a directory")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("out", type=Path)
    parsed = arguments.parse_args()
    if parsed.mixed:
        write_mixed_pages(parsed.out, parsed.machines)
        return
    with parsed.out.open("w", encoding="utf-8") as out:
        write_dump(out, parsed.machines, parsed.snapshots, parsed.big, parsed.collection, parsed.seed)


def write_dump(out: IO[str], machines: int, snapshots: int, big: int, collection: str = "vms", seed: int = 1) -> None:
    """Writes `machines` machines with `snapshots` snapshots in all."""
    chance = random.Random(seed)
    head = {"name": collection, "count": machines, "subcount": machines, "pages": 1}
    out.write(json.dumps(head)[:-1] + ', "resources": [')
    next_id = _FIRST_SNAPSHOT
    for number in range(machines):
        mine = _share(number, machines, snapshots, big)
        out.write(",\n" if number else "\n")
        machine = _machine(chance, number, collection)
        out.write(json.dumps(machine, ensure_ascii=False)[:-1] + ', "snapshots": [')
        for position, snapshot in enumerate(_history(chance, machine["id"], collection, next_id, mine)):
            out.write(",\n" if position else "\n")
            out.write(json.dumps(snapshot, ensure_ascii=False))
        # Attributes continue after the snapshots, as in ManageIQ.
        out.write('], "actions": [{"name": "edit", "method": "post", "href": "' + str(machine["href"]) + '"}]}')
        next_id += mine
    out.write('], "actions": [], "links": {"self": "' + _HOST + "/" + collection + '?offset=0", "last": null}}\n')


def write_mixed_pages(directory: Path, machines: int, per_page: int = 1_000) -> list[Path]:
    """Writes `vms-1.json`, … and `instances-1.json`, … for `machines` machines, and returns the paths in this order."""
    paths = []
    for collection, numbers in (("vms", range(machines)), ("instances", range(0, machines, _INSTANCE_EVERY))):
        for offset in range(0, len(numbers), per_page):
            on_page = numbers[offset : offset + per_page]
            page = {
                "name": collection,
                "count": len(numbers),
                "subcount": len(on_page),
                "pages": -(-len(numbers) // per_page),
                "resources": [_mixed_machine(collection, number) for number in on_page],
                "actions": [],
            }
            paths.append(directory / f"{collection}-{offset // per_page + 1}.json")
            paths[-1].write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")
    return paths


def _mixed_machine(collection: str, number: int) -> dict[str, Any]:
    """A machine with its snapshots, which are the same in both collections except for their links."""
    chance = random.Random(number)
    machine = _machine(chance, number, "vms" if number % _INSTANCE_EVERY else "instances")
    first = _FIRST_SNAPSHOT + number * _MIXED_SNAPSHOTS
    snapshots = list(_history(chance, machine["id"], collection, first, _MIXED_SNAPSHOTS))
    return machine | {"href": f"{_HOST}/{collection}/{machine['id']}", "snapshots": snapshots}


def _share(number: int, machines: int, snapshots: int, big: int) -> int:
    """Number of snapshots of the machine `number`."""
    if machines == 1:
        return snapshots
    if number == 0:
        return min(big, snapshots)
    each, over = divmod(max(snapshots - big, 0), machines - 1)
    return each + (number <= over)


def _machine(chance: random.Random, number: int, collection: str) -> dict[str, Any]:
    id = _FIRST_MACHINE + number
    cloud = collection == "instances"
    return {
        "href": f"{_HOST}/{collection}/{id}",
        "id": id if number % 3 == 0 else str(id),
        "vendor": "openstack" if cloud else "vmware",
        "name": f"machine-{number:05}",
        "description": None if number % 4 else f"machine number {number}",
        "uid_ems": f"4221{number:08x}-{chance.getrandbits(48):012x}",
        "ems_ref": f"vm-{id}",
        "power_state": _POWER[number % len(_POWER)],
        "raw_power_state": "poweredOn",
        "cloud": cloud,
        "host_id": None if cloud else str(number % 16),
        "host": None if cloud else {"id": str(number % 16), "name": f"esx-{number % 16:02}"},
        "flavor": {"name": "m1.small"} if cloud else None,
        "availability_zone": "nova" if cloud else None,
        "created_on": _moment(_EPOCH + timedelta(hours=number), number),
        "updated_on": None,
        "retired": None,
        "tags": [],
        "type": f"ManageIQ::Providers::{'Openstack::CloudManager' if cloud else 'Vmware::InfraManager'}::Vm",
    }


def _history(
    chance: random.Random, machine: int | str, collection: str, first: int, number: int
) -> Iterator[dict[str, Any]]:
    """A chain with some branches; the last snapshot is the current one."""
    at = _EPOCH + timedelta(minutes=chance.randrange(100_000))
    for offset in range(number):
        id = first + offset
        at += timedelta(seconds=chance.randrange(60, 40_000) if number < 10_000 else chance.randrange(60, 3_000))
        branch = min(offset, chance.randrange(1, 4))
        parent = None if offset == 0 else id - branch
        yield {
            "href": f"{_HOST}/{collection}/{machine}/snapshots/{id}",
            "id": str(id) if id % 5 else id,
            "name": f"{_PURPOSE[chance.randrange(len(_PURPOSE))]}-{id}",
            "description": None if id % 3 else f"made by job {id % 97}",
            "uid": f"{at:%Y-%m-%dT%H:%M:%S}.{id % 1_000_000:06}Z",
            "uid_ems": f"{chance.getrandbits(32):08x}",
            "ems_ref": f"snapshot-{id}",
            "ems_ref_type": "VirtualMachineSnapshot",
            "type": "ManageIQ::Providers::Vmware::InfraManager::Snapshot",
            "parent_uid": None,
            "parent_id": None if parent is None else (str(parent) if parent % 2 else parent),
            "vm_or_template_id": str(machine),
            "current": 1 if offset == number - 1 else (0 if id % 2 else None),
            "total_size": None if id % 4 == 0 else chance.randrange(1 << 34),
            "filename": None,
            "disks": [],
            "create_time": _moment(at, id),
            "created_on": _moment(at, 0),
            "updated_on": None,
        }


def _moment(at: datetime, form: int) -> str:
    if form % 7 == 1:
        return at.strftime("%Y-%m-%dT%H:%M:%S.000+00:00")
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    main()
