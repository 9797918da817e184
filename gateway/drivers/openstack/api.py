"""The OpenStack API for the `openstack` driver: calls, parsing of responses, classification of errors.

This module converts OpenStack's data and errors to the types of the driver port. It knows nothing of commands.
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
from gateway.http_client.responses import find_rejection
from gateway.http_client.urllib3_limits import limit_urllib3
from gateway.models import MachineKind, PowerState

limit_urllib3()

# Properties of images. Nova passes all properties on: if a server was created from such an image, the images of that
# server have them too. Therefore the token includes the server's id, and the description is valid only with this id.
# If the gateway describes an image of another client, the property has the id alone.
MACHINE, TOKEN, DESCRIPTION = "instance_uuid", "snapshot_gateway_token", "snapshot_gateway_description"

MAX_LENGTH = 255  # characters of a name and of a property; the gateway's database stores the whole text

POLL_INTERVAL = 0.2  # seconds between the first two polls of work in progress

_MICROVERSION = (
    "2.47"  # from this version on, servers include the flavor's name, and createImage returns the image's id
)

_PATCH_TYPE = "application/openstack-images-v2.1-json-patch"  # Glance's; `add` also replaces a value

_DENIED = "The provider does not accept the gateway's credentials."

# Nova's power states. The others (such as no state, or crashed) are reported as UNKNOWN.
_POWER = {"1": PowerState.ON, "3": PowerState.SUSPENDED, "4": PowerState.OFF, "7": PowerState.SUSPENDED}


class _RefusingAdapter(requests.adapters.BaseAdapter):
    """Sends nothing in clear text. Keystone's catalog lists the hosts that get the token; if it uses TLS, they must."""

    def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        raise ProviderUnavailable(
            f"The provider's catalog has the address {str(request.url)[:200]!r}, to which the gateway's token would be"
            " sent in clear text. Keystone has an https:// address, so the catalog must have https:// addresses too."
        )

    def close(self) -> None:
        return None


