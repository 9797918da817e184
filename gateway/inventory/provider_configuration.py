"""Reads the configuration of providers, reports every fault in it, and creates the drivers.

A driver's module is imported when a provider uses it, so that its client library is required and loaded only then.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from gateway.columns import MAX_NAME_LENGTH, is_name
from gateway.config import Settings, environment_value
from gateway.drivers.base import Driver
from gateway.drivers.options import Secret, read_options
from gateway.errors import StartupError

SIMULATED = "simulated"  # created by `app`, because the simulator stores its state in the gateway's database

DRIVERS = ("ec2", "libvirt", "openstack", "proxmox", "qcow2", SIMULATED, "vsphere")

DEFAULT_CONCURRENCY = 4

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class _DriverModule(Protocol):
    """The interface of a driver's module."""

    Options: type[Any]

    @staticmethod
    def make(provider: str, options: Any, concurrency: int) -> Driver: ...


@dataclass(frozen=True, slots=True)
class ConfiguredProvider:
    """A configured provider. `concurrency` is the maximum number of its operations that run at the same time."""

    name: str
    driver: str
    tenant: str
    concurrency: int
    options: object

    def make(self) -> Driver:
        """Creates the driver, which has not connected yet."""
        return _driver_module(self.driver).make(self.name, self.options, self.concurrency)


def read_providers(settings: Settings) -> list[ConfiguredProvider]:
    """Reads all configured providers. Raises StartupError with one message per fault."""
    faults: list[str] = []
    providers: dict[str, ConfiguredProvider] = {}
    for name, table in _tables(settings).items():
        provider, found = _read(name, table, settings)
        faults += [f"Provider {name!r}: {fault}" for fault in found]
        if provider is not None:
            providers[name] = provider
    if faults:
        raise StartupError(*faults)
    return list(providers.values())


def secret_variables(settings: Settings) -> set[str]:
    """The environment variables that options refer to. Empty if the configuration is invalid: its users report that."""
    try:
        tables = _tables(settings).values()
    except StartupError:
        return set()
    options = [option for table in tables if isinstance(table, dict) for option in table.values()]
    return {str(option["env"]) for option in options if isinstance(option, dict) and "env" in option}


def _tables(settings: Settings) -> dict[str, object]:
    """The tables of all configuration sources, by provider name."""
    tables: dict[str, object] = {}
    if settings.providers_file:
        try:
            text = Path(settings.providers_file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(
                f"GATEWAY_PROVIDERS_FILE: the file {settings.providers_file!r} cannot be read: {_reason(error)}."
            ) from None
        tables |= _parse(text, f"GATEWAY_PROVIDERS_FILE: the file {settings.providers_file!r}")
    for name, table in _parse(settings.providers, "GATEWAY_PROVIDERS").items():
        if name in tables:
            raise StartupError(
                f"Provider {name!r} is configured both in GATEWAY_PROVIDERS and in GATEWAY_PROVIDERS_FILE."
            )
        tables[name] = table
    if settings.images:
        tables["images"] = {"driver": "qcow2", "directory": settings.images}
    return tables


def _parse(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StartupError(f"{source} is not valid TOML: {error}.") from None


def _reason(error: OSError | UnicodeDecodeError) -> str | None:
    return error.strerror if isinstance(error, OSError) else "it is not UTF-8"


def _read(name: str, table: object, settings: Settings) -> tuple[ConfiguredProvider | None, list[str]]:
    if not _NAME.fullmatch(name):
        return None, ["The name must be 1 to 63 letters, digits, '.', '_' and '-', and begin with a letter or a digit."]
    if not isinstance(table, dict):
        return None, [f'The value must be a table, such as [{name}] followed by driver = "libvirt".']
    table = dict(table)
    driver = table.pop("driver", None)
    if driver not in DRIVERS:
        fault = "A driver is required." if driver is None else f"The driver {driver!r} does not exist."
        return None, [f"{fault} Use one of {', '.join(DRIVERS)}."]
    faults = []
    tenant = table.pop("tenant", settings.tenant)
    if not isinstance(tenant, str) or not tenant:
        faults.append(f"The tenant must be a non-empty string, not {tenant!r}.")
    elif not is_name(tenant):
        faults.append(f"The tenant must be at most {MAX_NAME_LENGTH} printable characters.")
    concurrency = table.pop("concurrency", DEFAULT_CONCURRENCY)
    if type(concurrency) is not int or concurrency < 1:
        faults.append(f"The concurrency must be a whole number of at least 1, not {concurrency!r}.")
    try:
        module = _driver_module(driver)
    except ImportError as error:
        return None, [*faults, _extra_missing(driver, error)]
    options, option_faults = read_options(module.Options, table, _reveal)
    if options is None or faults:
        return None, faults + option_faults
    return ConfiguredProvider(name, driver, tenant, concurrency, options), []


def _driver_module(driver: str) -> _DriverModule:
    package = "simulator" if driver == SIMULATED else driver
    module: Any = import_module(f"gateway.drivers.{package}.driver")
    driver_module: _DriverModule = module
    return driver_module


def _extra_missing(driver: str, error: ImportError) -> str:
    return (
        f"The driver {driver!r} requires an extra that is not installed ({error})."
        f" Install it: pip install 'snapshot-gateway[{driver}]'."
    )


def _reveal(name: str, value: object) -> Secret:
    """Reads the secret that an option refers to, from the environment or a file. Raises ValueError."""
    match value:
        case {"env": str(variable), **others} if not others:
            found = environment_value(variable)
            if not found:
                raise ValueError(f"Option {name!r} refers to the environment variable {variable}, which is not set.")
        case {"file": str(path), **others} if not others:
            try:
                found = Path(path).read_text("utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"Option {name!r} refers to the file {path!r}, which cannot be read: {_reason(error)}."
                ) from None
            if not found:
                raise ValueError(f"Option {name!r} refers to the file {path!r}, which is empty.")
        case _:
            raise ValueError(
                f"Option {name!r} is a secret and must be a reference to it:"
                ' { env = "VARIABLE" } or { file = "PATH" }.'
            )
    return Secret(found)


def provider_names(providers: Mapping[str, object]) -> str:
    """The sorted names of the providers for a message, or `none`."""
    return ", ".join(sorted(providers)) or "none"
