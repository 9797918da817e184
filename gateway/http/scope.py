"""The parts of an ASGI scope that several surfaces read."""

from collections.abc import Callable

from starlette.types import Scope

HOLD = "gateway.hold"  # key in the scope's state


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Returns the headers by name. The values of a repeated header are joined by commas (RFC 9110, 5.3)."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def path_of(scope: Scope) -> str:
    """Returns the path below the application's root, without a trailing slash."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).rstrip("/")


def hold_of(scope: Scope) -> Callable[[int], None]:
    """Returns the function that counts bytes which wait to be written on the connection of `scope`.

    It is called with their number, negative when they wait no more. The server closes connections of a client
    that has too many unread bytes. Without such a server, as in some tests, the function does nothing.
    """
    hold: Callable[[int], None] | None = scope.get("state", {}).get(HOLD)
    return hold or _hold_nothing


def _hold_nothing(_size: int) -> None:
    pass
