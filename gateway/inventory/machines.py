"""Merges machines that a provider reports into the inventory: inserts, updates, adopts and marks as gone."""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.drivers.base import ReportedMachine
from gateway.errors import ProviderRefused
from gateway.inventory.counts import RowCounts
from gateway.inventory.provider_rows import ProviderName
from gateway.models import Machine, PowerState, Provider
from gateway.store.database import Database, Transaction
from gateway.store.statements import OneOf, Query, Statement, assignments, insert

MAX_MACHINES = 200_000  # of a provider, those that are gone included; four times the largest listing

_PAGE = 1_000  # rows that are read at once; on PostgreSQL they are converted on the event loop

_REPORTED = (
    "name",
    "description",
    "power_state",
    "host",
    "flavor",
    "availability_zone",
    "snapshot_blocker",
    "provider_uid",
)


class KnownMachine(NamedTuple):
    """A machine of the inventory, with the columns that a provider reports."""

    id: int
    gone_at: datetime | None
    provider_ref: str
    name: str
    description: str | None
    power_state: PowerState
    host: str | None
    flavor: str | None
    availability_zone: str | None
    snapshot_blocker: str | None
    provider_uid: str | None


class _ImportedMachine(NamedTuple):
    """The provider, which has no driver, that an imported machine belongs to."""

    id: int
    provider: str


class PresentMachine(NamedTuple):
    """A machine that is not marked as gone."""

    id: int
    provider_ref: str


class _MachineCount(NamedTuple):
    machines: int


_COLUMNS = [col(getattr(Machine, name)) for name in KnownMachine._fields]
_MANAGED = sa.text("NOT machine.imported")  # the same text as in the partial unique index, so that the index is used
_machine_by_ref = sa.select(*_COLUMNS).where(
    col(Machine.provider) == bindparam("of"), col(Machine.provider_ref) == bindparam("ref"), _MANAGED
)
FIND_MACHINE = Query(_machine_by_ref, KnownMachine)
_LOCK_MACHINE = Query(_machine_by_ref.with_for_update(), KnownMachine)
# Locked while a machine is inserted, so that two gateways do not insert the same machine.
_LOCK_PROVIDER = Query(
    sa.select(col(Provider.name)).where(col(Provider.name) == bindparam("of")).with_for_update(), ProviderName
)
_CANDIDATES = Query(
    sa.select(*_COLUMNS)
    .where(
        sa.text("machine.imported"),
        col(Machine.tenant) == bindparam("of_tenant"),
        col(Machine.kind) == bindparam("of_kind"),
        sa.or_(col(Machine.provider_uid) == bindparam("uid"), col(Machine.provider_ref) == bindparam("ref")),
    )
    .order_by(col(Machine.id))
    .with_for_update(),
    KnownMachine,
)
_PROVIDERS_OF = Query(
    sa.select(col(Machine.id), col(Machine.provider)).where(OneOf(col(Machine.id), "ids")), _ImportedMachine
)
_OTHER_PROVIDER = Query(
    sa.select(col(Provider.name))
    .where(
        col(Provider.tenant) == bindparam("of_tenant"),
        col(Provider.driver) != "none",
        col(Provider.name) != bindparam("of"),
    )
    .limit(1),
    ProviderName,
)
# References that no two providers have: UUIDs, as of OpenStack and libvirt, and ids of EC2.
_UNIQUE_REF = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|i-[0-9a-f]{8,17}", re.IGNORECASE)
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
_PRESENT_BEFORE = Query(
    sa.select(col(Machine.id), col(Machine.provider_ref))
    .where(
        col(Machine.provider) == bindparam("of"),
        col(Machine.provider_ref) > bindparam("after"),
        _MANAGED,
        col(Machine.gone_at).is_(None),
        col(Machine.observed_at) < bindparam("before"),
    )
    .order_by(col(Machine.provider_ref))  # the order of the unique index
    .limit(_PAGE),
    PresentMachine,
)
_COUNT = Query(
    sa.select(sa.func.count().label("machines"))
    .select_from(Machine)
    .where(col(Machine.provider) == bindparam("of"), _MANAGED),
    _MachineCount,
)
_MARK_GONE = Statement(
    sa.update(Machine)
    .where(
        OneOf(col(Machine.id), "ids"),
        col(Machine.gone_at).is_(None),
        col(Machine.observed_at) < bindparam("before"),
    )
    .values(**assignments(Machine, "gone_at", "updated_at"))
)


_ALWAYS = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class MergedMachine:
    """The id of the machine's row, which is locked until the transaction ends. `adopted`: it was imported before."""

    id: int
    adopted: bool


@dataclass(slots=True)
class MachineAllowance:
    """How many machines may still be added to a provider that may have `maximum`, those that are gone included.

    A provider that reports new machines on each reading would fill the database, since machines that are gone are kept
    for `GATEWAY_KEEP_GONE`. The machines are counted once, when the first is added; use one per reading.
    """

    maximum: int = MAX_MACHINES
    left: int | None = None

    async def take(self, tx: Transaction, provider: str) -> None:
        """Takes one. Raises ProviderRefused if none is left."""
        if self.left is None:
            row = await tx.first(_COUNT, of=provider)
            self.left = self.maximum - (0 if row is None else row.machines)
        if self.left <= 0:
            raise ProviderRefused(
                f"The machine is new, and the inventory has {self.maximum:,} machines of the provider already, which is"
                " the maximum. Machines that are gone count until they are deleted."
            )
        self.left -= 1


