"""Creates the JWT verifier from the settings of the issuer, its keys and the claims."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic

from gateway.access.jwks import JwksKeySource
from gateway.access.jwts import JwtVerifier
from gateway.access.keys import ASYMMETRIC, SYMMETRIC, KeySource, key_from_pem_file, key_from_secret
from gateway.access.roles import Roles
from gateway.config import Settings, environment_variable
from gateway.errors import StartupError

_KEY_SOURCES = ("jwt_jwks_url", "jwt_key_file", "jwt_secret", "jwt_secret_file")
_REQUIRED = ("jwt_issuer", "jwt_audience")
_DEFAULT_ALGORITHMS = ("RS256", "ES256", "EdDSA")


def read_jwt_verifier(
    settings: Settings,
    roles: Roles,
    *,
    clock: Callable[[], float] = monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> JwtVerifier | None:
    """Return the verifier, or None if no JWT setting is set. Raises StartupError for an incomplete configuration.

    `clock` returns monotonic seconds, by which fetched keys age and `sleep` sleeps.
    """
    given = [name for name in (*_KEY_SOURCES, *_REQUIRED) if getattr(settings, name)]
    if not given:
        return None
    sources = [name for name in given if name in _KEY_SOURCES]
    if missing := [name for name in _REQUIRED if name not in given]:
        raise StartupError(
            f"{environment_variable(given[0])} requires {environment_variable(missing[0])}: a JWT must name the issuer"
            " and the audience."
        )
    if len(sources) != 1:
        names = ", ".join(environment_variable(name) for name in _KEY_SOURCES)
        raise StartupError(f"Verifying JWTs requires exactly one of {names}.")
    shared = sources[0] in ("jwt_secret", "jwt_secret_file")
    algorithms = settings.jwt_algorithms or (SYMMETRIC[:1] if shared else _DEFAULT_ALGORITHMS)
    legal = SYMMETRIC if shared else ASYMMETRIC
    if wrong := [name for name in algorithms if name not in legal]:
        raise StartupError(
            f"GATEWAY_JWT_ALGORITHMS with {environment_variable(sources[0])} must be among {', '.join(legal)},"
            f" not {wrong[0]!r}."
        )
    return JwtVerifier(_key_source(settings, sources[0], clock, sleep), frozenset(algorithms), roles, settings)


def _key_source(
    settings: Settings, setting: str, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
) -> KeySource:
    match setting:
        case "jwt_jwks_url":
            return JwksKeySource(settings.jwt_jwks_url, clock, sleep)
        case "jwt_key_file":
            return key_from_pem_file(settings.jwt_key_file)
        case "jwt_secret":
            return key_from_secret(settings.jwt_secret.encode())
        case _:
            return key_from_secret(_read_secret(settings.jwt_secret_file))


def _read_secret(file: str) -> bytes:
    try:
        return Path(file).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise StartupError(f"GATEWAY_JWT_SECRET_FILE {file!r} cannot be read: {error.strerror}.") from None
