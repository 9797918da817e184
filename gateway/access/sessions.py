"""What `/api/auth` gives out: a token to use instead of credentials, good for ten minutes after its last use.

In the database, so it is known to every process and survives a restart. None lives longer than twelve hours, or than
the credentials that it was given for.
"""

from datetime import UTC, datetime, timedelta

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.access import opaque_tokens
from gateway.access.caller import Caller
from gateway.access.models import ApiSession, ApiToken
from gateway.access.opaque_tokens import Opaque
from gateway.access.roles import Roles
from gateway.access.tokens import token_number
from gateway.columns import UtcDateTime, now
from gateway.errors import BadCredentials
from gateway.store.database import Database, Transaction
from gateway.store.statements import Statement, insert

TTL = timedelta(minutes=10)  # after the last use; ManageIQ's default
LONGEST = timedelta(hours=12)
TOUCH_AFTER = timedelta(minutes=1)  # a use that soon after another is not kept, so the end may come that much later
MOST = 100  # of one caller; the oldest make way

_INSERT = insert(
    ApiSession, "secret_hash", "token_id", "caller", "name", "roles", "tenant", "expires_at", "last_used_at"
)
_LOCK_TOKEN = Statement(
    sa.select(col(ApiToken.revoked_at)).where(col(ApiToken.id) == bindparam("of")).with_for_update(read=True)
)
_FIND = Statement(
    sa.select(
        col(ApiSession.secret_hash),
        col(ApiSession.caller),
        col(ApiSession.name),
        col(ApiSession.roles),
        col(ApiSession.tenant),
        col(ApiSession.expires_at),
        col(ApiSession.last_used_at),
    ).where(col(ApiSession.id) == bindparam("of"))
)
_TOUCH = Statement(
    sa.update(ApiSession)
    .where(col(ApiSession.id) == bindparam("of"))
    .values(last_used_at=bindparam("at", type_=UtcDateTime()))
)
_DELETE = Statement(sa.delete(ApiSession).where(col(ApiSession.id) == bindparam("of")))
_CLEAR = Statement(
    sa.delete(ApiSession).where(
        sa.or_(
            col(ApiSession.expires_at) <= bindparam("at", type_=UtcDateTime()),
            col(ApiSession.last_used_at) <= bindparam("unused_since", type_=UtcDateTime()),
        )
    )
)
_newest = (
    sa.select(col(ApiSession.id))
    .where(col(ApiSession.caller) == bindparam("whose"))
    .order_by(col(ApiSession.id).desc())
    .limit(MOST - 1)
)
_MAKE_WAY = Statement(
    sa.delete(ApiSession).where(col(ApiSession.caller) == bindparam("whose"), col(ApiSession.id).not_in(_newest))
)


async def issue_session(database: Database, caller: Caller) -> str:
    """A new session's token. Raises BadCredentials when the caller's own token has just been revoked."""
    at = now()
    ends = at + LONGEST
    if caller.expires_at is not None:
        ends = min(ends, datetime.fromtimestamp(caller.expires_at, UTC))
    secret = opaque_tokens.new_secret()
    token_id = token_number(caller)

    async def work(tx: Transaction) -> int:
        if token_id is not None:
            # Locked, so that whoever revokes it waits for this session, and then ends it too.
            row = await tx.first(_LOCK_TOKEN, of=token_id)
            if row is None or row.revoked_at is not None:
                raise BadCredentials("The token has been revoked.")
        await tx.run(_CLEAR, at=at, unused_since=at - TTL - TOUCH_AFTER)
        await tx.run(_MAKE_WAY, whose=caller.key)
        row = await tx.first(
            _INSERT,
            secret_hash=opaque_tokens.hash_of(secret),
            token_id=token_id,
            caller=caller.key,
            name=caller.name,
            roles=orjson.dumps(caller.roles).decode(),
            tenant=caller.tenant,
            expires_at=ends,
            last_used_at=at,
        )
        number: int = row.id
        return number

    return Opaque(opaque_tokens.SESSION, await database.write(work), secret).text()


async def session_caller(database: Database, roles: Roles, session: Opaque) -> tuple[Caller, bool]:
    """Whose session it is, and whether `touch_session` is due. Raises BadCredentials."""
    row = await database.read(lambda tx: tx.first(_FIND, of=session.number), single=True)
    if row is None or not session.is_of(row.secret_hash):
        raise BadCredentials
    at = now()
    if row.expires_at <= at or row.last_used_at <= at - TTL - TOUCH_AFTER:
        raise BadCredentials("The token has expired.")
    names, ends = tuple(orjson.loads(row.roles)), row.expires_at.timestamp()
    caller = roles.caller(row.name, row.tenant, names, key=row.caller, expires_at=ends)
    return caller, row.last_used_at <= at - TOUCH_AFTER


async def touch_session(database: Database, session: Opaque) -> None:
    """Gives it its time again."""
    at = now()
    await database.write(lambda tx: tx.run(_TOUCH, of=session.number, at=at))


async def end_session(database: Database, session: Opaque) -> None:
    """Takes it back; `session` has been verified."""
    await database.write(lambda tx: tx.run(_DELETE, of=session.number))
