"""The text form of API tokens and session tokens: PREFIX_NUMBER_SECRET.

The prefix lets secret scanners find tokens, the number is the id of the row, and the secret is 256 random bits in hex.
Only the SHA-256 of the secret is stored. A slow password hash is not needed: 256 random bits cannot be guessed, and a
slow hash would make every verification expensive.
"""

import re
from hashlib import sha256
from hmac import compare_digest
from secrets import token_hex
from typing import NamedTuple

_TEXT = re.compile(r"(sgw|sgs|sgws)_([1-9]\d{0,17})_([0-9a-f]{64})", re.ASCII)

TOKEN_PREFIX = "sgw"  # noqa: S105 - the public prefix of API tokens: "snapshot gateway"
SESSION_PREFIX = "sgs"
WEBSOCKET_PREFIX = "sgws"  # of a session token that is valid for WebSockets only


class OpaqueToken(NamedTuple):
    """A parsed token. `text()` is a secret and must not be logged; `str()` omits the secret."""

    prefix: str
    number: int
    secret: str

    def text(self) -> str:
        """Return the whole token, including its secret."""
        return f"{self.prefix}_{self.number}_{self.secret}"

    def matches(self, secret_hash: str) -> bool:
        """Return whether `secret_hash` is the hash of this secret. Takes constant time."""
        return compare_digest(self.secret_hash, secret_hash)

    @property
    def secret_hash(self) -> str:
        """The hash to store. That of a WebSocket token covers its prefix, so another prefix does not widen its use."""
        return hash_secret(self.secret if self.prefix != WEBSOCKET_PREFIX else f"{self.prefix}_{self.secret}")

    def __repr__(self) -> str:
        """Return the public form without the secret, such as `sgw_7_…`, for logs and lists."""
        return f"{self.prefix}_{self.number}_…"


def new_secret() -> str:
    """Return 256 random bits in hex."""
    return token_hex(32)


def hash_secret(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def parse(text: str) -> OpaqueToken | None:
    """Parse a token. Return None if `text` does not have the form of one."""
    match = _TEXT.fullmatch(text)
    return None if match is None else OpaqueToken(match[1], int(match[2]), match[3])