async def merge_machine(
    tx: Transaction,
    reported: ReportedMachine,
    *,
    provider: str,
    tenant: str,
    moment: datetime,
    counts: RowCounts,
    allowance: MachineAllowance,
) -> MergedMachine:
    """Inserts, adopts or updates the row of the reported machine and adds to `counts`. Clears `gone_at`.

    Raises ProviderRefused when the machine is new and the provider has too many.
    """
    row = await tx.first(_LOCK_MACHINE, of=provider, ref=reported.ref)
    if row is None:
        await tx.first(_LOCK_PROVIDER, of=provider)
        row = await tx.first(_LOCK_MACHINE, of=provider, ref=reported.ref)
    adopted = False
    if row is None:
        row = await _find_imported(tx, reported, provider, tenant)
        adopted = row is not None
    if row is None:
        await allowance.take(tx, provider)
        counts.created += 1
        return MergedMachine(await _insert(tx, reported, provider, tenant, moment), adopted=False)
    if adopted:
        await tx.run(_ADOPT, machine_id=row.id, provider=provider, provider_ref=reported.ref, updated_at=moment)
    merged = row._replace(
        gone_at=None,
        name=reported.name,
        description=reported.description,
        power_state=reported.power_state,
        host=reported.host,
        flavor=reported.flavor,
        availability_zone=reported.availability_zone,
        snapshot_blocker=reported.snapshot_blocker,
        provider_uid=reported.uid or row.provider_uid,
    )
    if merged != row:
        await tx.run(_UPDATE, machine_id=row.id, updated_at=moment, **merged._asdict())
    await tx.run(_OBSERVED, machine_id=row.id, observed_at=moment)
    if adopted or merged != row:
        counts.updated += 1
    else:
        counts.unchanged += 1
    return MergedMachine(row.id, adopted)


async def absent_machines(
    database: Database, provider: str, refs: Container[str], listed_at: datetime
) -> list[PresentMachine]:
    """The machines that are not among `refs`, those of a listing requested at `listed_at`, that have not been observed
    since, and that are not marked as gone.
    """
    absent: list[PresentMachine] = []
    after = ""  # no ref is empty
    while page := await database.read(
        partial(_present_before, provider=provider, after=after, before=listed_at), single=True
    ):
        absent += [row for row in page if row.provider_ref not in refs]
        after = page[-1].provider_ref
    return absent


async def _present_before(tx: Transaction, provider: str, after: str, before: datetime) -> list[PresentMachine]:
    return await tx.all(_PRESENT_BEFORE, of=provider, after=after, before=before)


async def mark_gone(tx: Transaction, ids: Sequence[int], moment: datetime, before: datetime = _ALWAYS) -> int:
    """Marks machines as gone that were last observed before `before`. Returns the number of those not marked before."""
    values = {"before": before, "gone_at": moment, "updated_at": moment}
    return await tx.run(_MARK_GONE, ids=list(ids), **values) if ids else 0


async def _find_imported(tx: Transaction, reported: ReportedMachine, provider: str, tenant: str) -> KnownMachine | None:
    """The imported machine that is the reported one; None when there is none or more than one candidate.

    Matches by `uid` first. By the provider's reference only when at least one of the two sides has no `uid`, and when
    no other provider of the tenant can mean another machine by it. Machines that are gone, such as those archived in
    ManageIQ, are candidates only when there are no others.
    """
    rows = await tx.all(_CANDIDATES, of_tenant=tenant, of_kind=reported.kind, uid=reported.uid, ref=reported.ref)
    same = [row for row in rows if reported.uid is not None and row.provider_uid == reported.uid]
    if not same:
        same = [row for row in rows if reported.uid is None or row.provider_uid is None]
        same = await _own(tx, same, reported.ref, provider, tenant)
    same = [row for row in same if row.gone_at is None] or same
    return same[0] if len(same) == 1 else None


async def _own(
    tx: Transaction, rows: list[KnownMachine], machine_ref: str, provider: str, tenant: str
) -> list[KnownMachine]:
    """The imported machines with this reference that can only be of this provider: all if the reference is unique or
    the tenant has no other provider with a driver, else those that were imported under the provider's name.
    """
    if not rows or _UNIQUE_REF.fullmatch(machine_ref):
        return rows
    if await tx.first(_OTHER_PROVIDER, of=provider, of_tenant=tenant) is None:
        return rows
    owners = {row.id: row.provider for row in await tx.all(_PROVIDERS_OF, ids=[row.id for row in rows])}
    return [row for row in rows if owners[row.id] == provider]


async def _insert(tx: Transaction, reported: ReportedMachine, provider: str, tenant: str, moment: datetime) -> int:
    (row,) = await tx.all(
        _INSERT,
        tenant=tenant,
        kind=reported.kind,
        provider=provider,
        provider_ref=reported.ref,
        name=reported.name,
        description=reported.description,
        power_state=reported.power_state,
        host=reported.host,
        flavor=reported.flavor,
        availability_zone=reported.availability_zone,
        snapshot_blocker=reported.snapshot_blocker,
        provider_uid=reported.uid,
        created_at=reported.created_at or moment,
        updated_at=moment,
        observed_at=moment,
    )
    return row.id
