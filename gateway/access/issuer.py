"""Whose JWTs are accepted, as the settings say it."""

from pathlib import Path

from gateway.access.jwks import JwksKeys
from gateway.access.jwts import Jwts
from gateway.access.keys import ASYMMETRIC, SYMMETRIC, Keys, pem_key, secret_key
from gateway.access.roles import Roles
from gateway.config import Settings, variable
from gateway.errors import StartupError

_SOURCES = ("jwt_jwks_url", "jwt_key_file", "jwt_secret", "jwt_secret_file")
_NEEDED = ("jwt_issuer", "jwt_audience")
_DEFAULTS = ("RS256", "ES256", "EdDSA")


def read_issuer(settings: Settings, roles: Roles) -> Jwts | None:
    """What verifies JWTs; None where the settings name no issuer. Raises StartupError."""
    given = [name for name in (*_SOURCES, *_NEEDED) if getattr(settings, name)]
    if not given:
        return None
    sources = [name for name in given if name in _SOURCES]
    if missing := [name for name in _NEEDED if name not in given]:
        raise StartupError(f"{variable(given[0])} needs {variable(missing[0])} too: tokens for others are not accepted")
    if len(sources) != 1:
        raise StartupError(f"JWTs need exactly one of {', '.join(variable(name) for name in _SOURCES)}")
    shared = sources[0] in ("jwt_secret", "jwt_secret_file")
    algorithms = settings.jwt_algorithms or (SYMMETRIC[:1] if shared else _DEFAULTS)
    legal = SYMMETRIC if shared else ASYMMETRIC
    if wrong := [name for name in algorithms if name not in legal]:
        raise StartupError(
            f"GATEWAY_JWT_ALGORITHMS with {variable(sources[0])} may name {', '.join(legal)}, not {wrong[0]!r}"
        )
    return Jwts(_keys(settings, sources[0]), frozenset(algorithms), roles, settings)


def _keys(settings: Settings, source: str) -> Keys:
    match source:
        case "jwt_jwks_url":
            return JwksKeys(settings.jwt_jwks_url)
        case "jwt_key_file":
            return pem_key(settings.jwt_key_file)
        case "jwt_secret":
            return secret_key(settings.jwt_secret.encode())
        case _:
            return secret_key(_file(settings.jwt_secret_file))


def _file(file: str) -> bytes:
    try:
        return Path(file).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise StartupError(f"GATEWAY_JWT_SECRET_FILE {file!r} cannot be read: {error.strerror}") from None
