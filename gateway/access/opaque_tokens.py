"""Opaque tokens as text: a prefix that secret scanners know, the number of a row, and 256 random bits in hex.

Only a hash of the random part is stored. Plain SHA-256 is right for it: 256 random bits cannot be guessed, so a slow
hash would protect nothing and make every look expensive.
"""

import re
from hashlib import sha256
from hmac import compare_digest
from secrets import token_hex
from typing import NamedTuple

_TEXT = re.compile(r"(sgw|sgs)_([1-9]\d{0,17})_([0-9a-f]{64})", re.ASCII)

TOKEN = "sgw"  # noqa: S105 - begins an API token: "snapshot gateway"
SESSION = "sgs"


class Opaque(NamedTuple):
    """One such token. Its text is a secret: it must not be logged or shown."""

    prefix: str
    number: int
    secret: str

    def text(self) -> str:
        return f"{self.prefix}_{self.number}_{self.secret}"

    def is_of(self, secret_hash: str) -> bool:
        """Whether the stored hash is this secret's; how long that takes tells nothing."""
        return compare_digest(hash_of(self.secret), secret_hash)

    def __repr__(self) -> str:
        """Without the secret, as logs and lists have it."""
        return f"{self.prefix}_{self.number}_…"


def new_secret() -> str:
    return token_hex(32)


def hash_of(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def parse(text: str) -> Opaque | None:
    """The token in `text`; None where it cannot be one."""
    match = _TEXT.fullmatch(text)
    return None if match is None else Opaque(match[1], int(match[2]), match[3])
