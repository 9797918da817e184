"""Where a request comes from: the address, the surface, and the id that the log and the answer have too."""

import os
import pwd
from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.models import Surface


class RequestOrigin(NamedTuple):
    """Stands beside the caller wherever something is recorded."""

    surface: Surface
    address: str | None = None
    request_id: str | None = None


def origin_of(scope: Mapping[str, Any], surface: Surface) -> RequestOrigin:
    """The origin of an ASGI scope. Its `client` is believed: whoever trusts a proxy has put the right one there."""
    client = scope.get("client")
    state = scope.get("state")
    return RequestOrigin(surface, client[0] if client else None, state.get("request_id") if state else None)


def account() -> str:
    """Who runs a command, as the operating system knows them. The environment could say anything."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # in a container
        return str(number)
