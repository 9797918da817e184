"""Merges the staged rows into the inventory, with set-based statements in one transaction.

The number of statements does not depend on the number of rows. Machines that a driver manages are skipped.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from gateway.inventory.counts import MergeCounts, RowCounts
from gateway.inventory.imports.records import ImportRefused
from gateway.inventory.imports.sequences import ADVANCE_SEQUENCES, LOCK_TABLES
from gateway.inventory.imports.staging import ImportSession
from gateway.inventory.provider_rows import RegisteredProvider
from gateway.models import MachineKind

_KIND_NAMES: dict[str, str] = {MachineKind.VM: "Vm", MachineKind.INSTANCE: "Instance"}

# ---- identity

# A staged machine and a row with the same id are the same machine when one of their references agrees. A row that was
# imported without references has its id as the reference.
_SAME_MACHINE = """
    (t.tenant = :tenant AND t.kind = m.kind AND (NOT t.imported OR t.provider = :provider) AND (
        t.provider_ref = m.provider_ref OR COALESCE(t.provider_uid = m.provider_uid, FALSE)
        OR t.imported AND CAST(m.id AS TEXT) IN (t.provider_ref, m.provider_ref)))
"""
_CONFLICTING_MACHINE = f"""
    SELECT m.position, m.id, m.kind, m.name, m.provider_ref, t.kind, t.name, t.provider_ref, t.provider, t.tenant
    FROM staged_machine m JOIN machine t ON t.id = m.id WHERE NOT {_SAME_MACHINE} ORDER BY m.no LIMIT 1
"""
_SET_DISPOSITION = """
    UPDATE staged_machine SET disposition = COALESCE((
        SELECT CASE WHEN t.imported THEN 'known' ELSE 'managed' END FROM machine t WHERE t.id = staged_machine.id
    ), 'new')
"""
_MERGED_SNAPSHOTS = "staged_snapshot s JOIN staged_machine m ON m.no = s.machine_no AND m.disposition <> 'managed'"
_CONFLICTING_SNAPSHOT = f"""
    WITH taken AS MATERIALIZED (
        SELECT s.machine_no, s.place, s.id, s.name, t.name AS other, t.machine_id
        FROM {_MERGED_SNAPSHOTS} JOIN snapshot t ON t.id = s.id WHERE t.machine_id <> m.id
    )
    SELECT m.position, s.place, s.id, s.name, m.kind, m.id, s.other, o.kind, o.id, o.name
    FROM taken s JOIN staged_machine m ON m.no = s.machine_no JOIN machine o ON o.id = s.machine_id
    ORDER BY s.machine_no, s.place LIMIT 1
"""

# ---- the provider

_PROVIDER = "SELECT driver, tenant FROM provider WHERE name = :provider"
_INSERT_PROVIDER = "INSERT INTO provider (name, tenant, driver) VALUES (:provider, :tenant, 'none')"
_SET_OBSERVED = "UPDATE provider SET observed_at = :now WHERE name = :provider"

# ---- machines

_MACHINE_COLUMNS = (
    "name, name_folded, description, description_folded, provider_ref, provider_ref_folded, provider_uid, power_state,"
    " host, host_folded, flavor, availability_zone"
)
_COUNT_DISPOSITIONS = "SELECT disposition, count(*) FROM staged_machine GROUP BY disposition"
_INSERT_MACHINES = f"""
    INSERT INTO machine (id, tenant, kind, provider, provider_folded, imported, {_MACHINE_COLUMNS},
        created_at, updated_at, observed_at)
    SELECT id, :tenant, kind, :provider, :provider_folded, TRUE, {_MACHINE_COLUMNS},
        COALESCE(created_at, :now), :now, :now
    FROM staged_machine WHERE disposition = 'new' ORDER BY no
"""
# No operation can be working on the snapshots of these machines, because imported machines have no driver.
_CHANGED_MACHINES = """
    INSERT INTO changed SELECT m.id FROM staged_machine m JOIN machine t ON t.id = m.id
    WHERE m.disposition = 'known' AND ({new}) IS DISTINCT FROM ({old})
"""
_UPDATE_MACHINES = """
    UPDATE machine SET {sets}, updated_at = :now FROM staged_machine m
    WHERE m.id = machine.id AND m.id IN (SELECT id FROM changed)
