"""Keys that verify JWTs.

A key determines the algorithms that it may verify; the token does not. Therefore a public key can never be used as a
shared secret (algorithm confusion), and the algorithm `none` does not exist.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from gateway.errors import StartupError

SYMMETRIC = ("HS256", "HS384", "HS512")
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
MIN_SECRET_BYTES = 32  # the size of the hash of HS256 (RFC 7518, 3.2)

_RSA = frozenset(name for name in ASYMMETRIC if name[:2] in ("RS", "PS"))
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_MIN_RSA_BITS = 2_048


class Key(NamedTuple):
    """A verification key: its `kid` if it has one, its value, and the algorithms that it may verify."""

    id: str | None
    value: Any
    algorithms: frozenset[str]


class KeySource(Protocol):
    """Supplies verification keys."""

    async def find(self, id: str | None, algorithm: str) -> Sequence[Key]:
        """Return the keys that a token with this `kid` and algorithm may be signed with.

        Raises Unavailable if the keys cannot be fetched now.
        """

    async def close(self) -> None:
        """Stop background work and close connections."""


class StaticKeySource:
    """Supplies one configured key, whatever `kid` a token has."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def find(self, id: str | None, algorithm: str) -> Sequence[Key]:
        return [self._key] if algorithm in self._key.algorithms else []

    async def close(self) -> None:
        pass


def key_from_pem_file(file: str) -> StaticKeySource:
    """Read a public key, or a certificate with one, from a PEM file. Raises StartupError."""
    try:
        pem = Path(file).read_bytes()
    except OSError as error:
        raise StartupError(f"GATEWAY_JWT_KEY_FILE {file!r} cannot be read: {error.strerror}.") from None
    if b"PRIVATE KEY" in pem:
        raise StartupError(
            f"GATEWAY_JWT_KEY_FILE {file!r} contains a private key. Provide the issuer's public key instead."
        )
    try:
        certificate = b"BEGIN CERTIFICATE" in pem
        value = load_pem_x509_certificate(pem).public_key() if certificate else load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise StartupError(f"GATEWAY_JWT_KEY_FILE {file!r} does not contain a public key in PEM format.") from None
    algorithms = _algorithms(value)
    if not algorithms:
        raise StartupError(
            f"GATEWAY_JWT_KEY_FILE {file!r} must contain an RSA key of at least {_MIN_RSA_BITS} bits, an EC key on the"
            " curve P-256, P-384 or P-521, or an Ed25519 key."
        )
    return StaticKeySource(Key(None, value, algorithms))


def key_from_secret(secret: bytes) -> StaticKeySource:
    """Return the source of a shared secret. Raises StartupError for a secret that is short enough to be guessed."""
    if len(secret) < MIN_SECRET_BYTES:
        raise StartupError(
            f"The secret in GATEWAY_JWT_SECRET or GATEWAY_JWT_SECRET_FILE must have at least {MIN_SECRET_BYTES} bytes."
        )
    return StaticKeySource(Key(None, secret, frozenset(SYMMETRIC)))


def keys_from_jwks(document: Any) -> list[Key]:
    """Return the keys of a JWKS that can verify signatures; others are skipped. Raises ValueError if it is no JWKS."""
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError("The response is not a JWKS.")  # noqa: TRY004 - describes received data, not an argument
    return [key for member in members if isinstance(member, dict) and (key := _key_from_jwk(member)) is not None]


def _key_from_jwk(member: dict[str, Any]) -> Key | None:
    id_ = member.get("kid")
    # Symmetric keys (`oct`) are skipped: a secret that is published at a URL is not secret.
    if member.get("kty") not in ("RSA", "EC", "OKP") or member.get("use", "sig") != "sig":
        return None
    try:
        if "verify" not in member.get("key_ops", ["verify"]):
            return None
        value = PyJWK({name: part for name, part in member.items() if name != "alg"}).key
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        return None
    algorithms = _algorithms(value)
    if "alg" in member:
        algorithms &= {member["alg"]} if isinstance(member["alg"], str) else set()
    return Key(id_ if isinstance(id_, str) else None, value, algorithms) if algorithms else None


def _algorithms(value: Any) -> frozenset[str]:
    """Return the algorithms a public key may verify: none for private keys and for weak or unknown kinds of keys."""
    match value:
        case RSAPublicKey():
            return _RSA if value.key_size >= _MIN_RSA_BITS else frozenset()
        case EllipticCurvePublicKey():
            return frozenset({_CURVES[value.curve.name]} if value.curve.name in _CURVES else ())
        case Ed25519PublicKey():
            return frozenset({"EdDSA"})
        case _:
            return frozenset()
