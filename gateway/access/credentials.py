"""Extracts the credential from a request, and builds the response headers that ask for one. Verifies nothing."""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from gateway.errors import BadCredentials, GatewayError, Throttled, Unauthenticated, Unavailable
from gateway.printable_text import printable

Headers = list[tuple[bytes, bytes]]

MAX_BYTES = 8_192  # of a credential; a JWT with hundreds of roles has a few thousand

_REALM = b"snapshot gateway"
_BASIC = b'Basic realm="%b", charset="UTF-8"' % _REALM

_PAYLOAD_NAMES = frozenset({"authorization", "x-auth-token"})
_HEADERS = {
    b"authorization": "Authorization",
    b"x-auth-token": "X-Auth-Token",
    b"x-miq-group": "X-MIQ-Group",
    b"x-miq-token": "X-MIQ-Token",
}


class SentCredentials(NamedTuple):
    """What a request sends to be authenticated. Nothing of it is verified."""

    credential: bytes  # in the form of an `Authorization` header; b"" if the request has none
    group: str  # the group to act for; "" if the request names none


def credentials_from_request(scope: Mapping[str, Any], payload: Mapping[str, Any]) -> SentCredentials:
    """Return the credentials of an HTTP request, or of a WebSocket handshake and its `connection_init` payload.

    The payload takes precedence over the headers of the handshake, and `X-Auth-Token` over `Authorization`, as in
    ManageIQ. Raises BadCredentials, also for a header that no gateway can accept.
    """
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _HEADERS:
            if name in found:
                raise BadCredentials(f"The request has more than one `{_HEADERS[name]}` header.")
            found[name] = value
    if b"x-miq-token" in found:  # encrypted with a key that the servers of one ManageIQ share
        raise BadCredentials("Invalid System Authentication Token specified")
    credential = found.get(b"authorization", b"")
    if b"x-auth-token" in found:
        credential = _bearer(found[b"x-auth-token"])
    if payload:
        credential = _in_payload(payload) or credential
    group = found.get(b"x-miq-group", b"")
    return SentCredentials(credential, unquote_plus(group.decode("utf-8", "replace")) if group else "")


def _bearer(token: bytes) -> bytes:
    """The credential of an `X-Auth-Token`. Raises BadCredentials for an empty one, with ManageIQ's message."""
    if not token:
        raise BadCredentials("Empty Authentication Token (HTTP_X_AUTH_TOKEN)")
    return b"Bearer " + token


def is_basic(credential: bytes) -> bool:
    """Return whether a credential is a user name and a password."""
    return credential[:6].lower() == b"basic "


def token_from_credential(credential: bytes) -> str:
    """Return the token of a credential: the `Bearer` token, or the password of `Basic`. Raises BadCredentials."""
    if len(credential) > MAX_BYTES:
        raise BadCredentials(f"The credentials are longer than {MAX_BYTES} bytes.")
    scheme, _, rest = credential.partition(b" ")
    token = rest.strip()
    match scheme.lower():
        case b"bearer":
            pass
        case b"basic":
            try:
                token = b64decode(token, validate=True).partition(b":")[2]
            except binascii.Error:
                raise BadCredentials("The `Basic` credentials are not valid Base64.") from None
        case _:
            raise BadCredentials("`Authorization` must be `Bearer TOKEN`, or `Basic` with a token as the password.")
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise BadCredentials from None


def error_headers(error: GatewayError, *, basic: bool = False) -> Headers:
    """Return the headers that an error response requires (RFC 9110, 15.5.2 and 10.2.3).

    These are `WWW-Authenticate` challenges for Unauthenticated, and `Retry-After` for Throttled and Unavailable.
    `basic`: also offer the `Basic` scheme.
    """
    if isinstance(error, Unauthenticated):
        bearer = (b"www-authenticate", _challenge(error))
        return [(b"www-authenticate", _BASIC), bearer] if basic else [bearer]
    if isinstance(error, Throttled | Unavailable):
        return [(b"retry-after", b"%d" % error.retry_after)]
    return []


def _challenge(error: Unauthenticated) -> bytes:
    """Return the `Bearer` challenge (RFC 6750, 3). It has no error code if the request had no credentials."""
    text = b'Bearer realm="%b"' % _REALM
    if isinstance(error, BadCredentials):
        described = printable(error.message).encode("ascii", "replace").replace(b"\\", b"/").replace(b'"', b"'")
        text += b', error="invalid_token", error_description="%b"' % described
    return text


def _in_payload(payload: Mapping[str, Any]) -> bytes | None:
    """Find `authorization` or `x-auth-token`, case-insensitively, in the payload or in its member `headers`."""
    for members in (payload, payload.get("headers")):
        if not isinstance(members, Mapping):
            continue
        for name, value in members.items():
            if name.lower() not in _PAYLOAD_NAMES or value is None:
                continue
            if not isinstance(value, str):
                raise BadCredentials(f"`{name}` must be a string.")
            if name.lower() == "x-auth-token":
                return _bearer(value.encode())
            if value:  # frontends send an empty `authorization` while no user is logged in
                return value.encode()
    return None
