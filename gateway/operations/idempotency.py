"""Keys that make a repeated request the same request: per tenant, caller and mutation, for 24 hours.

The key is put in first, in the transaction that does the work. Of two requests at the same time the second waits for
the first on the primary key (SQLite has one writer anyhow), and then finds what it answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.access.caller import Caller
from gateway.columns import Text, UtcDateTime, now
from gateway.errors import IdempotencyKeyReused, Reference, Refusal
from gateway.models import IdempotencyKey
from gateway.operations.commands.base import Outcome, check_key
from gateway.store.database import Transaction
from gateway.store.statements import Statement

LIFETIME = timedelta(hours=24)

_REFUSALS = {kind.code: kind for kind in Refusal.__subclasses__()}

_PUT = Statement(
    sa.text(
        "INSERT INTO idempotency_key (tenant, caller, mutation, key, fingerprint, answer, created_at)"
        " VALUES (:tenant, :caller, :mutation, :key, :fingerprint, '[]', :at) ON CONFLICT DO NOTHING"
    ).bindparams(
        *(bindparam(name, type_=Text()) for name in ("tenant", "caller", "mutation", "key", "fingerprint")),
        bindparam("at", type_=UtcDateTime()),
    )
)

_MINE = (
    col(IdempotencyKey.tenant) == bindparam("tenant"),
    col(IdempotencyKey.caller) == bindparam("caller"),
    col(IdempotencyKey.mutation) == bindparam("mutation"),
    col(IdempotencyKey.key) == bindparam("key"),
)

_TAKE_EXPIRED = Statement(
    sa.update(IdempotencyKey)
    .where(*_MINE, col(IdempotencyKey.created_at) < bindparam("expired"))
    .values(fingerprint=bindparam("new_fingerprint"), created_at=bindparam("at"))
)

_LOOK = Statement(sa.select(col(IdempotencyKey.fingerprint), col(IdempotencyKey.answer)).where(*_MINE))

_ANSWER = Statement(sa.update(IdempotencyKey).where(*_MINE).values(answer=bindparam("new_answer")))


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a key."""

    tenant: str
    caller: str
    mutation: str
    key: str
    fingerprint: str

    async def begin(self, tx: Transaction) -> list[Outcome] | None:
        """What was answered before; None when this is the first use. Raises IdempotencyKeyReused."""
        while True:
            at = now()
            if await tx.run(_PUT, **self._names(), fingerprint=self.fingerprint, at=at):
                return None
            expired = {"expired": at - LIFETIME, "new_fingerprint": self.fingerprint, "at": at}
            if await tx.run(_TAKE_EXPIRED, **self._names(), **expired):
                return None
            row = await tx.first(_LOOK, **self._names())
            if row is None:
                continue  # cleared away just now
            if row.fingerprint != self.fingerprint:
                raise IdempotencyKeyReused(
                    "the idempotency key was used for a request with other arguments", path=("idempotencyKey",)
                )
            return [_outcome(item) for item in orjson.loads(row.answer)]

    async def end(self, tx: Transaction, outcomes: Sequence[Outcome]) -> None:
        """Keeps what is answered."""
        answer = orjson.dumps([_data(outcome) for outcome in outcomes]).decode()
        await tx.run(_ANSWER, **self._names(), new_answer=answer)

    def _names(self) -> dict[str, str]:
        return {"tenant": self.tenant, "caller": self.caller, "mutation": self.mutation, "key": self.key}


def use(caller: Caller, mutation: str, key: str | None, arguments: Mapping[str, Any]) -> Use | None:
    """The use that a request makes of its key, if it has one. Raises InvalidInput for what cannot be a key."""
    check_key(key)
    if key is None:
        return None
    fingerprint = sha256(orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Use(caller.tenant, caller.key, mutation, key, fingerprint)


def _data(outcome: Outcome) -> dict[str, Any]:
    data: dict[str, Any] = {
        "operation": outcome.operation_id,
        "snapshot": outcome.snapshot_id,
        "machine": outcome.machine_id,
        "descendant": outcome.is_descendant,
    }
    if (refusal := outcome.refusal) is not None:
        data |= {"code": refusal.code, "message": refusal.message, "path": refusal.path}
        if refusal.conflict is not None:
            data["conflict"] = [refusal.conflict.noun, refusal.conflict.id]
    return data


def _outcome(data: Mapping[str, Any]) -> Outcome:
    refusal = None
    if "code" in data:
        conflict = Reference(*data["conflict"]) if "conflict" in data else None
        refusal = _REFUSALS[data["code"]](data["message"], path=data["path"], conflict=conflict)
    return Outcome(data["operation"], data["snapshot"], data["machine"], data["descendant"], refusal)
