"""The origin of a request, for the audit log: client address, surface and request id."""

import os
import pwd
from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.models import Surface


class RequestOrigin(NamedTuple):
    """Recorded with the caller in every audit entry. `request_id` is also in log lines and in the response."""

    surface: Surface
    address: str | None = None
    request_id: str | None = None


def origin_of(scope: Mapping[str, Any], surface: Surface) -> RequestOrigin:
    """Return the origin of an ASGI scope. The server has set `client`, from the headers of a trusted proxy if any."""
    client = scope.get("client")
    state = scope.get("state")
    return RequestOrigin(surface, client[0] if client else None, state.get("request_id") if state else None)


def os_user() -> str:
    """Return the operating system user that runs this process. Environment variables are not trusted for it."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # the user has no account, as is common in containers
        return str(number)
