"""A fleet with odd machines on a Proxmox VE cluster whose responses are made here, as JSON."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.drivers.base import Driver
from gateway.drivers.proxmox.api import Client
from gateway.drivers.proxmox.driver import ProxmoxDriver
from gateway.drivers.threads import Threads
from gateway.errors import ProviderMissing
from tests.drivers.odd_fleet.fleets import NEW_SNAPSHOT, SNAPSHOTS, Fleet, Oddity, machine_name

PART = "proxmox"

_LONG = "x" * 2**20
_DEEP: dict[str, Any] = {}
for _ in range(400):
    _DEEP = {"a": _DEEP}

# What the entry of the machine, or that of its first snapshot, has in place of the usual; None: the field is missing.
_MACHINES: dict[str, dict[str, Any]] = {
    "a name of digits": {"name": 7},
    "a name that is an object": {"name": {"a": [1]}},
    "a name of depth 400": {"name": _DEEP},
    "a name of 1 MB": {"name": _LONG},
    "a name with NUL and half a surrogate": {"name": "a\0\ud800b"},
    "no name": {"name": None},
    "a state that is a list": {"status": ["running"], "qmpstatus": {}},
    "no state": {"status": None},
    "a template flag that is a text": {"template": "0"},
    "a template flag that is an object": {"template": {}},
    "a node that is a number": {"node": 7},
    "no vmid": {"vmid": None},
    "a vmid that is a list": {"vmid": [1]},
    "a type that is a list": {"type": ["qemu"]},
}
_SNAPSHOTS: dict[str, dict[str, Any]] = {
    "a snapshot with a time in milliseconds": {"snaptime": 1_500_000_000_000},
    "a snapshot with a time that is an object": {"snaptime": {}},
    "a snapshot with a time that is a text": {"snaptime": "1500000000"},
    "a snapshot without a time": {"snaptime": None},
    "a snapshot with a name of 1 MB": {"name": _LONG},
    "a snapshot with a name that is a list": {"name": [1]},
    "a snapshot with a description that is an object": {"description": {}},
    "a snapshot with a memory flag that is a text": {"vmstate": "0"},
    "a snapshot with a parent that is a list": {"parent": [1]},
    "a snapshot with an unknown parent": {"parent": "none"},
    "a snapshot that is its own parent": {"parent": SNAPSHOTS[0]},
}
_LISTINGS: dict[str, Any] = {
    "no entry for the present state": [{"name": name, "snaptime": 1_500_000_000} for name in SNAPSHOTS],
    "snapshots that are an object": {},
    "snapshots that are numbers": [1, 2],
}

_CHANGED = "The name was changed, because it is too long"
_NO_PRESENT_STATE = Oddity("The listing of snapshots has no entry for the machine's present state")
_NO_VMID = Oddity("An entry has no valid vmid.", identified=False, gone_noticed=False)
_UNNAMED = Oddity("A snapshot was left out, because it has no valid name.")
ODDITIES: dict[str, Oddity] = {
    "a name of digits": Oddity(None, name="7"),
    "a name that is an object": Oddity("The name is not text: dict.", name="{ref}"),
    "a name of depth 400": Oddity("The name is not text: dict.", name="{ref}"),
    "a name of 1 MB": Oddity(_CHANGED, name="x" * 1_024),
    "a name with NUL and half a surrogate": Oddity(_CHANGED, name="a\ufffd\ufffdb"),
    "no name": Oddity(None, name="VM {ref}"),
    "a state that is a list": Oddity("The power state is not text."),
    "no state": Oddity(None),
    "a template flag that is a text": Oddity(None),
    "a template flag that is an object": Oddity("The ability to be snapshotted is neither true nor false."),
    "a node that is a number": Oddity("The provider does not state on which node the machine is."),
    "no vmid": _NO_VMID,
    "a vmid that is a list": _NO_VMID,
    "a type that is a list": Oddity("An entry has no valid type.", identified=False, gone_noticed=False),
    "a snapshot with a time in milliseconds": Oddity("The creation time 1500000000000 is not a valid number"),
    "a snapshot with a time that is an object": Oddity("The creation time is missing or not a number: dict."),
    "a snapshot with a time that is a text": Oddity(None),
    "a snapshot without a time": Oddity("The creation time is missing or not a number: None."),
    "a snapshot with a name of 1 MB": Oddity("A snapshot was left out. The provider's identifier 'xxx"),
    "a snapshot with a name that is a list": _UNNAMED,
    "a snapshot with a description that is an object": Oddity("Snapshot 'first@1500000000': The description is not"),
    "a snapshot with a memory flag that is a text": Oddity(None),
    "a snapshot with a parent that is a list": Oddity("The parent is not a name."),
    "a snapshot with an unknown parent": Oddity(None),
    "a snapshot that is its own parent": Oddity("The parent is the snapshot itself."),
    "no entry for the present state": _NO_PRESENT_STATE,
    "snapshots that are an object": Oddity("The provider's response is malformed."),
    "snapshots that are numbers": _NO_PRESENT_STATE,
}


def lacking() -> str | None:
    return None


class _Answers(Client):
    """A client that returns these responses, by path."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self._answers = answers

    def call(self, change: bool, method: str, path: str, parameters: dict[str, Any]) -> Any:
        if path not in self._answers:
            raise ProviderMissing("The provider has no such machine.")
        return json.loads(self._answers[path])

    def close(self) -> None:
        pass


class _Cluster:
    def __init__(self, size: int) -> None:
        self._size = size

    def ref(self, number: int) -> str:
        return str(100 + number)

    def driver(self, odd: Mapping[int, str], removed: int | None, extended: int | None) -> Driver:
        answers: dict[str, Any] = {"cluster/resources": [], "nodes/n0/qemu": [], "nodes/n1/qemu": []}
        answers["access/permissions"] = {"/": {"VM.Audit": "0"}, "/vms": 7}  # the value says whether it is inherited
        for number in range(self._size):
            if number != removed:
                self._add(answers, number, odd.get(number, ""), number == extended)
        texts = {path: json.dumps(answer) for path, answer in answers.items()}
        return ProxmoxDriver(_Answers(texts), Threads(4), Threads(2))

    def _add(self, answers: dict[str, Any], number: int, odd: str, extended: bool) -> None:
        ref, node = self.ref(number), f"n{number % 2}"
        usual = {"vmid": int(ref), "name": machine_name(number), "status": "running", "type": "qemu", "node": node}
        entry = _changed(usual, _MACHINES.get(odd, {}))
        answers["cluster/resources"].append(entry)
        answers[f"nodes/{node}/qemu"].append(entry)
        path = f"nodes/{node}/qemu/{ref}"
        answers[f"{path}/status/current"] = entry
        names = (*SNAPSHOTS, NEW_SNAPSHOT) if extended else SNAPSHOTS
        snapshots = [{"name": name, "snaptime": 1_500_000_000, "vmstate": 0} for name in names]
        snapshots[0] = _changed(snapshots[0], _SNAPSHOTS.get(odd, {}))
        listing = [*snapshots, {"name": "current", "parent": SNAPSHOTS[1]}]
        answers[f"{path}/snapshot"] = _LISTINGS.get(odd, listing)


def _changed(entry: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (entry | fields).items() if value is not None}


@contextmanager
def fleet(directory: Path, size: int) -> Iterator[Fleet]:
    """Machines on two nodes."""
    yield _Cluster(size)