"""
_OBSERVE_MACHINES = (
    "UPDATE machine SET observed_at = :now WHERE id IN (SELECT id FROM staged_machine WHERE disposition = 'known')"
)

# ---- snapshots

_SNAPSHOT_COLUMNS = (
    "name, name_folded, description, description_folded, is_current, size_bytes, provider_ref, provider_ref_folded,"
    " parent_id"
)
_INSERT_SNAPSHOTS = f"""
    INSERT INTO snapshot (id, tenant, machine_id, state, memory, {_SNAPSHOT_COLUMNS}, created_at, observed_at)
    SELECT s.id, :tenant, m.id, 'READY', FALSE, {", ".join("s." + name for name in _SNAPSHOT_COLUMNS.split(", "))},
        COALESCE(s.created_at, :now), :now
    FROM {_MERGED_SNAPSHOTS} WHERE TRUE ON CONFLICT (id) DO NOTHING
"""
_CHANGED_SNAPSHOTS = f"""
    INSERT INTO changed SELECT s.id FROM {_MERGED_SNAPSHOTS} JOIN snapshot t ON t.id = s.id
    WHERE m.disposition = 'known' AND ({{new}}) IS DISTINCT FROM ({{old}})
"""
_LISTED = "machine_id IN (SELECT id FROM staged_machine WHERE disposition = 'known' AND listed)"
# Runs before the inserts and updates, because an index allows one current snapshot per machine.
_CLEAR_CURRENT = f"""
    UPDATE snapshot SET is_current = FALSE WHERE is_current AND {_LISTED}
    AND id NOT IN (SELECT id FROM staged_snapshot WHERE is_current)
"""
_UPDATE_SNAPSHOTS = """
    UPDATE snapshot SET {sets}, observed_at = :now FROM staged_snapshot s
    WHERE s.id = snapshot.id AND s.id IN (SELECT id FROM changed)
"""
_REMOVE_SNAPSHOTS = f"""
    DELETE FROM snapshot WHERE {_LISTED} AND NOT EXISTS (SELECT 1 FROM staged_snapshot s WHERE s.id = snapshot.id)
"""
_COUNT_SKIPPED = """
    SELECT count(*) FROM staged_snapshot s JOIN staged_machine m ON m.no = s.machine_no WHERE m.disposition = 'managed'
"""
_CLEAR_CHANGED = "DELETE FROM changed"


# ---- audit log

_INSERT_AUDIT_ENTRY = """
    INSERT INTO audit_entry (created_at, tenant, caller_key, caller_name, caller_name_folded, caller_roles, surface,
        action, outcome, subject, message, repeats)
    VALUES (:now, :tenant, '', :user, :user_folded, '[]', 'COMMAND_LINE',
        'IMPORT', 'SUCCEEDED', :provider, :message, 0)
