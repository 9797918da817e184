"""Extracts the credential from a request, and builds the response headers that ask for one. Verifies nothing."""

import binascii
from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.errors import BadCredentials, GatewayError, Throttled, Unauthenticated, Unavailable

Headers = list[tuple[bytes, bytes]]

MAX_BYTES = 8_192  # of a credential; a JWT with hundreds of roles has a few thousand

_REALM = b"snapshot gateway"
_BASIC = b'Basic realm="%b", charset="UTF-8"' % _REALM

_NAMES = frozenset({"authorization", "x-auth-token"})


def credential_from_request(scope: Mapping[str, Any], payload: Mapping[str, Any]) -> bytes:
    """Return the credential in the form of an `Authorization` header, or b"" if the request has none.

    The payload of `connection_init` takes precedence over the headers of the handshake, and `X-Auth-Token` over
    `Authorization`, as in ManageIQ. Raises BadCredentials.
    """
    if payload and (found := _in_payload(payload)):
        return found
    authorization = b""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"authorization":
            if authorization:
                raise BadCredentials("The request has more than one `Authorization` header.")
            authorization = value
        elif name == b"x-auth-token" and value:
            return b"Bearer " + value
    return authorization


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
        described = error.message.encode("ascii", "replace").replace(b"\\", b"/").replace(b'"', b"'")
        text += b', error="invalid_token", error_description="%b"' % described
    return text


def _in_payload(payload: Mapping[str, Any]) -> bytes | None:
    """Find `authorization` or `x-auth-token`, case-insensitively, in the payload or in its member `headers`."""
    for members in (payload, payload.get("headers")):
        if not isinstance(members, Mapping):
            continue
        for name, value in members.items():
            if name.lower() in _NAMES and value is not None and value != "":
                if not isinstance(value, str):
                    raise BadCredentials(f"`{name}` must be a string.")
                return value.encode() if name.lower() == "authorization" else b"Bearer " + value.encode()
    return None
