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


class Cluster(FakePve):  # type: ignore[misc]
    """A FakePve whose tasks can be held, and whose answers can be lost."""

    def __init__(self) -> None:
        super().__init__(user="gateway@pve", password="secret", host="127.0.0.1", port=0)
        self.gates: dict[str, asyncio.Event] = {}
        self.lost: tuple[str, str] | None = None

    def hold(self, point: str) -> None:
        """Tasks wait at `point`: before the type of that name begins, or at `disks`, when a snapshot is half-made."""
        self.gates[point] = asyncio.Event()
        self.time_scale = 1.0  # tasks go on by themselves

    def release(self, point: str) -> None:
        self.gates.pop(point).set()

    def lose(self, method: str, suffix: str) -> None:
        """The next such request is done, and its answer lost."""
        self.lost = (method, suffix)

    def change(self, vmid: int, **values: Any) -> None:
        for name, value in values.items():
            setattr(self.vm(vmid), name, value)

    def look(self, vmid: int, name: str) -> Any:
        return getattr(self.vm(vmid), name)

    def leave(self, vmid: int, snapshot: str, **values: Any) -> None:
        """A snapshot's own entries are something else."""
        self.vm(vmid).snapshots[snapshot] |= values

    def asked(self, method: str) -> list[str]:
        """What was asked for, without the common beginning of the paths."""
        return [path.removeprefix("/api2/json/") for verb, path, _ in self.requests if verb == method]

    def forget_tasks(self) -> None:
        self.tasks, self.tasklog = {}, []

    def tell(self, exitstatus: str, *lines: str) -> None:
        """What the last task has left."""
        self.tasklog[-1].update(exitstatus=exitstatus, log=list(lines))

    async def task(self, node: str, ttype: str, tid: int, user: str, body: Any, **more: Any) -> Any:
        async def gated() -> Any:
            await self._pass(ttype)
            return await body()

        return await super().task(node, ttype, tid, user, gated, **more)

    async def ceph_io(self, vm: Any, keys: Any = None) -> None:
        await self._pass("disks")
        await super().ceph_io(vm, keys)

    async def _pass(self, point: str) -> None:
        if point in self.gates:
            await self.gates[point].wait()

    async def _answer(self, request: Any, handler: Any, generic: Any, path_node: Any) -> Any:
        answer = await super()._answer(request, handler, generic, path_node)
        if self.lost and request.method == self.lost[0] and request.path.endswith(self.lost[1]):
            self.lost = None
            request.transport.close()
        return answer


async def main(directory: str) -> None:
    certificate, key, _ = make_cert(directory)
    cluster = Cluster()
    cluster.apitokens["gateway@pve!snapshots"] = "token"
    disk = {"scsi0": "local-lvm:vm-disk-0,size=4G", "memory": 512}
    cluster.add_vm(100, "web", status="running", config=dict(disk))
    cluster.add_vm(101, "off", config=dict(disk))
    cluster.add_vm(102, "paused", status="running", qmpstatus="paused", config=dict(disk))
    cluster.vm(102).stats["qmpstatus"] = "paused"  # which its listings leave out
    cluster.add_vm(103, "hibernated", lock="suspended", config=dict(disk))
    cluster.add_vm(104, "golden", template=True, config=dict(disk))
    cluster.add_vm(105, "elsewhere", node="pve2", status="running", config=dict(disk))
    cluster.add_ct(200, "container")
    await cluster.start(certificate, key)
    loop = asyncio.get_running_loop()
    print(json.dumps({"port": cluster.port, "ca_file": certificate}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, arguments, options = json.loads(line)
        answer = getattr(cluster, name)(*arguments, **options)
        if asyncio.iscoroutine(answer):
            answer = await answer
        print(json.dumps(answer, default=str), flush=True)
    await cluster.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
