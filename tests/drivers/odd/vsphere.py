"""A fleet with odd machines on a vCenter whose responses are made here, as XML."""

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gateway.drivers.base import Driver
from gateway.drivers.options import Secret
from gateway.drivers.vsphere.driver import Options, make
from tests.drivers.odd_fleet.fleets import NEW_SNAPSHOT, SNAPSHOTS, Fleet, Oddity, machine_name
from tests.drivers.odd_fleet.serving import served
from tests.limits.test_tls import write_certificate, write_key

PART = "vsphere"

ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>'
    '<{0}Response xmlns="urn:vim25">{1}</{0}Response></soapenv:Body></soapenv:Envelope>'
)
_CONTENT = (
    '<returnval><rootFolder type="Folder">group-d1</rootFolder><propertyCollector type="PropertyCollector">pc'
    '</propertyCollector><viewManager type="ViewManager">views</viewManager><about><name>vCenter</name></about>'
    '<sessionManager type="SessionManager">sessions</sessionManager></returnval>'
)
VIEW = (
    '<objects><obj type="ContainerView">view</obj><propSet><name>type</name><val xsi:type="ArrayOfString"><string>'
    "VirtualMachine</string></val></propSet></objects>"
)
ANSWERS = {
    "RetrieveServiceContent": _CONTENT,
    "Login": "<returnval><key>k</key><userName>u</userName><fullName>u</fullName></returnval>",
    "Logout": "",
    "CreateContainerView": '<returnval type="ContainerView">view</returnval>',
}

_LONG = "x" * 2**20
_DEEP = "<a>" * 2_000 + "</a>" * 2_000
_CREATED, _TAKEN = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
_NO_PERMISSION = (
    '<missingSet><path>name</path><fault><fault xsi:type="NoPermission"><object type="Folder">f</object><privilegeId>'
    "System.Read</privilegeId></fault><localizedMessage>no</localizedMessage></fault></missingSet></objects>"
)
_GONE = (
    '<objects><obj type="VirtualMachine">{0}</obj><missingSet><path>name</path><fault><fault xsi:type="'
    'ManagedObjectNotFound"><obj type="VirtualMachine">{0}</obj></fault><localizedMessage>gone</localizedMessage>'
    "</fault></missingSet></objects>"
)
_CONFIGURATION = ("config.createDate", "summary.config.template", "summary.config.annotation")
_UNIDENTIFIED = Oddity("The provider's identifier '' is not valid.", identified=False)

Change = Callable[[str], str]


def _text(old: str, new: str) -> Change:
    return lambda xml: xml.replace(old, new)


def _name(new: str) -> Change:
    return lambda xml: re.sub(">machine-[0-9]+<", lambda _: f">{new}<", xml)


def _without(*properties: str) -> Change:
    """A machine without these properties, such as an orphaned one, which has no configuration."""
    names = "|".join(map(re.escape, properties))
    return lambda xml: re.sub(f"<propSet><name>({names})</name><val [^>]*>[^<]*</val></propSet>", "", xml)


# The change of the XML of the machine, or of its first snapshot, and what is expected.
_MACHINES: dict[str, tuple[Change, Oddity]] = {
    "a time that is no time": (_text(_CREATED, "yesterday"), Oddity("The creation time is not a time: 'yesterday'.")),
    "a time in milliseconds": (_text(_CREATED, "1700000000000"), Oddity("The creation time is not a time: '17000")),
    "a time in the year 1": (_text(_CREATED, "0001-01-01T00:00:00Z"), Oddity("The creation time 0001-01-01T00:00")),
    "a time without an offset": (_text(_CREATED, "2026-01-01T00:00:00"), Oddity(None)),
    "a name of 1 MB": (_name(_LONG), Oddity("The name was changed", name=_LONG[:1_024])),
    "a name with control characters": (_name("a\1&#2;b"), Oddity(None, name="a\ufffd\ufffdb")),
    "a name with half a surrogate": (_name("a\ud800&#xD800;b"), Oddity(None, name="a" + "\ufffd" * 4 + "b")),
    "a description of depth 2,000": (
        _text(">described<", f">{_DEEP}<"),
        Oddity("The provider did not report 'a', or in a malformed way."),
    ),
    "a name that is a number": (
        lambda xml: re.sub('"xsd:string">machine-[0-9]+<', '"xsd:int">7<', xml),
        Oddity("The name is missing or malformed.", name="{ref}"),
    ),
    "an unknown power state": (_text(">poweredOn<", ">molten<"), Oddity("The power state is missing or malformed.")),
    "a value of an unknown type": (
        _text('"VirtualMachinePowerState"', '"Plasma"'),
        Oddity("The power state is missing or malformed."),
    ),
    "an unknown element": (_text("<propSet><name>name<", "<propSet><x>1</x><name>name<"), Oddity(None)),
    # github.com/ansible/ansible/issues/57642
    "an orphaned machine": (
        lambda xml: _without(*_CONFIGURATION)(xml).replace(">connected<", ">orphaned<"),
        Oddity(None),
    ),
    "a machine without a configuration and a name": (
        _without("name", *_CONFIGURATION),
        Oddity("The name is missing or malformed.", name="{ref}"),
    ),
    "a machine without a state": (
        _without("runtime.powerState", "runtime.connectionState"),
        Oddity("The power state is missing or malformed."),
    ),
    "a template flag that is a text": (_text(">false<", ">maybe<"), Oddity(None)),
    "a machine that the user may not read": (
        _text("</objects>", _NO_PERMISSION),
        Oddity("The gateway's user lacks a permission at the provider."),
    ),
    "an object of another type": (_text('<obj type="VirtualMachine"', '<obj type="Folder"'), _UNIDENTIFIED),
    "an object of an unknown type": (_text('<obj type="VirtualMachine"', '<obj type="Plasma"'), _UNIDENTIFIED),
    "no id": (lambda xml: re.sub(">vm-[0-9]+<", "><", xml), _UNIDENTIFIED),
}  # fmt: skip
_SNAPSHOTS: dict[str, tuple[Change, Oddity]] = {
    "a snapshot without a time": (
        _text(f"<createTime>{_TAKEN}</createTime>", ""),
        Oddity("The creation time is missing."),
    ),
    "a snapshot with a time that is no time": (_text(_TAKEN, "yesterday"), Oddity("The creation time is not a time")),
    "a snapshot with a time in milliseconds": (_text(_TAKEN, "1700000000000"), Oddity("The creation time is not a")),
    "a snapshot with a time without an offset": (_text(_TAKEN, "2026-01-02T00:00:00"), Oddity(None)),
    "a snapshot with a name of 1 MB": (
        _text("<name>first<", f"<name>{_LONG}<"),
        Oddity("The name was changed", snapshots=("second", _LONG[:1_024])),
    ),
    "a snapshot with a description of 1 MB of blanks": (
        _text("<description></", f"<description>{' ' * 2**20}</"),
        Oddity("The description was changed"),
    ),
    "a snapshot with an unknown state": (_text("<state>poweredOff<", "<state>molten<"), Oddity(None)),
    "a snapshot without an id": (
        lambda xml: re.sub('<snapshot type="VirtualMachineSnapshot">[^<]*</snapshot>', "", xml),
        Oddity("A snapshot was left out."),
    ),
    "a snapshot of an unknown type": (
        _text("<rootSnapshotList>", '<rootSnapshotList xsi:type="Plasma">'),
        Oddity("The provider did not report 'rootSnapshotList', or in a malformed way."),
    ),
}
ODDITIES: Mapping[str, Oddity] = {name: oddity for name, (_, oddity) in (_MACHINES | _SNAPSHOTS).items()}


