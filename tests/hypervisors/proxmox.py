"""Runs a simulated Proxmox VE cluster as a separate process: `python -m tests.hypervisors.proxmox DIRECTORY`.

Each line of standard input is a JSON array [method, arguments, options]: a call of a method of `Cluster`. Its result is
printed as one line of JSON. The process ends when standard input closes. It is a separate process because fakepve is
under the AGPL; no other module imports it.
"""

import asyncio
import json
import sys
from typing import Any

from fakepve import FakePve  # type: ignore[import-untyped]
from fakepve.certs import make_cert  # type: ignore[import-untyped]
from fakepve.model import Model, PveError, TaskError  # type: ignore[import-untyped]


class Cluster(FakePve):  # type: ignore[misc]
    """A FakePve with fault injection: tasks can be held, fail with any exit status or race with another client, and
    responses can be lost.
    """

    def __init__(self) -> None:
        super().__init__(host="127.0.0.1", port=0)
        self.gates: dict[str, asyncio.Event] = {}
        self.reset()
        self.add_ct(200, "container")

    def reset(self) -> None:
        """Restores the initial state, except for the container, which no test changes."""
        Model.__init__(self, user="gateway@pve", password="secret")
        for gate in self.gates.values():
            gate.set()
        self.gates = {}  # by the point at which tasks wait
        self.openers: dict[str, str] = {}  # the gate that opens after a GET whose path has this end
        self.lost: tuple[str, str] | None = None  # method and end of the path of the request whose response is lost
        self.ignored: tuple[str, str] | None = None  # the same, of the request that is never answered
        self.ending: tuple[str, str, bool] | None = None  # see `end`
        self.rival: dict[str, Any] = {}  # see `overtake`
        self.lines: list[str] = []
        self.forced: list[bool] = []
        self.apitokens["gateway@pve!snapshots"] = "token"
        disk = {"scsi0": "local-lvm:vm-disk-0,size=4G", "memory": 512}
        self.add_vm(100, "web", status="running", config=dict(disk))
        self.add_vm(101, "off", config=dict(disk))
        self.add_vm(102, "paused", status="running", qmpstatus="paused", config=dict(disk))
        self.vm(102).stats["qmpstatus"] = "paused"  # FakePve does not list the value given above
        self.add_vm(103, "hibernated", lock="suspended", config=dict(disk))
        self.add_vm(104, "golden", template=True, config=dict(disk))
        self.add_vm(105, "elsewhere", node="pve2", status="running", config=dict(disk))

    def hold(self, point: str, until: str = "") -> None:
        """Makes tasks wait at `point`: a task type, before the task starts; or `disks`, when a snapshot is incomplete.

        They continue after the next GET whose path ends with `until`.
        """
        self.gates[point] = asyncio.Event()
        self.openers[until] = point
        self.time_scale = 1.0  # so that tasks do not end before the response with their UPID

    def lose(self, method: str, suffix: str) -> None:
        """The next request with this method and end of the path is executed, and its response is lost."""
        self.lost = (method, suffix)

    def ignore(self, method: str, suffix: str) -> None:
        """The next request with this method and end of the path is neither executed nor answered."""
        self.ignored = (method, suffix)

    def end(self, kind: str, exit_status: str, *, after: bool = False) -> None:
        """Tasks of this type end with `exit_status`: without doing their work, or `after` it."""
        self.ending = (kind, exit_status, after)

    def overtake(self, name: str, **values: Any) -> None:
        """Adds a snapshot of this name, as another client would, immediately before the next task works."""
        self.rival = {name: {"snaptime": 1, **values}}

    def say(self, *lines: str) -> None:
        """Sets the lines that the log of each task starts with."""
        self.lines = [*lines]

    def change(self, vmid: int, **values: Any) -> None:
        for name, value in values.items():
            setattr(self.vm(vmid), name, value)

    def set_snapshot(self, vmid: int, snapshot: str, **values: Any) -> None:
        """Changes properties of a snapshot."""
        self.vm(vmid).snapshots[snapshot] |= values

    def vm_snapshots(self, vmid: int) -> Any:
        return self.vm(vmid).snapshots

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)

    def get(self, name: str) -> Any:
        return getattr(self, name)

    def paths(self, method: str) -> list[str]:
        """The paths of all requests with this method, without the common prefix."""
        return [path.removeprefix("/api2/json/") for verb, path, _ in self.requests if verb == method]

    def forget_tasks(self) -> None:
        self.tasks.clear()
        self.tasklog.clear()

    async def task(self, node: str, ttype: str, tid: int, user: str, body: Any, **more: Any) -> Any:
        async def gated() -> Any:
            await self._wait_at(ttype)
            if self.rival:
                self.vm(tid).snapshots.update(self.rival)
                self.rival = {}
            kind, exit_status, after = self.ending or ("", "", False)
            done = await body() if ttype != kind or after else None
            if ttype == kind:
                raise TaskError(exit_status)
            return done

        return await super().task(node, ttype, tid, user, gated, **{**more, "log": [*self.lines]})

    async def ceph_io(self, vm: Any, keys: Any = None) -> None:
        await self._wait_at("disks")
        await super().ceph_io(vm, keys)

    async def _wait_at(self, point: str) -> None:
        if point in self.gates:
            await self.gates[point].wait()

    async def _qm_snapshot_delete(self, v: Any, user: str) -> Any:
        self.forced.append(bool(v.get("force")))
        return await super()._qm_snapshot_delete(v, user)

    async def _qm_snapshot_config_put(self, v: Any, user: str) -> Any:
        if lock := self.find(v["node"], v["vmid"]).lock:
            raise PveError(500, f"VM is locked ({lock})")
        return await super()._qm_snapshot_config_put(v, user)

    async def _answer(self, request: Any, handler: Any, generic: Any, path_node: Any) -> Any:
        if _matches(request, self.ignored):
            self.ignored = None
            await asyncio.Event().wait()
        answer = await super()._answer(request, handler, generic, path_node)
        if _matches(request, self.lost):
            self.lost = None
            request.transport.close()
        for until, point in self.openers.items():
            if until and request.method == "GET" and request.path.endswith(until):
                self.gates[point].set()
        return answer


def _matches(request: Any, which: tuple[str, str] | None) -> bool:
    return which is not None and request.method == which[0] and request.path.endswith(which[1])


async def main(directory: str) -> None:
    certificate, key, _ = make_cert(directory)
    cluster = Cluster()
    await cluster.start(certificate, key)
    loop = asyncio.get_running_loop()
    print(json.dumps({"port": cluster.port, "ca_file": certificate}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, arguments, options = json.loads(line)
        answer = getattr(cluster, name)(*arguments, **options)
        if asyncio.iscoroutine(answer):
            answer = await answer
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
