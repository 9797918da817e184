"""Verifies JWTs of one issuer and maps their claims to a caller."""

from collections.abc import Mapping
from typing import Any

import jwt
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from gateway.access.caller import Caller
from gateway.access.keys import KeySource
from gateway.access.roles import Roles
from gateway.columns import is_name
from gateway.config import Settings
from gateway.errors import BadCredentials

_MAX_TIMESTAMP = 253_402_300_799.0  # 9999-12-31T23:59:59Z, the last second that a datetime can represent

# OpenID Connect limits subjects to 255 ASCII characters. With more, the key, a tenant and an idempotency key of the
# longest names together could exceed the 2,704 bytes of an index entry on PostgreSQL.
_MAX_KEY_BYTES = 255

# These errors are raised after the signature was verified, so their reason may be disclosed to the sender.
_MESSAGES: dict[type[Exception], str] = {
    ExpiredSignatureError: "The token has expired.",
    ImmatureSignatureError: "The token is not valid yet.",
    InvalidIssuerError: "The token has another issuer.",
    InvalidAudienceError: "The token has another audience.",
}


class JwtVerifier:
    """Verifies JWTs against the issuer and audience of `settings`."""

    def __init__(self, keys: KeySource, algorithms: frozenset[str], roles: Roles, settings: Settings) -> None:
        self._keys = keys
        self._algorithms = algorithms
        self._roles = roles
        self._issuer = settings.jwt_issuer
        self._audience = list(settings.jwt_audience)
        self._leeway = settings.jwt_leeway
        self._name_claim = settings.jwt_name_claim
        self._roles_claim = settings.jwt_roles_claim
        self._tenant_claim = settings.jwt_tenant_claim
        self._default_tenant = settings.jwt_default_tenant

    async def caller(self, token: str) -> Caller:
        """Verify `token` and return its caller. Raises BadCredentials, and Unavailable if no keys can be fetched."""
        try:
            return self._caller(await self._claims(token))
        except MissingRequiredClaimError as error:
            raise BadCredentials(f"The token has no claim `{error.claim}`.") from None
        # A malformed token can cause any of these, for example by huge numbers or deeply nested lists.
        except (PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise BadCredentials(*filter(None, [_MESSAGES.get(type(error))])) from None

    async def close(self) -> None:
        await self._keys.close()

    async def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, id_ = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise BadCredentials("The token is signed with an algorithm that is not accepted.")
        for key in await self._keys.find(id_, algorithm):
            try:
                return jwt.decode(
                    token,
                    key.value,
                    algorithms=[algorithm],
                    audience=self._audience,
                    issuer=self._issuer,
                    leeway=self._leeway,
                    options={"require": ["exp", "iss", "aud"]},
                )
            except InvalidSignatureError:
                continue  # a token without `kid` may be signed with another key
        raise BadCredentials

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        name = _claim(claims, self._name_claim)
        if not isinstance(name, str) or not is_name(name):
            raise BadCredentials(f"The token has no valid caller name in its claim `{self._name_claim}`.")
        tenant = _claim(claims, self._tenant_claim)
        if tenant is None:
            tenant = self._default_tenant
        if not isinstance(tenant, str) or not tenant:
            raise BadCredentials(f"The token has no tenant in its claim `{self._tenant_claim}`.")
        if not is_name(tenant):
            raise BadCredentials(f"The token has no valid tenant in its claim `{self._tenant_claim}`.")
        roles = _role_names(_claim(claims, self._roles_claim))
        if not all(map(is_name, roles)):
            raise BadCredentials(f"The token has an invalid role in its claim `{self._roles_claim}`.")
        return self._roles.caller(
            name, tenant, roles, key=_caller_key(claims.get("sub"), name), expires_at=self._expires_at(claims)
        )

    def _expires_at(self, claims: Mapping[str, Any]) -> float:
        return min(float(claims["exp"]) + self._leeway, _MAX_TIMESTAMP)


def _caller_key(subject: object, name: str) -> str:
    """Return the unique identifier of the caller. Raises BadCredentials for a text that cannot be stored as one."""
    # An issuer never reassigns a subject, but may reassign a name.
    text, prefix = (subject, "jwt") if subject else (name, "jwt-name")
    if not isinstance(text, str) or not text.isprintable() or len(text.encode()) > _MAX_KEY_BYTES:
        raise BadCredentials(f"The token must identify the caller by at most {_MAX_KEY_BYTES} printable bytes.")
    return f"{prefix}:{text}"


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return the claim `name`, or else the value at its dotted path, such as `realm_access.roles`; None if absent."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _role_names(claim: Any) -> tuple[str, ...]:
    """Return the role names in a list, or in a string separated by spaces. Other values contain no roles."""
    if isinstance(claim, str):
        return tuple(claim.split())
    return tuple(name for name in claim if isinstance(name, str)) if isinstance(claim, list) else ()
