"""Many machines and snapshots on a Proxmox VE cluster whose responses are made here, as JSON."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.drivers.proxmox.api import Client
from gateway.drivers.proxmox.driver import ProxmoxDriver
from gateway.drivers.threads import Threads
from tests.drivers.loop_time.worlds import SNAPSHOT_TIME, LargeWorld

PART = "proxmox"

_TASK = "UPID:n0:{:08X}:00000001:{:08X}:{}:100:gateway@pve:"


def lacking() -> str | None:
    return None


class _Cluster(Client):
    """A cluster of one node, which executes each task at once. The machine 100 has the chain of snapshots."""

    def __init__(self, machines: int, snapshots: int) -> None:
        self._machines = [
            {"type": "qemu", "vmid": 100 + number, "node": "n0", "name": f"machine-{number}", "status": "running"}
            for number in range(machines)
        ]
        self._snapshots = {
            f"snapshot-{number}": {
                "name": f"snapshot-{number}",
                "snaptime": SNAPSHOT_TIME + number,
                "vmstate": 0,
                "description": "by hand\n",
                **({"parent": f"snapshot-{number - 1}"} if number else {}),
            }
            for number in range(snapshots)
        }
        self._current = f"snapshot-{snapshots - 1}"
        self._tasks: list[dict[str, Any]] = []

    def call(self, change: bool, method: str, path: str, parameters: dict[str, Any]) -> Any:
        return json.loads(json.dumps(self._change(method, path, parameters) if change else self._read(path)))

    def close(self) -> None:
        pass

    def _read(self, path: str) -> Any:
        if path == "cluster/resources" or path == "nodes/n0/qemu":
            return self._machines
        if path.endswith("/status/current"):
            return self._machines[0]
        if path.endswith("/snapshot"):
            return [*self._snapshots.values(), {"name": "current", "parent": self._current}]
        if path == "nodes/n0/tasks":
            return self._tasks
        return {"status": "stopped", "exitstatus": "OK"} if path.endswith("/status") else []

    def _change(self, method: str, path: str, parameters: dict[str, Any]) -> str | None:
        _, _, rest = path.partition("/snapshot")
        name = rest.strip("/").partition("/")[0]
        if method == "put":
            self._snapshots[name]["description"] = parameters["description"]
            return None
        if rest.endswith("/rollback"):
            kind, self._current = "qmrollback", name
        elif method == "delete":
            kind, parent = "qmdelsnapshot", self._snapshots.pop(name).get("parent")
            for snapshot in self._snapshots.values():
                if snapshot.get("parent") == name:
                    snapshot["parent"] = parent
        else:
            kind, name = "qmsnapshot", parameters["snapname"]
            more = {"description": parameters["description"], "parent": self._current}
            self._snapshots[name] = {"name": name, "snaptime": 1_600_000_000, "vmstate": 0, **more}
            self._current = name
        upid = _TASK.format(len(self._tasks), 1_600_000_000 + len(self._tasks), kind)
        self._tasks.append({"upid": upid, "type": kind, "id": "100", "endtime": 1})
        return upid


@contextmanager
def world(directory: Path, machines: int, snapshots: int) -> Iterator[LargeWorld]:
    """The first machine has the chain of snapshots."""
    yield LargeWorld(ProxmoxDriver(_Cluster(machines, snapshots), Threads(4), Threads(2)), "100")
