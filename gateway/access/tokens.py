"""API tokens: given out by an administrator, kept hashed in the database, good until they expire or are revoked."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col, select

from gateway.access import opaque_tokens
from gateway.access.caller import LONGEST_NAME, Caller, is_name
from gateway.access.models import ApiSession, ApiToken
from gateway.access.opaque_tokens import Opaque
from gateway.access.roles import Roles
from gateway.columns import UtcDateTime, now
from gateway.errors import BadCredentials, Conflict, InvalidInput, NotFound
from gateway.store.database import Database, Transaction
from gateway.store.statements import Statement, insert

TOUCH_AFTER = timedelta(minutes=5)  # how coarsely it is kept when a token was last used

_KEY = "token:"

_ANY = Statement(select(ApiToken.id).limit(1))
_INSERT = insert(ApiToken, "name", "secret_hash", "roles", "tenant", "created_at", "expires_at")
_LIVE = (col(ApiToken.name) == bindparam("of"), col(ApiToken.revoked_at).is_(None))
_BY_NAME = Statement(select(ApiToken.id, ApiToken.tenant).where(*_LIVE).with_for_update())
_BY_ID = Statement(
    sa.select(
        col(ApiToken.name),
        col(ApiToken.secret_hash),
        col(ApiToken.roles),
        col(ApiToken.tenant),
        col(ApiToken.expires_at),
        col(ApiToken.last_used_at),
        col(ApiToken.revoked_at),
    ).where(col(ApiToken.id) == bindparam("of"))
)
_ALL = Statement(
    sa.select(
        col(ApiToken.id),
        col(ApiToken.name),
        col(ApiToken.roles),
        col(ApiToken.tenant),
        col(ApiToken.created_at),
        col(ApiToken.expires_at),
        col(ApiToken.last_used_at),
        col(ApiToken.revoked_at),
    ).order_by(col(ApiToken.id))
)
_REVOKE = Statement(
    sa.update(ApiToken)
    .where(col(ApiToken.id) == bindparam("of"))
    .values(revoked_at=bindparam("at", type_=UtcDateTime()))
)
_END_SESSIONS = Statement(sa.delete(ApiSession).where(col(ApiSession.token_id) == bindparam("of")))
_TOUCH = Statement(
    sa.update(ApiToken)
    .where(col(ApiToken.id) == bindparam("of"))
    .values(last_used_at=bindparam("at", type_=UtcDateTime()))
)


async def any_token(database: Database) -> bool:
    """Whether there has ever been one: from then on everybody is asked who they are."""
    return await database.read(lambda tx: tx.first(_ANY), single=True) is not None


Record = Callable[[Transaction, str], Awaitable[None]]  # is told the tenant, in the transaction of the change


async def unrecorded(_transaction: Transaction, _tenant: str) -> None:
    """For whoever keeps no record."""


async def create_token(
    database: Database,
    roles: Roles,
    name: str,
    role_names: Sequence[str],
    tenant: str,
    lifetime: timedelta | None,
    record: Record = unrecorded,
) -> str:
    """Makes a token and returns its text, which nobody can find out again. Without a lifetime it never expires.

    Raises InvalidInput, and Conflict when a token of this name is not revoked.
    """
    name, tenant = _word(name, "name"), _word(tenant, "tenant")
    roles.check(role_names)
    at = now()
    secret = opaque_tokens.new_secret()

    async def work(tx: Transaction) -> int:
        if await tx.first(_BY_NAME, of=name) is not None:
            raise Conflict(f"there is a token {name!r} already: revoke it, or choose another name")
        row = await tx.first(
            _INSERT,
            name=name,
            secret_hash=opaque_tokens.hash_of(secret),
            roles=orjson.dumps(sorted(set(role_names))).decode(),
            tenant=tenant,
            created_at=at,
            expires_at=None if lifetime is None else at + lifetime,
        )
        await record(tx, tenant)
        number: int = row.id
        return number

    return Opaque(opaque_tokens.TOKEN, await database.write(work), secret).text()


@dataclass(frozen=True, slots=True)
class KnownToken:
    """What there is to know of a token, without what would let anybody in."""

    number: int
    name: str
    roles: tuple[str, ...]
    tenant: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def __str__(self) -> str:
        if self.revoked_at is not None:
            state = f"revoked {_day(self.revoked_at)}"
        elif self.expires_at is None:
            state = "never expires"
        else:
            state = f"{'expired' if self.expires_at <= now() else 'expires'} {_day(self.expires_at)}"
        used = "never used" if self.last_used_at is None else f"last used {_day(self.last_used_at)}"
        roles = ", ".join(self.roles)
        begin = f"{opaque_tokens.TOKEN}_{self.number}_…"
        return f"{self.name}: {begin}, {roles}, tenant {self.tenant}, made {_day(self.created_at)}, {state}, {used}"


async def list_tokens(database: Database) -> list[KnownToken]:
    """All there have been, in the order they were made."""
    rows = await database.read(lambda tx: tx.all(_ALL), single=True)
    return [KnownToken(id_, name, tuple(orjson.loads(roles)), *rest) for id_, name, roles, *rest in rows]


async def revoke_token(database: Database, name: str, record: Record = unrecorded) -> None:
    """Ends the token of this name and the sessions that it began. Raises NotFound when none is to be revoked."""

    async def work(tx: Transaction) -> None:
        row = await tx.first(_BY_NAME, of=name)
        if row is None:
            raise NotFound(f"there is no token {name!r} that could be revoked")
        await tx.run(_REVOKE, of=row.id, at=now())
        await tx.run(_END_SESSIONS, of=row.id)
        await record(tx, row.tenant)

    await database.write(work)


async def token_caller(database: Database, roles: Roles, token: Opaque) -> tuple[Caller, bool]:
    """Whose token it is, and whether `touch_token` is due. Raises BadCredentials."""
    row = await database.read(lambda tx: tx.first(_BY_ID, of=token.number), single=True)
    # Nobody learns without the secret whether there is such a token, or how it is with it.
    if row is None or not token.is_of(row.secret_hash):
        raise BadCredentials
    at = now()
    if row.revoked_at is not None:
        raise BadCredentials("The token has been revoked.")
    if row.expires_at is not None and row.expires_at <= at:
        raise BadCredentials("The token has expired.")
    names, ends = tuple(orjson.loads(row.roles)), None if row.expires_at is None else row.expires_at.timestamp()
    caller = roles.caller(row.name, row.tenant, names, key=f"{_KEY}{token.number}", expires_at=ends)
    return caller, row.last_used_at is None or row.last_used_at <= at - TOUCH_AFTER


async def touch_token(database: Database, token: Opaque) -> None:
    """Keeps that it was used now."""
    at: datetime = now()
    await database.write(lambda tx: tx.run(_TOUCH, of=token.number, at=at))


def token_number(caller: Caller) -> int | None:
    """The API token that this caller came with, themselves or through a session."""
    return int(caller.key.removeprefix(_KEY)) if caller.key.startswith(_KEY) else None


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"


def _word(text: str, what: str) -> str:
    text = text.strip()
    if not is_name(text):
        raise InvalidInput(f"the {what} must be 1 to {LONGEST_NAME} printable characters")
    return text
