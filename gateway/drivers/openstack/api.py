"""The OpenStack API for the `openstack` driver: calls and classification of errors.

This module converts OpenStack's errors to the types of the driver port. It knows nothing of commands.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any, TypeVar
from urllib.parse import quote

import requests
from keystoneauth1 import exceptions
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from openstack.exceptions import ConfigException, SDKException, ServiceDisabledException

from gateway.drivers.base import parsing
from gateway.drivers.openstack.parsing import malformed
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
from gateway.http_client.json_bodies import parse_json
from gateway.http_client.responses import find_rejection
from gateway.http_client.urllib3_limits import limit_urllib3

limit_urllib3()

T = TypeVar("T")

POLL_INTERVAL = 0.2  # seconds between the first two polls of work in progress

_MICROVERSION = (
    "2.47"  # from this version on, servers include the flavor's name, and createImage returns the image's id
)

_PATCH_TYPE = "application/openstack-images-v2.1-json-patch"  # Glance's; `add` also replaces a value

_MAX_ERROR = 2**16  # bytes of a response with an error that are read

_DENIED = "The provider does not accept the gateway's credentials."


_UNAVAILABLE = {
    404: "The provider's service does not answer.",  # an address in the catalog is wrong
    429: "The provider is throttling the gateway's requests.",
}


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
            return parse_json(answer.content) if answer.content else None
        except ValueError:
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

    async def read(self, service: str, path: str, parse: Callable[[Any], T]) -> T:
        """What `parse` makes of the response to a GET of a path of a service. Raises ProviderError.

        Parses in the thread of the call, because a page may have thousands of entries.
        """

        def call() -> T:
            answer = self.client.call(False, service, "GET", path)
            with parsing():
                return parse(answer)

        return await self._reads.read(call)

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
        case 404 if "itemNotFound" in _error_text(answer) or re.search(r"\bimage\b", message):
            return ProviderMissing("The provider has no such machine or snapshot.", provider_message=message)
        case 409 if "task_state" in message:
            return ProviderBusy("The provider is executing another task on this machine.", provider_message=message)
        case 404 | 429 as status:
            return ProviderUnavailable(_UNAVAILABLE[status], provider_message=message)
        case status if status >= 500:
            kind = OutcomeUnknown if write else ProviderUnavailable
            return kind("The provider reported an internal error.", provider_message=message)
    if write:
        return ProviderRefused("The provider refused the request.", provider_message=message)
    return ProviderUnavailable("The provider did not return the requested data.", provider_message=message)


def _provider_message(answer: requests.Response) -> str:
    """The provider's message. Nova wraps it in an object named for the error; Glance sends text or HTML."""
    try:
        [body] = parse_json(answer.content[:_MAX_ERROR]).values()
        return str(body["message"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return " ".join(re.sub(r"<[^<>]*>", " ", _error_text(answer)).split())[:500]


def _error_text(answer: requests.Response) -> str:
    return answer.content[:_MAX_ERROR].decode(errors="replace")


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
