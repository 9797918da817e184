"""A stand-in for a Proxmox VE cluster, as a process of its own: `python -m tests.hypervisors.proxmox DIRECTORY`.

It is told over standard input what goes wrong, a JSON object a line, and ends with it. Nothing else imports fakepve,
which is under the AGPL.
"""

import asyncio
import json
import sys
from typing import Any

from fakepve import FakePve  # type: ignore[import-untyped]
from fakepve.certs import make_cert  # type: ignore[import-untyped]
from fakepve.model import Model, TaskError  # type: ignore[import-untyped]


class Cluster(FakePve):  # type: ignore[misc]
    """A FakePve whose tasks can be held, fail in any words and be overtaken, and whose answers can be lost."""

    def __init__(self) -> None:
        super().__init__(host="127.0.0.1", port=0)
        self.gates: dict[str, asyncio.Event] = {}
        self.reset()
        self.add_ct(200, "container")

    def reset(self) -> None:
        """Everything as it was at first, but the container, which nobody touches."""
        Model.__init__(self, user="gateway@pve", password="secret")
        for gate in self.gates.values():
            gate.set()
        self.gates = {}  # where tasks wait
        self.openers: dict[str, str] = {}  # which answered question opens which gate
        self.lost: tuple[str, str] | None = None  # whose answer
        self.silent: tuple[str, str] | None = None
        self.words: tuple[str, str, bool] | None = None
        self.rival: dict[str, Any] = {}
        self.lines: list[str] = []
        self.forced: list[bool] = []
        self.apitokens["gateway@pve!snapshots"] = "token"
        disk = {"scsi0": "local-lvm:vm-disk-0,size=4G", "memory": 512}
        self.add_vm(100, "web", status="running", config=dict(disk))
        self.add_vm(101, "off", config=dict(disk))
        self.add_vm(102, "paused", status="running", qmpstatus="paused", config=dict(disk))
        self.vm(102).stats["qmpstatus"] = "paused"  # which its listings leave out
        self.add_vm(103, "hibernated", lock="suspended", config=dict(disk))
        self.add_vm(104, "golden", template=True, config=dict(disk))
        self.add_vm(105, "elsewhere", node="pve2", status="running", config=dict(disk))

    def hold(self, point: str, until: str = "") -> None:
        """Tasks wait at `point`: before the type of that name begins, or at `disks`, when a snapshot is half-made.

        They go on once a question that ends with `until` has been answered.
        """
        self.gates[point] = asyncio.Event()
        self.openers[until] = point
        self.time_scale = 1.0  # so that tasks are not done before they are told of

    def lose(self, method: str, suffix: str) -> None:
        """The next such request is done, and its answer lost."""
        self.lost = (method, suffix)

    def ignore(self, method: str, suffix: str) -> None:
        """The next such request is never answered, and nothing done."""
        self.silent = (method, suffix)

    def end(self, kind: str, words: str, *, after: bool = False) -> None:
        """Tasks of this kind end with `words`: instead of working, or afterwards."""
        self.words = (kind, words, after)

    def overtake(self, name: str, **values: Any) -> None:
        """There is a snapshot of this name before the next task can make one."""
        self.rival = {name: {"snaptime": 1, **values}}

    def say(self, *lines: str) -> None:
        """What the logs of tasks have in them from the beginning."""
        self.lines = [*lines]

    def change(self, vmid: int, **values: Any) -> None:
        for name, value in values.items():
            setattr(self.vm(vmid), name, value)

    def leave(self, vmid: int, snapshot: str, **values: Any) -> None:
        """Entries of a snapshot are something else from now on."""
        self.vm(vmid).snapshots[snapshot] |= values

    def vm_snapshots(self, vmid: int) -> Any:
        return self.vm(vmid).snapshots

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)

    def tell(self, name: str) -> Any:
        return getattr(self, name)

    def asked(self, method: str) -> list[str]:
        """The paths of such requests, without their common beginning."""
        return [path.removeprefix("/api2/json/") for verb, path, _ in self.requests if verb == method]

    def forget_tasks(self) -> None:
        self.tasks.clear()
        self.tasklog.clear()

    async def task(self, node: str, ttype: str, tid: int, user: str, body: Any, **more: Any) -> Any:
        async def gated() -> Any:
            await self._pass(ttype)
            if self.rival:
                self.vm(tid).snapshots.update(self.rival)
                self.rival = {}
            kind, words, after = self.words or ("", "", False)
            done = await body() if ttype != kind or after else None
            if ttype == kind:
                raise TaskError(words)
            return done

        return await super().task(node, ttype, tid, user, gated, **{**more, "log": [*self.lines]})

    async def ceph_io(self, vm: Any, keys: Any = None) -> None:
        await self._pass("disks")
        await super().ceph_io(vm, keys)

    async def _pass(self, point: str) -> None:
        if point in self.gates:
            await self.gates[point].wait()

    async def _qm_snapshot_delete(self, v: Any, user: str) -> Any:
        self.forced.append(bool(v.get("force")))
        return await super()._qm_snapshot_delete(v, user)

    async def _answer(self, request: Any, handler: Any, generic: Any, path_node: Any) -> Any:
        if _is(request, self.silent):
            self.silent = None
            await asyncio.Event().wait()
        answer = await super()._answer(request, handler, generic, path_node)
        if _is(request, self.lost):
            self.lost = None
            request.transport.close()
        for until, point in self.openers.items():
            if until and request.method == "GET" and request.path.endswith(until):
                self.gates[point].set()
        return answer


def _is(request: Any, which: tuple[str, str] | None) -> bool:
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
