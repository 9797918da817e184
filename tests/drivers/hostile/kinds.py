"""The kinds of hostile providers, and the attacks of each."""

import contextlib
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from gateway.drivers.base import Driver
from gateway.drivers.options import Secret
from tests.drivers.hostile import images, libvirt_servers, services
from tests.drivers.hostile.server import ATTACKS, SLOW_ATTACKS, Attack, Elsewhere, HostileServer, hostile_server
from tests.limits.test_tls import write_certificate, write_key

__all__ = ["KINDS", "Case", "Elsewhere", "Kind"]

LOGIN = " (at the login)"
# Timeout in seconds of a driver that is not expected to reach it. A refusal must not depend on the machine's speed.
_PATIENT = 30.0


@dataclass(frozen=True, slots=True)
class Case:
    """An attack. `begin` starts it and returns the driver under attack; `end` ends it and returns the driver to use."""

    attack: str
    begin: Callable[[], Driver]
    end: Callable[[Driver], Driver]
    gone: bool = False  # whether the attack removes the machine or its snapshot, so that it is rightly marked as gone


@dataclass(frozen=True, slots=True)
class Kind:
    """A provider, its attacks, and a host that it is not configured with. `usual` makes a driver without an attack."""

    name: str
    usual: Callable[[], Driver]
    cases: Sequence[Case]
    elsewhere: Elsewhere


@dataclass(frozen=True, slots=True)
class _Http:
    """A driver that uses HTTP. `options`: from the URL of the provider, and the CA file if it uses TLS."""

    driver: str
    service: services.Service
    tls: bool
    has_login: bool
    options: Callable[[str, str | None], dict[str, Any]]


_PASSWORD = Secret("hush")
# Answers that can be read in part, and lack the snapshot in both readings.
_WITHOUT_THE_SNAPSHOT = {("ec2", "an image without a name and a time"), ("vsphere", "a machine without a state")}
_HTTP = {
    "Proxmox VE": _Http(
        "proxmox",
        services.PROXMOX,
        True,
        True,
        lambda url, ca: {"address": url, "user": "gateway@pve", "password": _PASSWORD, "ca_file": ca},
    ),
    "OpenStack": _Http(
        "openstack",
        services.OPENSTACK,
        True,
        True,
        lambda url, ca: {
            "address": f"{url}/identity/v3",
            "user": "gateway",
            "password": _PASSWORD,
            "project": "ours",
            "ca_file": ca,
        },
    ),
    "EC2": _Http(
        "ec2",
        services.EC2,
        False,  # the option that names a certificate authority is an environment variable
        False,
        lambda url, ca: {
            "address": url,
            "region": "eu-central-1",
            "access_key_id": "a",
            "secret_access_key": _PASSWORD,
        },
    ),
    "vSphere": _Http(
        "vsphere",
        services.VSPHERE,
        True,
        True,
        lambda url, ca: {"address": url, "user": "gateway", "password": _PASSWORD, "ca_file": ca},
    ),
}


@contextmanager
def http_kind(name: str, directory: Path, timeout: float) -> Iterator[Kind]:
    """A provider that is reached over HTTP. `timeout`: of the driver in slow attacks, in seconds."""
    http = _HTTP[name]
    module = import_module(f"gateway.drivers.{http.driver}.driver")
    certificate, tls = directory / "ca.pem", None
    if http.tls:
        key = directory / "ca.key"
        write_certificate(certificate, write_key(key))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)

    def make(url: str, ca_file: str | None = str(certificate), seconds: float = _PATIENT) -> Driver:
        driver: Driver = module.make("p", module.Options(**http.options(url, ca_file), timeout=seconds), 2)
        return driver

    with hostile_server(http.service, tls) as (server, elsewhere), hostile_server(http.service, None) as (plain, _):

        def end(driver: Driver) -> Driver:
            server.start(None)
            return driver

        def attacked(name: str, attack: Attack, at_login: bool) -> Driver:
            server.start(attack, at_login=at_login)
            return make(server.url, seconds=timeout if name in SLOW_ATTACKS else _PATIENT)

        def odd(answer: services.Odd, at_login: bool) -> Driver:
            server.serve_odd(answer, at_login=at_login)
            return make(server.url)

        cases = [Case(name, partial(attacked, name, attack, False), end) for name, attack in ATTACKS.items()]
        if http.has_login:
            cases += [
                Case(name + LOGIN, partial(attacked, name, attack, True), end) for name, attack in ATTACKS.items()
            ]
        cases += [
            Case(name, partial(odd, answer, False), end, (http.driver, name) in _WITHOUT_THE_SNAPSHOT)
            for name, answer in http.service.odd.items()
        ]
        cases += [
            Case(name + LOGIN, partial(odd, answer, True), end) for name, answer in http.service.odd_logins.items()
        ]
        if http.tls:
            cases += _tls_cases(server, plain.url, make)
        yield Kind(name, lambda: make(server.url), cases, elsewhere)


