"""What a request says of who sends it: one credential, from wherever clients put it; and how others are asked for.

Verifies nothing.
"""

import binascii
from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.errors import BadCredentials, GatewayError, Throttled, Unauthenticated, Unavailable

Headers = list[tuple[bytes, bytes]]

LONGEST = 8_192  # bytes; a token with hundreds of roles has some thousands

_REALM = b"snapshot gateway"
_BASIC = b'Basic realm="%b", charset="UTF-8"' % _REALM

_NAMES = frozenset({"authorization", "x-auth-token"})


def presented(scope: Mapping[str, Any], payload: Mapping[str, Any]) -> bytes:
    """The credential as an `Authorization` header would have it; empty where there is none. Raises BadCredentials.

    What `connection_init` carries counts before the headers of the handshake, and `X-Auth-Token` before
    `Authorization`, as in ManageIQ.
    """
    if payload and (found := _in_payload(payload)):
        return found
    authorization = b""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"authorization":
            if authorization:
                raise BadCredentials("There is more than one `Authorization` header.")
            authorization = value
        elif name == b"x-auth-token" and value:
            return b"Bearer " + value
    return authorization


def token_in(credential: bytes) -> str:
    """The token of a credential: what follows `Bearer`, or the password of `Basic`. Raises BadCredentials."""
    if len(credential) > LONGEST:
        raise BadCredentials(f"The credentials are longer than {LONGEST} bytes.")
    scheme, _, rest = credential.partition(b" ")
    token = rest.strip()
    match scheme.lower():
        case b"bearer":
            pass
        case b"basic":
            try:
                token = b64decode(token, validate=True).partition(b":")[2]
            except binascii.Error:
                raise BadCredentials("What follows `Basic` is not Base64.") from None
        case _:
            raise BadCredentials("`Authorization` must be `Bearer`, or `Basic` with a token as the password.")
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise BadCredentials from None


def asked_for(error: GatewayError, *, basic: bool = False) -> Headers:
    """The headers that the status of a refusal asks for (RFC 9110, 15.5.2 and 10.2.3). `basic`: that is taken too."""
    if isinstance(error, Unauthenticated):
        bearer = (b"www-authenticate", _challenge(error))
        return [(b"www-authenticate", _BASIC), bearer] if basic else [bearer]
    if isinstance(error, Throttled | Unavailable):
        return [(b"retry-after", b"%d" % error.retry_after)]
    return []


def _challenge(error: Unauthenticated) -> bytes:
    """What `WWW-Authenticate` says of it (RFC 6750, 3): nothing of the token to whoever has sent none."""
    text = b'Bearer realm="%b"' % _REALM
    if isinstance(error, BadCredentials):
        described = error.message.encode("ascii", "replace").replace(b"\\", b"/").replace(b'"', b"'")
        text += b', error="invalid_token", error_description="%b"' % described
    return text


def _in_payload(payload: Mapping[str, Any]) -> bytes | None:
    """`authorization` or `x-auth-token`, in any case, of the payload or of its `headers`."""
    for members in (payload, payload.get("headers")):
        if not isinstance(members, Mapping):
            continue
        for name, value in members.items():
            if name.lower() in _NAMES and value is not None and value != "":
                if not isinstance(value, str):
                    raise BadCredentials(f"`{name}` must be a string.")
                return value.encode() if name.lower() == "authorization" else b"Bearer " + value.encode()
    return None