"""


class _ConflictingMachine(NamedTuple):
    """A staged machine, and the other machine in the database that has its id."""

    position: str
    id: int
    kind: str
    name: str
    provider_ref: str
    other_kind: str
    other_name: str
    other_provider_ref: str
    other_provider: str
    other_tenant: str


class _ConflictingSnapshot(NamedTuple):
    """A staged snapshot, and the snapshot of another machine in the database that has its id."""

    position: str
    place: int
    id: int
    name: str
    machine_kind: str
    machine_id: int
    other_name: str
    other_machine_kind: str
    other_machine_id: int
    other_machine_name: str


class _DispositionCount(NamedTuple):
    disposition: str
    machines: int


def merge(session: ImportSession, *, tenant: str, provider: str, user: str, now: datetime) -> MergeCounts:
    """Merges the staged rows, which must have passed `check_staged`, and writes an audit entry for `user`.

    Raises ImportRefused, with nothing written, when an id already belongs to another machine or snapshot, or when the
    provider has a driver or belongs to another tenant.
    """
    values = {"tenant": tenant, "provider": provider, "provider_folded": provider.casefold(), "now": now}
    with session.transaction():
        for lock in LOCK_TABLES[session.dialect]:
            session.execute(lock)
        _ensure_provider(session, values)
        _set_dispositions(session, values)
        counts = MergeCounts(_merge_machines(session, values), _merge_snapshots(session, values))
        session.execute(
            _INSERT_AUDIT_ENTRY, values | {"user": user, "user_folded": user.casefold(), "message": str(counts)}
        )
        for statement in ADVANCE_SEQUENCES[session.dialect]:
            session.execute(statement)
        return counts


def _ensure_provider(session: ImportSession, values: Mapping[str, object]) -> None:
    name = values["provider"]
    providers = session.rows(_PROVIDER, RegisteredProvider, values)
    for driver, tenant in providers:
        if driver != "none":
            raise ImportRefused("", f"Provider {name!r} has the driver {driver!r}. Use another name with --provider.")
        if tenant != values["tenant"]:
            raise ImportRefused("", f"Provider {name!r} belongs to another tenant. Use another name with --provider.")
    if not providers:
        session.execute(_INSERT_PROVIDER, values)
    session.execute(_SET_OBSERVED, values)


def _set_dispositions(session: ImportSession, values: Mapping[str, object]) -> None:
    """Sets each staged machine's disposition: `new`, `known` (imported before) or `managed` (by a driver).

    Raises ImportRefused when an id belongs to another machine or snapshot in the database.
    """
    for machine in session.rows(_CONFLICTING_MACHINE, _ConflictingMachine, values):
        imported = _describe(machine.kind, machine.name, machine.provider_ref)
        existing = "a machine of another tenant"
        if machine.other_tenant == values["tenant"]:
            other = _describe(machine.other_kind, machine.other_name, machine.other_provider_ref)
            existing = f"{other} of provider {machine.other_provider!r}"
        raise ImportRefused(
            machine.position,
            f"Id {machine.id} belongs to different machines: in the file to {imported}, in the database to {existing}.",
        )
    session.execute(_SET_DISPOSITION)
    for snapshot in session.rows(_CONFLICTING_SNAPSHOT, _ConflictingSnapshot):
        kind, other_kind = _KIND_NAMES[snapshot.machine_kind], _KIND_NAMES[snapshot.other_machine_kind]
        raise ImportRefused(
            f"{snapshot.position}.snapshots[{snapshot.place}]",
            f"Id {snapshot.id} belongs to different snapshots: in the file to {snapshot.name!r} of"
            f" {kind} {snapshot.machine_id}, in the database to {snapshot.other_name!r} of"
            f" {other_kind} {snapshot.other_machine_id} ({snapshot.other_machine_name!r}).",
        )


def _describe(kind: str, name: str, ref: str) -> str:
    return f"{_KIND_NAMES[kind]} {name!r} ({ref})"


def _merge_machines(session: ImportSession, values: Mapping[str, object]) -> RowCounts:
    columns = _MACHINE_COLUMNS.split(", ")
    session.execute(_compare(_CHANGED_MACHINES, "m", columns))
    machines = dict(session.rows(_COUNT_DISPOSITIONS, _DispositionCount))
    counts = RowCounts(skipped=machines.get("managed", 0))
    counts.created = session.execute(_INSERT_MACHINES, values)
    counts.updated = session.execute(_assign(_UPDATE_MACHINES, "m", columns, "machine"), values)
    counts.unchanged = machines.get("known", 0) - counts.updated
    session.execute(_OBSERVE_MACHINES, values)
    session.execute(_CLEAR_CHANGED)
    return counts


def _merge_snapshots(session: ImportSession, values: Mapping[str, object]) -> RowCounts:
    columns = _SNAPSHOT_COLUMNS.split(", ")
    session.execute(_compare(_CHANGED_SNAPSHOTS, "s", columns))
    (count,) = session.rows("SELECT count(*) FROM staged_snapshot", int)
    (skipped,) = session.rows(_COUNT_SKIPPED, int)
    session.execute(_CLEAR_CURRENT)
    counts = RowCounts(skipped=skipped)
    counts.created = session.execute(_INSERT_SNAPSHOTS, values)
    counts.updated = session.execute(_assign(_UPDATE_SNAPSHOTS, "s", columns, "snapshot"), values)
    counts.removed = session.execute(_REMOVE_SNAPSHOTS)
    counts.unchanged = count - skipped - counts.created - counts.updated
    session.execute(_CLEAR_CHANGED)
    return counts


def _compare(sql: str, source: str, columns: Sequence[str]) -> str:
    """Fills in the new and the old columns to compare. `created_at` is compared only where the file contains it."""
    new = ", ".join(f"{source}.{column}" for column in columns) + f", COALESCE({source}.created_at, t.created_at)"
    old = ", ".join(f"t.{column}" for column in columns) + ", t.created_at"
    return sql.format(new=new, old=old)


def _assign(sql: str, source: str, columns: Sequence[str], target: str) -> str:
    """Fills in the assignments of an UPDATE. `created_at` keeps its value where the file does not contain it."""
    sets = ", ".join(f"{column} = {source}.{column}" for column in columns)
    return sql.format(sets=f"{sets}, created_at = COALESCE({source}.created_at, {target}.created_at)")