def _tls_cases(server: HostileServer, plain_url: str, make: Callable[..., Driver]) -> list[Case]:
    def end(_: Driver) -> Driver:
        return make(server.url)

    plain = plain_url.replace("http://127.0.0.1", "https://localhost")
    other_host = server.url.replace("localhost", "127.0.0.1")
    return [
        Case("certificate of an unknown authority", lambda: make(server.url, None), end),
        Case("certificate of another host", lambda: make(other_host), end),
        Case("no TLS", lambda: make(plain), end),
    ]


# ---- libvirt

_UUIDS = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222")
_DOMAIN = (
    "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><name>{name}</name><uuid>{uuid}</uuid>"
    "<memory>8192</memory><os><type>hvm</type></os>{more}{snapshots}</domain>"
)
_SNAPSHOT = (
    "<test:domainsnapshot xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><name>{name}</name>"
    "<description>{description}</description><state>shutoff</state><creationTime>{time}</creationTime>"
    "<active>0</active><domain type='test'><name>x</name><uuid>{uuid}</uuid><memory>8192</memory>"
    "<os><type>hvm</type></os></domain></test:domainsnapshot>"
)


def _node(name: str = "a", more: str = "", **snapshot: str) -> str:
    """The XML of libvirt's test driver. The first machine has the arguments' oddities."""
    usual = {"name": "before", "description": "", "time": "1500000000"}
    first, second = (
        _DOMAIN.format(name=name, uuid=uuid, more=more, snapshots=_SNAPSHOT.format(uuid=uuid, **usual | odd))
        for name, uuid, more, odd in ((name, _UUIDS[0], more, snapshot), ("b", _UUIDS[1], "", {}))
    )
    return f"<node>{first}{second}</node>"


_DEEP = "<metadata>" + "<a>" * 200 + "</a>" * 200 + "</metadata>"
_ODD_NODES = {
    "a time in milliseconds": _node(time="1500000000000"),
    "a time before 1970": _node(time="-5"),
    "a name of 1 MB": _node(name=services.LONG),
    "a description of 1 MB": _node(description=services.LONG),
    "the name of a snapshot of 1 MB": _node().replace("before", services.LONG, 1),
    "depth of 200": _node(more=_DEEP),
}


@contextmanager
def libvirt_kind(name: str, directory: Path, timeout: float) -> Iterator[Kind]:
    """A host of libvirt: the test driver of the library, and servers that do not speak its protocol."""
    module = import_module("gateway.drivers.libvirt.driver")

    def make(address: str, seconds: float = timeout) -> Driver:
        driver: Driver = module.LibvirtDriver(module.Options(address=address), 2, read_timeout=seconds)
        return driver

    def test_host(xml: str) -> Driver:
        file = directory / "node.xml"
        file.write_text(xml)
        return make(f"test://{file}", _PATIENT)

    def end(_: Driver) -> Driver:
        return test_host(_node())

    with contextlib.ExitStack() as stack:
        cases = [Case(attack, partial(test_host, xml), end) for attack, xml in _ODD_NODES.items()]
        for attack, serve in libvirt_servers.ATTACKS.items():
            port = stack.enter_context(libvirt_servers.server(serve))
            cases.append(Case(attack, partial(make, f"qemu+tcp://127.0.0.1:{port}/system"), end))
        elsewhere = Elsewhere()
        stack.callback(elsewhere.close)
        yield Kind(name, lambda: test_host(_node()), cases, elsewhere)


# ---- image directories


@contextmanager
def images_kind(name: str, directory: Path, _: float) -> Iterator[Kind]:
    """An image directory with two images, the first of which becomes hostile."""
    module = import_module("gateway.drivers.qcow2.driver")
    folder = directory / "images"
    folder.mkdir(exist_ok=True)
    first = folder / "a.qcow2"
    images.write_image(first, images.entry())
    images.write_image(folder / "b.qcow2", images.entry())

    def make() -> Driver:
        driver: Driver = module.Qcow2Driver(module.Options(directory=str(folder)), 2, _PATIENT)
        return driver

    def begin(attack: Callable[[Path], object]) -> Driver:
        attack(first)
        return make()

    def end(driver: Driver) -> Driver:
        images.remove(first)
        images.write_image(first, images.entry())
        return driver

    cases = [
        Case(attack, partial(begin, act), end, attack in images.REPLACED) for attack, act in images.ATTACKS.items()
    ]
    elsewhere = Elsewhere()
    try:
        yield Kind(name, make, cases, elsewhere)
    finally:
        elsewhere.close()


KINDS: dict[str, Callable[[str, Path, float], contextlib.AbstractContextManager[Kind]]] = {
    **dict.fromkeys(_HTTP, http_kind),
    "libvirt": libvirt_kind,
    "image directory": images_kind,
}
