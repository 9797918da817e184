"""From configuration to drivers: reads the tables of providers, says what is wrong with each, and makes their drivers.

A driver's module is imported when a provider needs it, so that its client library is needed, and loaded, only then.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from gateway.config import Settings, from_environment
from gateway.drivers.base import Driver
from gateway.drivers.options import Secret, read_options
from gateway.errors import StartupError

SIMULATED = "simulated"  # made by `app`, because it lives in the gateway's own database

DRIVERS = ("ec2", "libvirt", "openstack", "proxmox", "qcow2", SIMULATED, "vsphere")

CONCURRENCY = 4

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class _Module(Protocol):
    """What is known of a driver's module."""

    Options: type[Any]

    @staticmethod
    def make(provider: str, options: Any, concurrency: int) -> Driver: ...


@dataclass(frozen=True, slots=True)
class ConfiguredProvider:
    """A provider as it is configured. `concurrency`: how many of its operations may be under way at once."""

    name: str
    driver: str
    tenant: str
    concurrency: int
    options: Any

    def make(self) -> Driver:
        """A driver that has not connected yet."""
        return _module(self.driver).make(self.name, self.options, self.concurrency)


def read_providers(settings: Settings) -> list[ConfiguredProvider]:
    """The providers that are configured. Raises StartupError with a message per fault."""
    faults: list[str] = []
    providers: dict[str, ConfiguredProvider] = {}
    for name, table in _tables(settings).items():
        provider, wrong = _read(name, table, settings)
        faults += [f"provider {name!r} {fault}" for fault in wrong]
        if provider is not None:
            providers[name] = provider
    if faults:
        raise StartupError(*faults)
    return list(providers.values())


def _tables(settings: Settings) -> dict[str, Any]:
    """The tables of all sources, by the provider's name."""
    tables: dict[str, Any] = {}
    if settings.providers_file:
        try:
            text = Path(settings.providers_file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise StartupError(f"the file of providers {settings.providers_file} cannot be read: {reason}") from None
        tables |= _parse(text, f"the file of providers {settings.providers_file}")
    for name, table in _parse(settings.providers, "GATEWAY_PROVIDERS").items():
        if name in tables:
            raise StartupError(f"provider {name!r} is both in GATEWAY_PROVIDERS and in GATEWAY_PROVIDERS_FILE")
        tables[name] = table
    if settings.images:
        tables["images"] = {"driver": "qcow2", "directory": settings.images}
    return tables


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StartupError(f"{source} is not TOML: {error}") from None


def _read(name: str, table: Any, settings: Settings) -> tuple[ConfiguredProvider | None, list[str]]:
    if not _NAME.fullmatch(name):
        return None, [
            "must have a name of 1 to 63 letters, digits, '.', '_' and '-', beginning with one of the first two"
        ]
    if not isinstance(table, dict):
        return None, [f'must be a table, such as [{name}] and below it driver = "libvirt"']
    table = dict(table)
    driver = table.pop("driver", None)
    if driver not in DRIVERS:
        problem = "needs a driver" if driver is None else f"has a driver {driver!r} that is not known"
        return None, [f"{problem}; it may be one of {', '.join(DRIVERS)}"]
    faults = []
    tenant = table.pop("tenant", settings.tenant)
    if not isinstance(tenant, str) or not tenant:
        faults.append(f"has a tenant {tenant!r}, which must be text")
    concurrency = table.pop("concurrency", CONCURRENCY)
    if type(concurrency) is not int or concurrency < 1:
        faults.append(f"has a concurrency {concurrency!r}, which must be a whole number of at least 1")
    try:
        module = _module(driver)
    except ImportError as error:
        return None, [*faults, _lacking(driver, error)]
    options, wrong = read_options(module.Options, table, _reveal)
    if options is None or faults:
        return None, faults + wrong
    return ConfiguredProvider(name, driver, tenant, concurrency, options), []


def _module(driver: str) -> _Module:
    package = "simulator" if driver == SIMULATED else driver
    module: Any = import_module(f"gateway.drivers.{package}.driver")
    found: _Module = module
    return found


def _lacking(driver: str, error: ImportError) -> str:
    return f"has the driver {driver}, which needs its extra: pip install 'snapshot-gateway[{driver}]' ({error})"


def _reveal(name: str, value: Any) -> Secret:
    """A secret of the environment or of a file. Raises ValueError."""
    match value:
        case {"env": str(variable), **others} if not others:
            found = from_environment(variable)
            if not found:
                raise ValueError(f"takes {name!r} from the environment, where {variable} is not set")
        case {"file": str(path), **others} if not others:
            try:
                found = Path(path).read_text("utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                raise ValueError(f"takes {name!r} from the file {path}, which cannot be read: {reason}") from None
            if not found:
                raise ValueError(f"takes {name!r} from the file {path}, which is empty")
        case _:
            raise ValueError(f'must take {name!r} from elsewhere: {{ env = "VARIABLE" }} or {{ file = "PATH" }}')
    return Secret(found)


def known(providers: Mapping[str, Any]) -> str:
    """The names, for people."""
    return ", ".join(sorted(providers)) or "none"
