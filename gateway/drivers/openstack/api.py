"""The API of OpenStack for the `openstack` driver: calls, what the answers mean, and what the errors mean.

Says everything in the gateway's words; what becomes of wishes is the driver's business.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import repeat
from typing import Any
from urllib.parse import quote

import orjson
import requests
from keystoneauth1 import exceptions
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from openstack.exceptions import ConfigException, SDKException, ServiceDisabledException

from gateway.drivers.base import ReportedMachine, ReportedSnapshot
from gateway.drivers.threads import Threads
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.models import MachineKind, PowerState

# Properties of images. Nova hands all of them on: the image of a server that was made from such an image has them too,
# so the token says of which server it is, and the description goes with the token.
MACHINE, TOKEN, DESCRIPTION = "instance_uuid", "snapshot_gateway_token", "snapshot_gateway_description"

LONGEST = 255  # characters of a name and of a property; the gateway itself keeps all

LOOK = 0.2  # seconds between the first looks at work in progress

_MICROVERSION = "2.47"  # servers tell the name of their flavor, createImage the id of the image

_DENIED = "the provider does not accept the gateway's credentials"

# Of Nova's numbers; a machine that is in none of these is just made, lost, or crashed.
_POWER = {"1": PowerState.ON, "3": PowerState.SUSPENDED, "4": PowerState.OFF, "7": PowerState.SUSPENDED}


class Client:
    """Blocking calls, from any thread. `login`: what says where the cloud is and who the gateway is there.

    `clouds_file`: where `login` only names a cloud; None for the places where OpenStack's own tools look for it.
    """

    def __init__(self, login: Mapping[str, Any], clouds_file: str | None = None) -> None:
        self._login = login
        self._clouds_file = clouds_file
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def call(self, change: bool, service: str, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, None without any. Raises ProviderError: OutcomeUnknown when a `change` may have begun."""
        extra = {"microversion": _MICROVERSION} if service == "compute" else {}
        proxy = self._proxy(service)
        try:
            # Repeating it would repeat what may have begun, and a cache would not tell what is.
            answer = proxy.request(
                path, method, json=body, connect_retries=0, status_code_retries=0, skip_cache=True, **extra
            )
        except exceptions.Unauthorized:  # Keystone's own, when the token was no longer good
            raise ProviderDenied(_DENIED) from None
        except (exceptions.ClientException, requests.RequestException, OSError) as error:
            raise _silence(error, change) from None
        if answer.status_code >= 400:
            raise _refusal(answer, change)
        try:
            return orjson.loads(answer.content) if answer.content else None
        except orjson.JSONDecodeError:
            raise nonsense(change) from None

    def _proxy(self, service: str) -> Any:
        """Who speaks to a service, logged in and knowing where it is: before anything is handed over."""
        try:
            proxy = getattr(self._enter(), service)
            proxy.get_endpoint()
        except (exceptions.Unauthorized, exceptions.MissingRequiredOptions):
            raise ProviderDenied(_DENIED) from None
        except ServiceDisabledException:
            self.close()  # it would remember that for ever
            raise ProviderUnavailable(f"the provider's catalog does not name its {service} service") from None
        except ConfigException as error:
            raise ProviderDenied("the configuration of the cloud makes no sense", provider_message=str(error)) from None
        except (exceptions.ClientException, requests.RequestException, SDKException, OSError) as error:
            raise _silence(error, change=False) from None
        return proxy

    def _enter(self) -> Connection:
        with self._lock:
            if self._connection is None:
                files = [self._clouds_file] if self._clouds_file else None
                config = OpenStackConfig(
                    config_files=files, load_envvars=False, load_yaml_config="cloud" in self._login
                )
                region = config.get_one(app_name="snapshot-gateway", **self._login)
                self._connection = Connection(config=region)
            return self._connection

    def close(self) -> None:
        """Lets go of the connection; a later call makes a new one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None


class Cloud:
    """The client in its threads: `asking`, and `telling` for calls that change something."""

    def __init__(self, client: Client, asking: Threads, telling: Threads) -> None:
        self.client = client
        self._asking = asking
        self._telling = telling

    async def ask(self, service: str, path: str) -> Any:
        """What a service has at a path. Raises ProviderError."""
        return await self._asking.ask(self.client.call, False, service, "GET", path)

    async def tell(self, service: str, method: str, path: str, body: Any = None) -> Any:
        """Tells a service to do something. Raises ProviderError: OutcomeUnknown when it may have begun."""
        return await self._telling.tell(self.client.call, True, service, method, path, body)

    def pauses(self) -> Iterator[float]:
        """Seconds between looks at work in progress, for ever."""
        yield from (LOOK * 1.5**turn for turn in range(6))
        yield from repeat(LOOK * 10)


def safe(ref: str) -> str:
    """A ref as a part of a path."""
    return quote(ref, safe="")


def nonsense(change: bool) -> ProviderError:
    """What an answer that cannot be understood means."""
    return (OutcomeUnknown if change else ProviderUnavailable)("the provider's answer cannot be understood")


def read_list(answer: Any, name: str) -> list[dict[str, Any]]:
    """The objects that an answer lists. Raises ProviderUnavailable when it does not."""
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(row, dict) and "id" in row for row in found):
        raise nonsense(change=False)
    return found


def read_one(answer: Any, name: str | None = None) -> dict[str, Any]:
    """The object that an answer is, or has under a name. Raises ProviderUnavailable when there is none."""
    found = answer.get(name) if name and isinstance(answer, dict) else answer
    if not isinstance(found, dict) or not isinstance(found.get("id"), str):
        raise nonsense(change=False)
    return found


def read_machine(server: Mapping[str, Any]) -> ReportedMachine:
    """A server."""
    flavor = server.get("flavor")
    return ReportedMachine(
        ref=server["id"],
        kind=MachineKind.INSTANCE,
        name=server.get("name") or "",
        power_state=_POWER.get(str(server.get("OS-EXT-STS:power_state")), PowerState.UNKNOWN),
        description=server.get("description"),
        host=server.get("OS-EXT-SRV-ATTR:host"),
        flavor=flavor.get("original_name") if isinstance(flavor, dict) else None,
        availability_zone=server.get("OS-EXT-AZ:availability_zone") or None,
        created_at=_moment(server.get("created")),
    )


def properties(machine_ref: str, token: str, description: str | None) -> dict[str, str]:
    """What the image of a machine is marked with. Nova says itself whose an image is only if it holds a disk."""
    text = re.sub(r"[^\0-\uffff]", "\ufffd", description or "")[:LONGEST]
    # An empty description is told too, because otherwise an inherited one would stay.
    return {MACHINE: machine_ref, "image_type": "snapshot", TOKEN: f"{machine_ref} {token}", DESCRIPTION: text}


def read_snapshot(image: Mapping[str, Any]) -> ReportedSnapshot:
    """An image of a server."""
    whose, _, token = str(image.get(TOKEN)).partition(" ")
    ours = whose == image.get(MACHINE)
    return ReportedSnapshot(
        ref=image["id"],
        name=image.get("name") or "",
        created_at=_moment(image.get("created_at")),
        description=image.get(DESCRIPTION) or None if ours else None,
        size_bytes=image.get("size") or None,  # that of a server that runs from volumes is 0, for it has none itself
        token=token if ours else None,
        ready=image.get("status") not in {"queued", "saving", "uploading", "importing"},
    )


def _moment(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError):
        raise nonsense(change=False) from None


def _refusal(answer: requests.Response, change: bool) -> ProviderError:
    """What an answer that is an error means."""
    words = _words(answer)
    match answer.status_code:
        case 401:
            return ProviderDenied(_DENIED, provider_message=words)
        case 403 | 413 if change and re.search("quota|limit", words, re.IGNORECASE):
            return ProviderFull("a quota of the project is reached", provider_message=words)
        case 403 if change and "protected" in words:
            return ProviderRefused("the snapshot's image is protected on the provider", provider_message=words)
        case 403:
            return ProviderDenied("the gateway's user lacks a right on the provider", provider_message=words)
        case 404 if "itemNotFound" in answer.text or re.search(r"\bimage\b", words):
            return ProviderMissing("the provider has no such machine or snapshot", provider_message=words)
        case 409 if "task_state" in words:
            return ProviderBusy("the provider is doing other work on this machine", provider_message=words)
        case 404 | 429:  # anything answers 404 when an address in the catalog is wrong
            return ProviderUnavailable("the provider's service does not answer", provider_message=words)
        case status if status >= 500:
            lost = OutcomeUnknown if change else ProviderUnavailable
            return lost("the provider reported an error of its own", provider_message=words)
    if change:
        return ProviderRefused("the provider refused", provider_message=words)
    return ProviderUnavailable("the provider did not answer the question", provider_message=words)


def _words(answer: requests.Response) -> str:
    """The provider's own words: Nova wraps them in an object named for the error, Glance sends text or HTML."""
    try:
        [body] = answer.json().values()
        return str(body["message"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return " ".join(re.sub(r"<[^>]*>", " ", answer.text).split())[:500]


def _silence(error: Exception, change: bool) -> ProviderError:
    """What the lack of an answer means."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "CA certificate" in text:
        return ProviderUnavailable("the provider's certificate cannot be trusted; see 'ca_file'")
    unsent = isinstance(error.__context__, requests.ConnectTimeout) or re.search(
        "NewConnectionError|NameResolutionError", text
    )
    if change and not unsent:
        return OutcomeUnknown("the provider did not answer")
    return ProviderUnavailable("the provider cannot be reached, or does not answer")
