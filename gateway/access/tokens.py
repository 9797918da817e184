"""API tokens: created and revoked by an administrator, stored as hashes, valid until they expire or are revoked."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col, select

from gateway.access import opaque_tokens
from gateway.access.caller import Caller
from gateway.access.lookup_batch import LookupBatch
from gateway.access.models import ApiSession, ApiToken
from gateway.access.opaque_tokens import OpaqueToken
from gateway.access.roles import Roles
from gateway.columns import MAX_NAME_LENGTH, UtcDateTime, is_name, now
from gateway.errors import BadCredentials, Conflict, InvalidInput, NotFound
from gateway.store.database import Database, Transaction
from gateway.store.statements import OneOf, Query, RowId, Statement, insert

TOUCH_INTERVAL = timedelta(minutes=5)  # the last use of a token is recorded at most this often

_LIFETIME = re.compile(r"(\d{1,5})([dhm])", re.ASCII)
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_MAX_LIFETIME = timedelta(days=3_650)
_KEY_PREFIX = "token:"  # of the key of a caller with an API token, followed by the id of the token


class _TokenOwner(NamedTuple):
    id: int
    tenant: str


class StoredToken(NamedTuple):
    """The row of a token, by which it is verified."""

    id: int
    name: str
    secret_hash: str
    roles: str
    tenant: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class _ListedToken(NamedTuple):
    id: int
    name: str
    roles: str
    tenant: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


_ANY = Query(select(ApiToken.id).limit(1), RowId)
_INSERT = insert(ApiToken, "name", "secret_hash", "roles", "tenant", "created_at", "expires_at")
_UNREVOKED = (col(ApiToken.name) == bindparam("token_name"), col(ApiToken.revoked_at).is_(None))
_BY_NAME = Query(select(ApiToken.id, ApiToken.tenant).where(*_UNREVOKED).with_for_update(), _TokenOwner)
FIND_TOKENS = Query(
    sa.select(
        col(ApiToken.id),
        col(ApiToken.name),
        col(ApiToken.secret_hash),
        col(ApiToken.roles),
        col(ApiToken.tenant),
        col(ApiToken.expires_at),
        col(ApiToken.last_used_at),
        col(ApiToken.revoked_at),
    ).where(OneOf(col(ApiToken.id), "ids")),
    StoredToken,
)
_ALL = Query(
    sa.select(
        col(ApiToken.id),
        col(ApiToken.name),
        col(ApiToken.roles),
        col(ApiToken.tenant),
        col(ApiToken.created_at),
        col(ApiToken.expires_at),
        col(ApiToken.last_used_at),
        col(ApiToken.revoked_at),
    ).order_by(col(ApiToken.id)),
    _ListedToken,
)
_REVOKE = Statement(
    sa.update(ApiToken)
    .where(col(ApiToken.id) == bindparam("api_token_id"))
    .values(revoked_at=bindparam("at", type_=UtcDateTime()))
)
_END_SESSIONS = Statement(sa.delete(ApiSession).where(col(ApiSession.token_id) == bindparam("api_token_id")))
_TOUCH = Statement(
    sa.update(ApiToken)
    .where(col(ApiToken.id) == bindparam("api_token_id"))
    .values(last_used_at=bindparam("at", type_=UtcDateTime()))
)


async def any_token_exists(database: Database) -> bool:
    """Return whether a token was ever created, which makes authentication required even if it is revoked."""
    return await database.read(lambda tx: tx.first(_ANY), single=True) is not None


RecordChange = Callable[[Transaction, str], Awaitable[None]]  # called with the tenant in the transaction of the change


async def record_nothing(_transaction: Transaction, _tenant: str) -> None:
    """The `RecordChange` that writes no audit entry."""


@dataclass(frozen=True, slots=True)
class NewToken:
    """The arguments of a token to create. Without a lifetime it never expires."""

    name: str
    roles: Sequence[str]
    tenant: str
    lifetime: timedelta | None = None


async def create_token(database: Database, roles: Roles, new: NewToken, record: RecordChange = record_nothing) -> str:
    """Create a token and return its text, which cannot be recovered later.

    Raises InvalidInput, and Conflict if an unrevoked token has this name.
    """
    name, tenant = _checked_name(new.name, "name of a token"), _checked_name(new.tenant, "tenant of a token")
    roles.check(new.roles)
    at = now()
    secret = opaque_tokens.new_secret()

    async def work(tx: Transaction) -> int:
        if await tx.first(_BY_NAME, token_name=name) is not None:
            raise Conflict(f"Token {name!r} already exists. Revoke it or choose another name.")
        (row,) = await tx.all(
            _INSERT,
            name=name,
            secret_hash=opaque_tokens.hash_secret(secret),
            roles=orjson.dumps(sorted(set(new.roles))).decode(),
            tenant=tenant,
            created_at=at,
            expires_at=None if new.lifetime is None else at + new.lifetime,
        )
        await record(tx, tenant)
        return row.id

    return OpaqueToken(opaque_tokens.TOKEN_PREFIX, await database.write(work), secret).text()


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """The public attributes of a token, without its secret."""

    number: int
    name: str
    roles: tuple[str, ...]
    tenant: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def __str__(self) -> str:
        """Return the line that `gateway token list` prints."""
        if self.revoked_at is not None:
            state = f"revoked {_minute(self.revoked_at)}"
        elif self.expires_at is None:
            state = "never expires"
        else:
            state = f"{'expired' if self.expires_at <= now() else 'expires'} {_minute(self.expires_at)}"
        used = "never used" if self.last_used_at is None else f"last used {_minute(self.last_used_at)}"
        roles = ", ".join(self.roles)
        prefix = f"{opaque_tokens.TOKEN_PREFIX}_{self.number}_…"
        created = f"created {_minute(self.created_at)}"
        return f"{self.name}: {prefix}, {roles}, tenant {self.tenant}, {created}, {state}, {used}"


async def list_tokens(database: Database) -> list[TokenInfo]:
    """Return all tokens, also revoked and expired ones, in order of creation."""
    rows = await database.read(lambda tx: tx.all(_ALL), single=True)
    return [
        TokenInfo(
            number=row.id,
            name=row.name,
            roles=tuple(orjson.loads(row.roles)),
            tenant=row.tenant,
            created_at=row.created_at,
            expires_at=row.expires_at,
            last_used_at=row.last_used_at,
            revoked_at=row.revoked_at,
        )
        for row in rows
    ]


async def revoke_token(database: Database, name: str, record: RecordChange = record_nothing) -> None:
    """Revoke the token with this name and end its sessions.

    Raises NotFound if no unrevoked token has the name, and InvalidInput for a text that is no name.
    """
    name = _checked_name(name, "name of a token")

    async def work(tx: Transaction) -> None:
        row = await tx.first(_BY_NAME, token_name=name)
        if row is None:
            raise NotFound(f"Token {name!r} does not exist or is already revoked.")
        await tx.run(_REVOKE, api_token_id=row.id, at=now())
        await tx.run(_END_SESSIONS, api_token_id=row.id)
        await record(tx, row.tenant)

    await database.write(work)


async def token_caller(stored: LookupBatch[StoredToken], roles: Roles, token: OpaqueToken) -> tuple[Caller, bool]:
    """Return the caller of a token, and whether `touch_token` is due. Raises BadCredentials."""
    row = await stored.find(token.number)
    # Without the secret, the response does not disclose whether the token exists, is revoked or has expired.
    if row is None or not token.matches(row.secret_hash):
        raise BadCredentials
    at = now()
    if row.revoked_at is not None:
        raise BadCredentials("The token has been revoked.")
    if row.expires_at is not None and row.expires_at <= at:
        raise BadCredentials("The token has expired.")
    names = tuple(orjson.loads(row.roles))
    expires_at = None if row.expires_at is None else row.expires_at.timestamp()
    caller = roles.caller(row.name, row.tenant, names, key=f"{_KEY_PREFIX}{token.number}", expires_at=expires_at)
    return caller, row.last_used_at is None or row.last_used_at <= at - TOUCH_INTERVAL


async def touch_token(database: Database, token: OpaqueToken) -> None:
    """Record that the token was used now."""
    at: datetime = now()
    await database.write(lambda tx: tx.run(_TOUCH, api_token_id=token.number, at=at))


def api_token_id(caller: Caller) -> int | None:
    """Return the id of the API token that the caller authenticated with, directly or through a session, or None."""
    return int(caller.key.removeprefix(_KEY_PREFIX)) if caller.key.startswith(_KEY_PREFIX) else None


def parse_lifetime(text: str) -> timedelta | None:
    """Parse `90d`, `12h` or `30m`. Return None for `never`. Raises InvalidInput for other texts and over 3650 days."""
    if text == "never":
        return None
    match = _LIFETIME.fullmatch(text)
    lifetime = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < lifetime <= _MAX_LIFETIME:
        raise InvalidInput(
            f"The lifetime of a token must be a duration such as 90d, 12h or 30m, at most {_MAX_LIFETIME.days}d, or"
            f" never, not {text!r}."
        )
    return lifetime


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"


def _checked_name(text: str, what: str) -> str:
    text = text.strip()
    if not is_name(text):
        raise InvalidInput(f"The {what} must be 1 to {MAX_NAME_LENGTH} printable characters.")
    return text