class OpenStackClient:
    """Makes blocking calls; thread-safe. `login`: the arguments of OpenStackConfig.get_one.

    `clouds_file`: the path of clouds.yaml, if `login` names a cloud; None for the default paths of OpenStack's tools.
    """

    def __init__(self, login: Mapping[str, Any], clouds_file: str | None = None) -> None:
        self._login = login
        self._clouds_file = clouds_file
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def call(self, write: bool, service: str, method: str, path: str, body: Any = None) -> Any:
        """Returns the JSON of the response, or None if it is empty.

        Raises ProviderError. If `write` is true and the call may have been executed, it is OutcomeUnknown.
        """
        extra: dict[str, Any] = {"microversion": _MICROVERSION} if service == "compute" else {}
        if method == "PATCH":
            extra["headers"] = {"Content-Type": _PATCH_TYPE}
        proxy = self._proxy(service)
        try:
            # No retries: they would repeat a call that may have been executed. No cache: it may be stale.
            answer = proxy.request(
                path, method, json=body, connect_retries=0, status_code_retries=0, skip_cache=True, **extra
            )
        except exceptions.Unauthorized:  # from Keystone, when it renews an expired token
            raise ProviderDenied(_DENIED) from None
        except (exceptions.ClientException, requests.RequestException, OSError) as error:
            raise _error_without_response(error, write) from None
        except RecursionError:
            raise malformed(write) from None
        except ProviderUnavailable:  # the catalog is refused
            self.close()
            raise
        if answer.status_code >= 400:
            raise _error_from_response(answer, write)
        try:
            return orjson.loads(answer.content) if answer.content else None
        except orjson.JSONDecodeError:
            raise malformed(write) from None

    def _proxy(self, service: str) -> Any:
        """The client of a service, after login and catalog lookup. No call has been sent to the service yet."""
        try:
            proxy = getattr(self._connect(), service)
            proxy.get_endpoint()
        except (exceptions.Unauthorized, exceptions.MissingRequiredOptions):
            raise ProviderDenied(_DENIED) from None
        except ServiceDisabledException:
            self.close()  # a connection caches the missing service
            raise ProviderUnavailable(f"The provider's catalog has no {service} service.") from None
        except ConfigException as error:
            raise ProviderDenied("The configuration of the cloud is invalid.", provider_message=str(error)) from None
        except (exceptions.ClientException, requests.RequestException, SDKException, OSError) as error:
            raise _error_without_response(error, write=False) from None
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # from a malformed token or catalog
            self.close()  # a connection caches them
            raise malformed(write=False) from None
        except ProviderUnavailable:  # the catalog is refused
            self.close()
            raise
        return proxy

    def _connect(self) -> Connection:
        with self._lock:
            if self._connection is None:
                files = [self._clouds_file] if self._clouds_file else None
                config = OpenStackConfig(
                    config_files=files, load_envvars=False, load_yaml_config="cloud" in self._login
                )
                region = config.get_one(app_name="snapshot-gateway", **self._login)
                self._connection = Connection(config=region)
                if str(region.config["auth"].get("auth_url")).startswith("https://"):
                    self._connection.session.mount("http://", _RefusingAdapter())
            return self._connection

    def close(self) -> None:
        """Closes the connection. A later call opens a new one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None


class OpenStackApi:
    """Runs the calls of a client in threads: `reads`, and `writes` for calls that change something."""

    def __init__(self, client: OpenStackClient, reads: Threads, writes: Threads) -> None:
        self.client = client
        self._reads = reads
        self._writes = writes

    async def read(self, service: str, path: str) -> Any:
        """Gets a path of a service. Raises ProviderError."""
        return await self._reads.read(self.client.call, False, service, "GET", path)

    async def write(self, service: str, method: str, path: str, body: Any = None) -> Any:
        """Sends a call that changes something. Raises ProviderError: OutcomeUnknown if it may have been executed."""
        return await self._writes.write(self.client.call, True, service, method, path, body)

    def poll_delays(self) -> Iterator[float]:
        """Yields the delays in seconds between polls of work in progress, without end."""
        yield from (POLL_INTERVAL * 1.5**turn for turn in range(6))
        yield from repeat(POLL_INTERVAL * 10)


def path_segment(ref: str) -> str:
    """A ref, percent-encoded as one segment of a path."""
    return quote(ref, safe="")


def malformed(write: bool) -> ProviderError:
    """The error for a malformed response. If `write` is true, the call may have been executed."""
    return (OutcomeUnknown if write else ProviderUnavailable)("The provider's response is malformed.")


def read_list(answer: Any, name: str) -> list[dict[str, Any]]:
    """The list of objects under a name of the response. Raises ProviderUnavailable if the response is malformed."""
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise malformed(write=False)
    if not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in found):
        raise malformed(write=False)
    return found


def read_one(answer: Any, name: str | None = None) -> dict[str, Any]:
    """The object under a name of the response, or the response. Raises ProviderUnavailable if it is malformed."""
    found = answer.get(name) if name and isinstance(answer, dict) else answer
    if not isinstance(found, dict) or not isinstance(found.get("id"), str):
        raise malformed(write=False)
    return found


def read_machine(server: Mapping[str, Any]) -> ReportedMachine:
    """Converts a server of Nova."""
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
        created_at=_parse_time(server.get("created")),
    )


def image_properties(machine_ref: str, token: str, description: str | None) -> dict[str, str]:
    """The properties of an image of a machine.

    They include the server's id, because Nova sets it itself only if the image contains a disk.
    """
    # An empty description is also set, because otherwise the image would have an inherited one.
    described = description_properties(machine_ref, token, description or "")
    return {MACHINE: machine_ref, "image_type": "snapshot", **described}


def description_properties(machine_ref: str, token: str | None, description: str) -> dict[str, str]:
    """The properties that store a description; the token is None for an image made by another client."""
    text = re.sub(r"[^\0-\uffff]", "\ufffd", description)[:MAX_LENGTH]
    return {TOKEN: f"{machine_ref} {token}" if token else machine_ref, DESCRIPTION: text}


def read_snapshot(image: Mapping[str, Any]) -> ReportedSnapshot:
    """Converts an image of a server."""
    token_machine_ref, _, token = str(image.get(TOKEN)).partition(" ")
    has_token = token_machine_ref == image.get(MACHINE)
    return ReportedSnapshot(
        ref=image["id"],
        name=image.get("name") or "",
        created_at=_parse_time(image.get("created_at")),
        description=image.get(DESCRIPTION) or None if has_token else None,
        size_bytes=image.get("size")
        or None,  # 0 for the image of a server that runs from volumes: it contains no data itself
        token=token or None if has_token else None,
        ready=image.get("status") not in {"queued", "saving", "uploading", "importing"},
    )


def _parse_time(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError):
        raise malformed(write=False) from None


def _error_from_response(answer: requests.Response, write: bool) -> ProviderError:
    """The error for a response with an error status."""
    message = _provider_message(answer)
    match answer.status_code:
        case 401:
            return ProviderDenied(_DENIED, provider_message=message)
        case 403 | 413 if write and re.search("quota|limit", message, re.IGNORECASE):
            return ProviderFull("A quota of the project has been reached.", provider_message=message)
        case 403 if write and "protected" in message:
            return ProviderRefused("The snapshot's image is protected at the provider.", provider_message=message)
        case 403:
            return ProviderDenied("The gateway's user lacks a permission at the provider.", provider_message=message)
        case 404 if "itemNotFound" in answer.text or re.search(r"\bimage\b", message):
            return ProviderMissing("The provider has no such machine or snapshot.", provider_message=message)
        case 409 if "task_state" in message:
            return ProviderBusy("The provider is executing another task on this machine.", provider_message=message)
        case 404 | 429:  # a 404 without these texts means that an address in the catalog is wrong
            return ProviderUnavailable("The provider's service does not answer.", provider_message=message)
        case status if status >= 500:
            kind = OutcomeUnknown if write else ProviderUnavailable
            return kind("The provider reported an internal error.", provider_message=message)
    if write:
        return ProviderRefused("The provider refused the request.", provider_message=message)
    return ProviderUnavailable("The provider did not return the requested data.", provider_message=message)


def _provider_message(answer: requests.Response) -> str:
    """The provider's message. Nova wraps it in an object named for the error; Glance sends text or HTML."""
    try:
        [body] = answer.json().values()
        return str(body["message"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return " ".join(re.sub(r"<[^>]*>", " ", answer.text).split())[:500]


def _error_without_response(error: Exception, write: bool) -> ProviderError:
    """The error for a call that got no response."""
    if rejection := find_rejection(error):
        return (OutcomeUnknown if write else ProviderUnavailable)(str(rejection))
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "CA certificate" in text:
        return ProviderUnavailable("The provider's certificate is not trusted. Check the option 'ca_file'.")
    unsent = isinstance(error.__context__, requests.ConnectTimeout) or re.search(
        "NewConnectionError|NameResolutionError", text
    )
    if write and not unsent:
        return OutcomeUnknown("The provider did not answer.")
    return ProviderUnavailable("The provider cannot be reached or does not answer.")
