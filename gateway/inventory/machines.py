"""Merges one machine, as its provider reports it, into the inventory; adopts imported ones; notices who is gone."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.drivers.base import ReportedMachine
from gateway.inventory.columns import assignments
from gateway.inventory.counts import Tally
from gateway.models import Machine, Provider
from gateway.store.database import Transaction
from gateway.store.statements import OneOf, Statement, insert

_REPORTED = ("name", "description", "power_state", "host", "flavor", "availability_zone", "obstacle", "provider_uid")
_COLUMNS = [col(getattr(Machine, name)) for name in ("id", "gone_at", "provider_ref", *_REPORTED)]

_MANAGED = sa.text("NOT machine.imported")  # the very words of the unique index
_known = sa.select(*_COLUMNS).where(
    col(Machine.provider) == bindparam("of"), col(Machine.provider_ref) == bindparam("ref"), _MANAGED
)
KNOWN = Statement(_known)
_KNOWN = Statement(_known.with_for_update())
# Held while a machine that is met for the first time goes in: two gateways may meet it at once.
_LOCK_PROVIDER = Statement(sa.select(col(Provider.name)).where(col(Provider.name) == bindparam("of")).with_for_update())
_CANDIDATES = Statement(
    sa.select(*_COLUMNS)
    .where(
        sa.text("machine.imported"),
        col(Machine.tenant) == bindparam("of_tenant"),
        col(Machine.kind) == bindparam("of_kind"),
        sa.or_(col(Machine.provider_uid) == bindparam("uid"), col(Machine.provider_ref) == bindparam("ref")),
    )
    .order_by(col(Machine.id))
    .with_for_update()
)
_BY_ID = col(Machine.id) == bindparam("machine_id")
_ADOPT = Statement(
    sa.update(Machine)
    .where(_BY_ID)
    .values(imported=False, **assignments(Machine, "provider", "provider_ref", "updated_at"))
)
_UPDATE = Statement(
    sa.update(Machine).where(_BY_ID).values(gone_at=None, **assignments(Machine, *_REPORTED, "updated_at"))
)
_OBSERVED = Statement(sa.update(Machine).where(_BY_ID).values(**assignments(Machine, "observed_at")))
_INSERT = insert(
    Machine,
    *("tenant", "kind", "provider", "provider_ref", *_REPORTED),
    *("created_at", "updated_at", "observed_at"),
)
_PRESENT = Statement(
    sa.select(col(Machine.id), col(Machine.provider_ref)).where(
        col(Machine.provider) == bindparam("of"),
        _MANAGED,
        col(Machine.gone_at).is_(None),
        col(Machine.observed_at) < bindparam("begun"),
    )
)
_GONE = Statement(
    sa.update(Machine)
    .where(OneOf(col(Machine.id), "ids"), col(Machine.gone_at).is_(None))
    .values(**assignments(Machine, "gone_at", "updated_at"))
)


@dataclass(frozen=True, slots=True)
class Merged:
    """The machine's row after the merge; locked, until the transaction ends."""

    id: int
    adopted: bool


async def merge_machine(
    tx: Transaction, seen: ReportedMachine, *, provider: str, tenant: str, moment: datetime, tally: Tally
) -> Merged:
    """Inserts, adopts or updates the machine that `seen` describes. One that was gone is back."""
    row = await tx.first(_KNOWN, of=provider, ref=seen.ref)
    if row is None:
        await tx.first(_LOCK_PROVIDER, of=provider)
        row = await tx.first(_KNOWN, of=provider, ref=seen.ref)
    adopted = False
    if row is None:
        row = await _imported(tx, seen, tenant)
        adopted = row is not None
    if row is None:
        tally.created += 1
        return Merged(await _insert(tx, seen, provider, tenant, moment), adopted=False)
    if adopted:
        await tx.run(_ADOPT, machine_id=row.id, provider=provider, provider_ref=seen.ref, updated_at=moment)
    reported = {name: getattr(seen, name) for name in _REPORTED if name != "provider_uid"}
    reported["provider_uid"] = seen.uid or row.provider_uid
    changed = row.gone_at is not None or any(getattr(row, name) != value for name, value in reported.items())
    if changed:
        await tx.run(_UPDATE, machine_id=row.id, updated_at=moment, **reported)
    await tx.run(_OBSERVED, machine_id=row.id, observed_at=moment)
    if changed or adopted:
        tally.updated += 1
    else:
        tally.unchanged += 1
    return Merged(row.id, adopted)


async def mark_absent(tx: Transaction, provider: str, refs: Collection[str], begun: datetime, moment: datetime) -> int:
    """Marks as gone what the provider did not list in a listing that began at `begun`; how many that were."""
    present = await tx.all(_PRESENT, of=provider, begun=begun)
    return await mark_gone(tx, [row.id for row in present if row.provider_ref not in refs], moment)


async def mark_gone(tx: Transaction, ids: Sequence[int], moment: datetime) -> int:
    """Marks machines as gone; how many were not yet."""
    return await tx.run(_GONE, ids=list(ids), gone_at=moment, updated_at=moment) if ids else 0


async def _imported(tx: Transaction, seen: ReportedMachine, tenant: str) -> Any:
    """The one imported machine that this is: by its second identity, or by the provider's reference of it."""
    rows = await tx.all(_CANDIDATES, of_tenant=tenant, of_kind=seen.kind, uid=seen.uid, ref=seen.ref)
    same = [row for row in rows if seen.uid is not None and row.provider_uid == seen.uid]
    if not same:
        same = [row for row in rows if seen.uid is None or row.provider_uid is None]
    return same[0] if len(same) == 1 else None


async def _insert(tx: Transaction, seen: ReportedMachine, provider: str, tenant: str, moment: datetime) -> int:
    row = await tx.first(
        _INSERT,
        tenant=tenant,
        kind=seen.kind,
        provider=provider,
        provider_ref=seen.ref,
        name=seen.name,
        description=seen.description,
        power_state=seen.power_state,
        host=seen.host,
        flavor=seen.flavor,
        availability_zone=seen.availability_zone,
        obstacle=seen.obstacle,
        provider_uid=seen.uid,
        created_at=seen.created_at or moment,
        updated_at=moment,
        observed_at=moment,
    )
    number: int = row.id
    return number
