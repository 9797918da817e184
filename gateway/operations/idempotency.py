"""Idempotency keys: a repeated request returns the recorded outcomes. Valid per tenant, caller and mutation, 24 hours.

The transaction that does the work inserts the key first. Of two concurrent requests, the second waits for the first on
the primary key (on SQLite, for the single writer) and then finds its outcomes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import NamedTuple, NotRequired, TypedDict

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.access.caller import Caller
from gateway.columns import Text, UtcDateTime, now
from gateway.errors import ErrorCode, IdempotencyKeyReused, Reference, Refusal
from gateway.models import IdempotencyKey
from gateway.operations.commands.base import Outcome, check_key
from gateway.store.database import Transaction
from gateway.store.statements import Query, Statement

LIFETIME = timedelta(hours=24)


class _RecordedUse(NamedTuple):
    fingerprint: str
    answer: str  # JSON: a list of _RecordedOutcome


class _RecordedOutcome(TypedDict):
    operation: int | None
    snapshot: int | None
    machine: int | None
    descendant: bool
    # The refusal, if there is one
    code: NotRequired[str]
    message: NotRequired[str]
    path: NotRequired[Sequence[str]]
    conflict: NotRequired[tuple[str, int]]


_REFUSALS = {kind.code: kind for kind in Refusal.__subclasses__()}

_INSERT = Statement(
    sa.text(
        "INSERT INTO idempotency_key (tenant, caller, mutation, key, fingerprint, answer, created_at)"
        " VALUES (:tenant, :caller, :mutation, :key, :fingerprint, '[]', :at) ON CONFLICT DO NOTHING"
    ).bindparams(
        *(bindparam(name, type_=Text()) for name in ("tenant", "caller", "mutation", "key", "fingerprint")),
        bindparam("at", type_=UtcDateTime()),
    )
)

_THIS_KEY = (
    col(IdempotencyKey.tenant) == bindparam("tenant"),
    col(IdempotencyKey.caller) == bindparam("caller"),
    col(IdempotencyKey.mutation) == bindparam("mutation"),
    col(IdempotencyKey.key) == bindparam("key"),
)

_REUSE_EXPIRED = Statement(
    sa.update(IdempotencyKey)
    .where(*_THIS_KEY, col(IdempotencyKey.created_at) < bindparam("expired"))
    .values(fingerprint=bindparam("new_fingerprint"), created_at=bindparam("at"))
)

_READ = Query(sa.select(col(IdempotencyKey.fingerprint), col(IdempotencyKey.answer)).where(*_THIS_KEY), _RecordedUse)

_SET_ANSWER = Statement(sa.update(IdempotencyKey).where(*_THIS_KEY).values(answer=bindparam("new_answer")))


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a key by a request. `fingerprint` is the SHA-256 of the request's arguments."""

    tenant: str
    caller: str
    mutation: str
    key: str
    fingerprint: str

    async def begin(self, tx: Transaction) -> list[Outcome] | None:
        """The recorded outcomes; None if this is the first use in 24 hours. Raises IdempotencyKeyReused."""
        while True:
            at = now()
            if await tx.run(_INSERT, **self._key_values(), fingerprint=self.fingerprint, at=at):
                return None
            expired = {"expired": at - LIFETIME, "new_fingerprint": self.fingerprint, "at": at}
            if await tx.run(_REUSE_EXPIRED, **self._key_values(), **expired):
                return None
            row = await tx.first(_READ, **self._key_values())
            if row is None:
                continue  # housekeeping has just deleted it
            if row.fingerprint != self.fingerprint:
                raise IdempotencyKeyReused(
                    "The idempotency key was used for a request with other arguments. Use a new key.",
                    path=("idempotencyKey",),
                )
            recorded: list[_RecordedOutcome] = orjson.loads(row.answer)
            return [_outcome(item) for item in recorded]

    async def end(self, tx: Transaction, outcomes: Sequence[Outcome]) -> None:
        """Records the outcomes."""
        answer = orjson.dumps([_data(outcome) for outcome in outcomes]).decode()
        await tx.run(_SET_ANSWER, **self._key_values(), new_answer=answer)

    def _key_values(self) -> dict[str, str]:
        return {"tenant": self.tenant, "caller": self.caller, "mutation": self.mutation, "key": self.key}


def use(caller: Caller, mutation: str, key: str | None, arguments: Mapping[str, object]) -> Use | None:
    """The use of `key`, or None without a key. Raises InvalidInput for a malformed key."""
    check_key(key)
    if key is None:
        return None
    fingerprint = sha256(orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Use(caller.tenant, caller.key, mutation, key, fingerprint)


def _data(outcome: Outcome) -> _RecordedOutcome:
    data: _RecordedOutcome = {
        "operation": outcome.operation_id,
        "snapshot": outcome.snapshot_id,
        "machine": outcome.machine_id,
        "descendant": outcome.is_descendant,
    }
    if (refusal := outcome.refusal) is not None:
        data |= {"code": refusal.code, "message": refusal.message, "path": refusal.path}
        if refusal.conflict is not None:
            data["conflict"] = refusal.conflict.noun, refusal.conflict.id
    return data


def _outcome(data: _RecordedOutcome) -> Outcome:
    refusal = None
    if "code" in data:
        conflict = Reference(*data["conflict"]) if "conflict" in data else None
        refusal = _REFUSALS[ErrorCode(data["code"])](data["message"], path=data["path"], conflict=conflict)
    return Outcome(data["operation"], data["snapshot"], data["machine"], data["descendant"], refusal)
