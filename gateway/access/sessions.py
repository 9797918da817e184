"""Sessions: tokens created by `/api/auth` that clients send instead of their credentials.

A session expires 10 minutes after its last use, 12 hours after its creation, and with the credentials that created it.
It is stored in the database, so every process accepts it and it survives a restart.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.access import opaque_tokens
from gateway.access.caller import Caller
from gateway.access.lookup_batch import LookupBatch
from gateway.access.models import ApiSession, ApiToken
from gateway.access.opaque_tokens import OpaqueToken
from gateway.access.roles import Roles
from gateway.access.tokens import api_token_id
from gateway.columns import UtcDateTime, now
from gateway.errors import BadCredentials
from gateway.store.database import Database, Transaction
from gateway.store.statements import OneOf, Query, Statement, insert

IDLE_TIMEOUT = timedelta(minutes=10)  # since the last use; ManageIQ's default
MAX_LIFETIME = timedelta(hours=12)
TOUCH_INTERVAL = timedelta(minutes=1)  # a use is recorded at most this often, so a session may live this much longer
MAX_PER_CALLER = 100  # the oldest are deleted first


class _TokenRevocation(NamedTuple):
    revoked_at: datetime | None


class StoredSession(NamedTuple):
    """The row of a session, by which it is verified."""

    id: int
    secret_hash: str
    caller: str
    name: str
    roles: str
    tenant: str
    expires_at: datetime
    last_used_at: datetime


_INSERT = insert(
    ApiSession, "secret_hash", "token_id", "caller", "name", "roles", "tenant", "expires_at", "last_used_at"
)
_LOCK_TOKEN = Query(
    sa.select(col(ApiToken.revoked_at)).where(col(ApiToken.id) == bindparam("api_token_id")).with_for_update(read=True),
    _TokenRevocation,
)
FIND_SESSIONS = Query(
    sa.select(
        col(ApiSession.id),
        col(ApiSession.secret_hash),
        col(ApiSession.caller),
        col(ApiSession.name),
        col(ApiSession.roles),
        col(ApiSession.tenant),
        col(ApiSession.expires_at),
        col(ApiSession.last_used_at),
    ).where(OneOf(col(ApiSession.id), "ids")),
    StoredSession,
)
_TOUCH = Statement(
    sa.update(ApiSession)
    .where(col(ApiSession.id) == bindparam("session_id"))
    .values(last_used_at=bindparam("at", type_=UtcDateTime()))
)
_DELETE = Statement(sa.delete(ApiSession).where(col(ApiSession.id) == bindparam("session_id")))
_DELETE_EXPIRED = Statement(
    sa.delete(ApiSession).where(
        sa.or_(
            col(ApiSession.expires_at) <= bindparam("at", type_=UtcDateTime()),
            col(ApiSession.last_used_at) <= bindparam("unused_since", type_=UtcDateTime()),
        )
    )
)
_kept_ids = (
    sa.select(col(ApiSession.id))
    .where(col(ApiSession.caller) == bindparam("caller_key"))
    .order_by(col(ApiSession.id).desc())
    .limit(MAX_PER_CALLER - 1)
)
_DELETE_OLDEST = Statement(
    sa.delete(ApiSession).where(col(ApiSession.caller) == bindparam("caller_key"), col(ApiSession.id).not_in(_kept_ids))
)


async def create_session(database: Database, caller: Caller, prefix: str = opaque_tokens.SESSION_PREFIX) -> str:
    """Create a session and return its token. Raises BadCredentials if the caller's API token has been revoked.

    `prefix`: SESSION_PREFIX or WEBSOCKET_PREFIX.
    """
    at = now()
    expires_at = at + MAX_LIFETIME
    if caller.expires_at is not None:
        expires_at = min(expires_at, datetime.fromtimestamp(caller.expires_at, UTC))
    secret = opaque_tokens.new_secret()
    token_id = api_token_id(caller)

    async def work(tx: Transaction) -> int:
        if token_id is not None:
            # The lock makes a concurrent revocation wait for this session, so that the revocation ends it too.
            token = await tx.first(_LOCK_TOKEN, api_token_id=token_id)
            if token is None or token.revoked_at is not None:
                raise BadCredentials("The token has been revoked.")
        await tx.run(_DELETE_EXPIRED, at=at, unused_since=at - IDLE_TIMEOUT - TOUCH_INTERVAL)
        await tx.run(_DELETE_OLDEST, caller_key=caller.key)
        (row,) = await tx.all(
            _INSERT,
            secret_hash=OpaqueToken(prefix, 0, secret).secret_hash,
            token_id=token_id,
            caller=caller.key,
            name=caller.name,
            roles=orjson.dumps(caller.roles).decode(),
            tenant=caller.tenant,
            expires_at=expires_at,
            last_used_at=at,
        )
        return row.id

    return OpaqueToken(prefix, await database.write(work), secret).text()


async def session_caller(stored: LookupBatch[StoredSession], roles: Roles, session: OpaqueToken) -> tuple[Caller, bool]:
    """Return the caller of a session, and whether `touch_session` is due. Raises BadCredentials."""
    row = await stored.find(session.number)
    if row is None or not session.matches(row.secret_hash):
        raise BadCredentials
    at = now()
    if row.expires_at <= at or row.last_used_at <= at - IDLE_TIMEOUT - TOUCH_INTERVAL:
        raise BadCredentials("The token has expired.")
    names, expires_at = tuple(orjson.loads(row.roles)), row.expires_at.timestamp()
    caller = roles.caller(row.name, row.tenant, names, key=row.caller, expires_at=expires_at)
    return caller, row.last_used_at <= at - TOUCH_INTERVAL


async def touch_session(database: Database, session: OpaqueToken) -> None:
    """Record that the session was used now, which restarts its idle timeout."""
    at = now()
    await database.write(lambda tx: tx.run(_TOUCH, session_id=session.number, at=at))


async def end_session(database: Database, session: OpaqueToken) -> None:
    """Delete the session. The caller must have verified it."""
    await database.write(lambda tx: tx.run(_DELETE, session_id=session.number))
