"""The keys that verify JWTs: each knows the algorithms that it may be used with, whatever a token says.

So no public key is ever taken for a shared secret, and `none` is not an algorithm.
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
SHORTEST_SECRET = 32  # bytes, as many as HS256 makes of them (RFC 7518, 3.2)

_RSA = frozenset(name for name in ASYMMETRIC if name[:2] in ("RS", "PS"))
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_SHORTEST_RSA = 2_048  # bits


class Key(NamedTuple):
    """A key, what its issuer calls it, and what it may verify."""

    id: str | None
    value: Any
    algorithms: frozenset[str]


class Keys(Protocol):
    """Where keys come from."""

    async def find(self, id: str | None, algorithm: str) -> Sequence[Key]:
        """Those that a token may be signed with. Raises Unavailable when that cannot be told now."""

    async def close(self) -> None:
        """Stops whatever runs for them."""


class FixedKeys:
    """One key, whatever a token calls it."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def find(self, id: str | None, algorithm: str) -> Sequence[Key]:
        return [self._key] if algorithm in self._key.algorithms else []

    async def close(self) -> None:
        pass


def pem_key(file: str) -> FixedKeys:
    """The public key, or the certificate's, in a PEM file. Raises StartupError."""
    try:
        pem = Path(file).read_bytes()
    except OSError as error:
        raise StartupError(f"GATEWAY_JWT_KEY_FILE {file!r} cannot be read: {error.strerror}") from None
    if b"PRIVATE KEY" in pem:
        raise StartupError(f"GATEWAY_JWT_KEY_FILE {file!r} holds a private key: the gateway only needs the public one")
    try:
        certificate = b"BEGIN CERTIFICATE" in pem
        value = load_pem_x509_certificate(pem).public_key() if certificate else load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise StartupError(f"GATEWAY_JWT_KEY_FILE {file!r} holds no public key in PEM") from None
    algorithms = _algorithms(value)
    if not algorithms:
        raise StartupError(
            f"GATEWAY_JWT_KEY_FILE {file!r} must hold an RSA key of at least {_SHORTEST_RSA} bits, one on a curve"
            " P-256, P-384 or P-521, or an Ed25519 key"
        )
    return FixedKeys(Key(None, value, algorithms))


def secret_key(secret: bytes) -> FixedKeys:
    """A shared secret. Raises StartupError for one that could be guessed."""
    if len(secret) < SHORTEST_SECRET:
        raise StartupError(f"the shared secret of JWTs must have at least {SHORTEST_SECRET} bytes")
    return FixedKeys(Key(None, secret, frozenset(SYMMETRIC)))


def jwk_keys(document: Any) -> list[Key]:
    """The keys of a JWKS that are fit to verify; others are left out. Raises ValueError for what is no JWKS."""
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError("it is no JWKS")  # noqa: TRY004 - what was received, not what was passed
    return [key for member in members if isinstance(member, dict) and (key := _jwk_key(member)) is not None]


def _jwk_key(member: dict[str, Any]) -> Key | None:
    id_ = member.get("kid")
    # A shared secret would be no secret where everybody can fetch it.
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
    """What a public key may verify; nothing for a private key, and for kinds that are weak or unknown."""
    match value:
        case RSAPublicKey():
            return _RSA if value.key_size >= _SHORTEST_RSA else frozenset()
        case EllipticCurvePublicKey():
            return frozenset({_CURVES[value.curve.name]} if value.curve.name in _CURVES else ())
        case Ed25519PublicKey():
            return frozenset({"EdDSA"})
        case _:
            return frozenset()
