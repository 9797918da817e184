"""The API of OpenStack for the `openstack` driver: calls, what the answers mean, and what the errors mean.

Says everything in the gateway's words; what becomes of wishes is the driver's business.
"""

import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson
import requests
from keystoneauth1 import exceptions
from openstack import connect
from openstack.connection import Connection

from gateway.drivers.base import SeenMachine, SeenSnapshot
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

TOKEN, DESCRIPTION = "snapshot_gateway_token", "snapshot_gateway_description"

_MICROVERSION = "2.47"  # servers tell the name of their flavor, createImage the id of the image

_POWER = {
    **dict.fromkeys(("ACTIVE", "PASSWORD", "VERIFY_RESIZE"), PowerState.ON),
    **dict.fromkeys(("SHUTOFF", "SHELVED", "SHELVED_OFFLOADED"), PowerState.OFF),
    **dict.fromkeys(("PAUSED", "SUSPENDED"), PowerState.SUSPENDED),
}


class Client:
    """Blocking calls, from any thread. `login`: what a Connection takes to know the cloud and who the gateway is."""

    def __init__(self, login: Mapping[str, Any]) -> None:
        self._login = login
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def call(self, change: bool, service: str, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, None without any. Raises ProviderError: OutcomeUnknown when a `change` may have begun."""
        extra = {"microversion": _MICROVERSION} if service == "compute" else {}
        try:
            proxy = getattr(self._enter(), service)
            # It would repeat what may have begun.
            answer = proxy.request(path, method, json=body, connect_retries=0, raise_exc=False, **extra)
            if answer.status_code < 400:
                return answer.json() if answer.content else None
        except (exceptions.Unauthorized, exceptions.MissingRequiredOptions):
            raise ProviderDenied("the provider does not accept the gateway's credentials") from None
        except exceptions.CatalogException:
            raise ProviderUnavailable(f"the provider's catalog does not name its {service} service") from None
        except (exceptions.ClientException, requests.RequestException) as error:
            raise _silence(error, change) from None
        except ValueError:
            raise nonsense(change) from None
        raise _refusal(answer, change)

    def _enter(self) -> Connection:
        with self._lock:
            if self._connection is None:
                self._connection = connect(
                    **self._login, load_envvars=False, load_yaml_config=False, app_name="snapshot-gateway"
                )
            return self._connection

    def close(self) -> None:
        """Lets go of the connection; a later call makes a new one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None


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


def read_machine(server: Mapping[str, Any]) -> SeenMachine:
    """A server."""
    flavor = server.get("flavor")
    return SeenMachine(
        ref=server["id"],
        kind=MachineKind.INSTANCE,
        name=server.get("name") or "",
        power_state=_POWER.get(server.get("status", ""), PowerState.UNKNOWN),
        description=server.get("description"),
        host=server.get("OS-EXT-SRV-ATTR:host"),
        flavor=flavor.get("original_name") if isinstance(flavor, dict) else None,
        availability_zone=server.get("OS-EXT-AZ:availability_zone") or None,
        created_at=_moment(server.get("created")),
    )


def read_snapshot(image: Mapping[str, Any]) -> SeenSnapshot:
    """An image of a server."""
    return SeenSnapshot(
        ref=image["id"],
        name=image.get("name") or "",
        created_at=_moment(image.get("created_at")),
        description=image.get(DESCRIPTION),
        size_bytes=image.get("size") or None,  # that of a server that runs from volumes is 0, for it has none itself
        token=image.get(TOKEN),
        ready=image.get("status") not in {"queued", "saving", "uploading", "importing"},
    )


def volume_snapshots(image: Mapping[str, Any]) -> list[str]:
    """The refs of the snapshots of volumes that the image of a server that runs from volumes is made of."""
    try:
        devices = orjson.loads(image.get("block_device_mapping") or "[]")
        return [device["snapshot_id"] for device in devices if device.get("snapshot_id")]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise nonsense(change=False) from None


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
            return ProviderDenied("the provider does not accept the gateway's credentials", provider_message=words)
        case 403 | 413 if re.search("quota|limit", words, re.IGNORECASE):
            return ProviderFull("a quota of the project is reached", provider_message=words)
        case 403:
            return ProviderDenied("the gateway's user lacks a right on the provider", provider_message=words)
        case 404:
            return ProviderMissing("the provider has no such machine or snapshot", provider_message=words)
        case 409 if "task_state" in words:
            return ProviderBusy("the provider is doing other work on this machine", provider_message=words)
        case 429 | 503:
            return ProviderUnavailable("the provider is too busy", provider_message=words)
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
    if isinstance(error, exceptions.SSLError) or "CERTIFICATE_VERIFY_FAILED" in text:
        return ProviderUnavailable("the provider's certificate is not trusted; see 'ca_file'")
    unsent = isinstance(error.__context__, requests.ConnectTimeout) or "NewConnectionError" in text
    if change and isinstance(error, exceptions.ConnectFailure) and not unsent:
        return OutcomeUnknown("the provider did not answer")
    return ProviderUnavailable("the provider cannot be reached, or does not answer")
