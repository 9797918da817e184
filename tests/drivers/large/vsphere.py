"""Many machines and snapshots on a vCenter whose responses are made here, as XML."""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.drivers.options import Secret
from gateway.drivers.vsphere.driver import Options, VsphereDriver
from tests.drivers.loop_time.worlds import LargeWorld
from tests.drivers.odd.vsphere import ANSWERS, ENVELOPE, VIEW, property_set
from tests.drivers.odd_fleet.serving import served
from tests.limits.test_tls import write_certificate, write_key

PART = "vsphere"

_TASK = (
    '<returnval>{0}<objects><obj type="Task">task-{1}</obj><propSet><name>info</name><val xsi:type="TaskInfo"><key>k'
    '</key><task type="Task">task-{1}</task><descriptionId>snapshot</descriptionId><state>success</state>'
    "<cancelled>false</cancelled><cancelable>false</cancelable>{2}<queueTime>2026-01-01T00:00:00Z</queueTime><eventChainId>1"
    "</eventChainId></val></propSet></objects></returnval>"
)
_RESULT = '<result type="VirtualMachineSnapshot" xsi:type="ManagedObjectReference">{}</result>'


def lacking() -> str | None:
    return None


class _Center:
    """A vCenter whose machine vm-0 has a chain of snapshots. It executes each task at once."""

    def __init__(self, machines: int, snapshots: int) -> None:
        self._machines = [self._machine(number) for number in range(machines)]
        self._chain = {f"snapshot-{number}": ("by hand", f"snapshot {number}") for number in range(snapshots)}
        self._results: list[str] = []

    def respond(self, request: str) -> str:
        method = re.findall('<([A-Za-z_]+) xmlns="urn:vim25">', request)[0]
        return ENVELOPE.format(method, self._answer(method, request))

    def _answer(self, method: str, request: str) -> str:
        if method in ANSWERS:
            return ANSWERS[method]
        snapshot = re.search('type="VirtualMachineSnapshot">(snapshot-[a-z0-9]+)<', request)
        if method == "RetrievePropertiesEx":
            return self._properties(request)
        if method == "RenameSnapshot":
            return ""
        result = ""
        if method == "CreateSnapshot_Task":
            name, description = (re.findall(f"<{tag}[^>]*>([^<]*)<", request)[0] for tag in ("name", "description"))
            ref = f"snapshot-made{len(self._results)}"
            self._chain[ref], result = (description, name), _RESULT.format(ref)
        elif method == "RemoveSnapshot_Task":
            assert snapshot is not None
            del self._chain[snapshot[1]]
        self._results.append(result)
        return f'<returnval type="Task">task-{len(self._results) - 1}</returnval>'

    def _properties(self, request: str) -> str:
        if task := re.search(">task-([0-9]+)<", request):
            return _TASK.format("", task[1], self._results[int(task[1])])
        if ">vm-0<" not in request:
            return f"<returnval>{VIEW}{''.join(self._machines)}</returnval>"
        more = self._snapshots() if ">snapshot<" in request else ""
        return f"<returnval>{self._machines[0].replace('</objects>', f'{more}</objects>')}</returnval>"

    def _machine(self, number: int) -> str:
        properties = (
            property_set("name", "xsd:string", f"machine-{number}"),
            property_set("runtime.connectionState", "VirtualMachineConnectionState", "connected"),
            property_set("runtime.powerState", "VirtualMachinePowerState", "poweredOff"),
        )
        return f'<objects><obj type="VirtualMachine">vm-{number}</obj>{"".join(properties)}</objects>'

    def _snapshots(self) -> str:
        starts, element = [], "rootSnapshotList"
        for ref, (description, name) in self._chain.items():
            starts.append(
                f'<{element}><snapshot type="VirtualMachineSnapshot">{ref}</snapshot>'
                f'<vm type="VirtualMachine">vm-0</vm><name>{name}</name>'
                f"<description>{description}</description><id>1</id>"
                "<createTime>2026-01-02T00:00:00Z</createTime><state>poweredOff</state><quiesced>false</quiesced>"
            )
            element = "childSnapshotList"
        ends = "</childSnapshotList>" * (len(starts) - 1) + "</rootSnapshotList>"
        current = f'<currentSnapshot type="VirtualMachineSnapshot">{[*self._chain][-1]}</currentSnapshot>'
        return property_set("snapshot", "VirtualMachineSnapshotInfo", "".join([current, *starts, ends]))


@contextmanager
def world(directory: Path, machines: int, snapshots: int) -> Iterator[LargeWorld]:
    """The first machine has the chain of snapshots."""
    certificate, key = directory / "ca.pem", directory / "ca.key"
    write_certificate(certificate, write_key(key))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    center = _Center(machines, snapshots)
    with served(center.respond, tls) as port:
        options = Options(address=f"https://localhost:{port}", user="u", password=Secret("p"), ca_file=str(certificate))
        yield LargeWorld(VsphereDriver(options, 2, settle=0.0), "vm-0")
