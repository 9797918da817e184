"""JWTs of one issuer: what is verified of them, and how a caller is read out of their claims."""

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

from gateway.access.caller import Caller, is_name
from gateway.access.keys import Keys
from gateway.access.roles import Roles
from gateway.config import Settings
from gateway.errors import BadCredentials

_LATEST = 253_402_300_799.0  # the last second that has a date

# What the signature has vouched for may be told to whoever sent it.
_MESSAGES: dict[type[Exception], str] = {
    ExpiredSignatureError: "The token has expired.",
    ImmatureSignatureError: "The token is not valid yet.",
    InvalidIssuerError: "The token is of another issuer.",
    InvalidAudienceError: "The token is for another audience.",
}


class Jwts:
    """Verifies tokens of the issuer, for the audience, that `settings` name."""

    def __init__(self, keys: Keys, algorithms: frozenset[str], roles: Roles, settings: Settings) -> None:
        self._keys = keys
        self._algorithms = algorithms
        self._roles = roles
        self._issuer = settings.jwt_issuer
        self._audience = list(settings.jwt_audience)
        self._leeway = settings.jwt_leeway
        self._name = settings.jwt_name_claim
        self._roles_claim = settings.jwt_roles_claim
        self._tenant = settings.jwt_tenant_claim
        self._default_tenant = settings.jwt_default_tenant

    async def caller(self, token: str) -> Caller:
        """Whose token it is. Raises BadCredentials, and Unavailable while nobody can tell."""
        try:
            return self._caller(await self._claims(token))
        except MissingRequiredClaimError as error:
            raise BadCredentials(f"The token has no claim `{error.claim}`.") from None
        # A token can hold anything: numbers beyond all bounds, or lists in lists without end.
        except (PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise BadCredentials(*filter(None, [_MESSAGES.get(type(error))])) from None

    async def close(self) -> None:
        await self._keys.close()

    async def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, id_ = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise BadCredentials("The token is signed by an algorithm that is not accepted.")
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
                continue  # a token that names no key may be of another
        raise BadCredentials

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        name, subject = _claim(claims, self._name), claims.get("sub")
        if not isinstance(name, str) or not is_name(name):
            raise BadCredentials(f"The token names nobody in its claim `{self._name}`.")
        tenant = _claim(claims, self._tenant)
        if tenant is None:
            tenant = self._default_tenant
        if not isinstance(tenant, str) or not tenant:
            raise BadCredentials(f"The token names no tenant in its claim `{self._tenant}`.")
        return self._roles.caller(
            name,
            tenant,
            _names(_claim(claims, self._roles_claim)),
            # The subject is what an issuer never gives to another; names change hands.
            key=f"jwt:{subject}" if subject else f"jwt-name:{name}",
            expires_at=min(float(claims["exp"]) + self._leeway, _LATEST),
        )


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this very name, else what its dots lead to: `realm_access.roles`. None where there is none."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _names(claim: Any) -> tuple[str, ...]:
    """The roles of a list, or of a text with spaces between them; what else there may be are none."""
    if isinstance(claim, str):
        return tuple(claim.split())
    return tuple(name for name in claim if isinstance(name, str)) if isinstance(claim, list) else ()