def lacking() -> str | None:
    return None


def property_set(name: str, type_: str, value: str) -> str:
    """A property of an object in a response of the property collector."""
    return f'<propSet><name>{name}</name><val xsi:type="{type_}">{value}</val></propSet>'


class _Center:
    def __init__(self, size: int, ca_file: Path) -> None:
        self._size = size
        self._ca_file = ca_file
        self._odd: Mapping[int, str] = {}
        self._removed: int | None = None
        self._extended: int | None = None
        self.port = 0

    def ref(self, number: int) -> str:
        return f"vm-{number + 100}"

    def driver(self, odd: Mapping[int, str], removed: int | None, extended: int | None) -> Driver:
        self._odd, self._removed, self._extended = odd, removed, extended
        address = f"https://localhost:{self.port}"
        return make("fleet", Options(address=address, user="u", password=Secret("p"), ca_file=str(self._ca_file)), 2)

    def respond(self, request: str) -> str:
        method = re.findall('<([A-Za-z]+) xmlns="urn:vim25">', request)[0]
        if method in ANSWERS:
            return ENVELOPE.format(method, ANSWERS[method])
        chosen = [int(number) - 100 for number in re.findall(">vm-([0-9]+)<", request)]
        if chosen == [self._removed]:
            return ENVELOPE.format(method, f"<returnval>{_GONE.format(self.ref(chosen[0]))}</returnval>")
        machines = "".join(map(self._machine, chosen or [each for each in range(self._size) if each != self._removed]))
        return ENVELOPE.format(method, f"<returnval>{'' if chosen else VIEW}{machines}</returnval>")

    def _machine(self, number: int) -> str:
        change, _ = _MACHINES.get(self._odd.get(number, ""), (str, None))
        properties = (
            property_set("name", "xsd:string", machine_name(number)),
            property_set("runtime.connectionState", "VirtualMachineConnectionState", "connected"),
            property_set("runtime.powerState", "VirtualMachinePowerState", "poweredOn"),
            property_set("summary.config.template", "xsd:boolean", "false"),
            property_set("summary.config.annotation", "xsd:string", "described"),
            property_set("config.createDate", "xsd:dateTime", _CREATED),
            property_set("snapshot", "VirtualMachineSnapshotInfo", self._snapshots(number)),
        )
        return change(f'<objects><obj type="VirtualMachine">{self.ref(number)}</obj>{"".join(properties)}</objects>')

    def _snapshots(self, number: int) -> str:
        change, _ = _SNAPSHOTS.get(self._odd.get(number, ""), (str, None))
        names = (*SNAPSHOTS, NEW_SNAPSHOT) if number == self._extended else SNAPSHOTS
        first, *others = (
            f'<rootSnapshotList><snapshot type="VirtualMachineSnapshot">snapshot-{number}-{name}</snapshot><vm type='
            f'"VirtualMachine">{self.ref(number)}</vm><name>{name}</name><description></description><id>1</id>'
            f"<createTime>{_TAKEN}</createTime><state>poweredOff</state><quiesced>false</quiesced></rootSnapshotList>"
            for name in names
        )
        current = f'<currentSnapshot type="VirtualMachineSnapshot">snapshot-{number}-{names[-1]}</currentSnapshot>'
        return "".join([current, change(first), *others])


@contextmanager
def fleet(directory: Path, size: int) -> Iterator[Fleet]:
    """Machines of one vCenter."""
    certificate, key = directory / "ca.pem", directory / "ca.key"
    write_certificate(certificate, write_key(key))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    center = _Center(size, certificate)
    with served(center.respond, tls) as center.port:
        yield center
