"""A fleet with odd machines on libvirt's test driver: the real library, with machines of this process alone."""

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gateway.drivers.base import Driver
from tests.drivers.odd_fleet.fleets import NEW_SNAPSHOT, SNAPSHOTS, Fleet, Oddity, machine_name

PART = "libvirt"

_NAMESPACE = "http://libvirt.org/schemas/domain/test/1.0"
_DOMAIN = (
    f"<domain type='test' xmlns:test='{_NAMESPACE}'><name>{{name}}</name><uuid>{{uuid}}</uuid>{{more}}"
    "<memory>8192</memory><os><type>hvm</type></os>{snapshots}</domain>"
)
_SNAPSHOT = (
    f"<test:domainsnapshot xmlns:test='{_NAMESPACE}'><name>{{name}}</name><description>{{description}}</description>"
    "<state>shutoff</state><creationTime>{time}</creationTime><active>0</active><domain type='test'><name>x</name>"
    "<uuid>{uuid}</uuid><memory>8192</memory><os><type>hvm</type></os></domain></test:domainsnapshot>"
)
_LONG = "x" * 2**20
_DEEP = "<metadata><a xmlns='a'>" + "<a>" * 100 + "</a>" * 100 + "</a></metadata>"

# What the XML of the machine, or that of its first snapshot, has in place of the usual.
_MACHINES: dict[str, dict[str, str]] = {
    "a name of digits": {"name": "7"},
    "a name of 1 MB": {"name": _LONG},
    "a description of 1 MB": {"more": f"<description>{_LONG}</description>"},
    "metadata of depth 100": {"more": _DEEP},
}
_SNAPSHOTS: dict[str, dict[str, str]] = {
    "a snapshot with a time in milliseconds": {"time": "1500000000000"},
    "a snapshot with a time before 1970": {"time": "-5"},
    "a snapshot with a name of 1 MB": {"name": _LONG},
    "a snapshot with a description of 1 MB": {"description": _LONG},
}


def _no_text() -> str:
    return b"\xff".decode()


def _error() -> object:
    library = importlib.import_module("libvirt")
    raise library.libvirtError("internal error: unable to format the XML")


# What a method of the library returns or raises for the machine, or for its first snapshot.
_MACHINE_METHODS: dict[str, tuple[str, Callable[[], object]]] = {
    "a name that is not UTF-8": ("name", _no_text),
    "XML that the library cannot format": ("XMLDesc", _error),
    "XML that is not UTF-8": ("XMLDesc", _no_text),  # as in pull request 255 of kimchi's wok
    "XML that is truncated": ("XMLDesc", lambda: "<domain><name>"),
    "a state that the library cannot read": ("state", _error),
    "a state that is a text": ("state", lambda: ["odd", 0]),
}
_SNAPSHOT_METHODS: dict[str, tuple[str, Callable[[], object]]] = {
    "a snapshot with XML that is truncated": ("getXMLDesc", lambda: "<domainsnapshot>"),
    "a snapshot with XML that the library cannot format": ("getXMLDesc", _error),
    "a snapshot without a time": ("getXMLDesc", lambda: "<domainsnapshot/>"),
    "a snapshot with a time that is a text": (
        "getXMLDesc",
        lambda: "<domainsnapshot><creationTime>yesterday</creationTime></domainsnapshot>",
    ),
    "a snapshot with a name that is not UTF-8": ("getName", _no_text),
}

_TOO_LONG = "is too long"
ODDITIES: dict[str, Oddity] = {
    "a name of digits": Oddity(None, name="7"),
    "a name of 1 MB": Oddity(f"The name was changed, because it {_TOO_LONG}", name="x" * 1_024),
    "a description of 1 MB": Oddity(f"The description was changed, because it {_TOO_LONG}"),
    "metadata of depth 100": Oddity(None),
    "a name that is not UTF-8": Oddity("The name is missing or malformed", name="{ref}"),
    "XML that the library cannot format": Oddity("The description cannot be read: internal error"),
    "XML that is not UTF-8": Oddity("The description is missing or malformed"),
    "XML that is truncated": Oddity("The description is missing or malformed"),
    "a state that the library cannot read": Oddity("The power state cannot be read: internal error"),
    "a state that is a text": Oddity(None),
    "a snapshot with a time in milliseconds": Oddity("The creation time '1500000000000' is not a valid number"),
    "a snapshot with a time before 1970": Oddity("The creation time 1969-12-31T23:59:55+00:00 is out of range"),
    "a snapshot with a name of 1 MB": Oddity("A snapshot was left out. The provider's identifier 'xxx"),
    "a snapshot with a description of 1 MB": Oddity(f"The description was changed, because it {_TOO_LONG}"),
    "a snapshot with XML that is truncated": Oddity("Snapshot 'first': The creation time is missing or malformed"),
    "a snapshot with XML that the library cannot format": Oddity("The creation time cannot be read: internal error"),
    "a snapshot without a time": Oddity("The creation time is missing"),
    "a snapshot with a time that is a text": Oddity("The creation time 'yesterday' is not a valid number of seconds"),
    "a snapshot with a name that is not UTF-8": Oddity("An entry of the provider's response is malformed"),
}


def lacking() -> str | None:
    return None if importlib.util.find_spec("libvirt") else "libvirt's Python binding is not installed"


class _LibvirtFleet:
    def __init__(self, directory: Path, size: int) -> None:
        self._directory = directory
        self._size = size
        self._library: Any = importlib.import_module("libvirt")
        self._name_of_snapshot = self._library.virDomainSnapshot.getName  # also while it is patched
        self._numbers = itertools.count()
        self.patches = ExitStack()

    def ref(self, number: int) -> str:
        return f"5a1b7e0c-0000-4000-8000-{number:012}"

    def driver(self, odd: Mapping[int, str], removed: int | None, extended: int | None) -> Driver:
        self.patches.close()
        machines = [
            self._machine(number, odd.get(number, ""), number == extended)
            for number in range(self._size)
            if number != removed
        ]
        node = self._directory / f"node-{next(self._numbers)}.xml"
        node.write_text(f"<node>{''.join(machines)}</node>")
        for number, name in odd.items():
            self._patch(number, name)
        module = importlib.import_module("gateway.drivers.libvirt.driver")
        driver: Driver = module.LibvirtDriver(module.Options(address=f"test://{node}"), 2)
        return driver

    def _machine(self, number: int, odd: str, extended: bool) -> str:
        uuid = self.ref(number)
        snapshots = []
        for name in (*SNAPSHOTS, NEW_SNAPSHOT) if extended else SNAPSHOTS:
            usual = {"name": name, "description": "", "time": "1500000000"}
            changed = _SNAPSHOTS.get(odd, {}) if name == SNAPSHOTS[0] else {}
            snapshots.append(_SNAPSHOT.format(uuid=uuid, **(usual | changed)))
        fields = {"name": machine_name(number), "more": ""} | _MACHINES.get(odd, {})
        return _DOMAIN.format(uuid=uuid, snapshots="".join(snapshots), **fields)

    def _patch(self, number: int, name: str) -> None:
        """Replaces a method of the library for one machine, or for its first snapshot."""
        ref = self.ref(number)
        if name in _MACHINE_METHODS:
            self._replace(self._library.virDomain, *_MACHINE_METHODS[name], lambda domain: domain.UUIDString() == ref)
        elif name in _SNAPSHOT_METHODS:
            self._replace(
                self._library.virDomainSnapshot,
                *_SNAPSHOT_METHODS[name],
                lambda snapshot: (
                    self._name_of_snapshot(snapshot) == SNAPSHOTS[0] and snapshot.getDomain().UUIDString() == ref
                ),
            )

    def _replace(self, class_: type, method: str, result: Callable[[], object], applies: Callable[[Any], bool]) -> None:
        original = getattr(class_, method)

        def replacement(self: Any, *arguments: object) -> object:
            return result() if applies(self) else original(self, *arguments)

        self.patches.enter_context(patch.object(class_, method, replacement))


@contextmanager
def fleet(directory: Path, size: int) -> Iterator[Fleet]:
    """Machines of libvirt's test driver."""
    made = _LibvirtFleet(directory, size)
    with made.patches:
        yield made
