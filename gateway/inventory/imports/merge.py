"""Merges the staged rows into the inventory, with set-based statements in one transaction.

The number of statements does not depend on the number of rows. Machines that a driver manages are skipped.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gateway.inventory.counts import MergeCounts, RowCounts
from gateway.inventory.imports.records import ImportRefused
from gateway.inventory.imports.sequences import ADVANCE_SEQUENCES, LOCK_TABLES
from gateway.inventory.imports.staging import ImportSession
from gateway.models import MachineKind

_KIND_NAMES = {MachineKind.VM: "Vm", MachineKind.INSTANCE: "Instance"}

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
            session.rows(statement)
        return counts


def _ensure_provider(session: ImportSession, values: dict[str, Any]) -> None:
    name = values["provider"]
    for driver, tenant in session.rows(_PROVIDER, {"provider": name}):
        if driver != "none":
            raise ImportRefused("", f"Provider {name!r} has the driver {driver!r}. Use another name with --provider.")
        if tenant != values["tenant"]:
            raise ImportRefused("", f"Provider {name!r} belongs to another tenant. Use another name with --provider.")
        break
    else:
        session.execute(_INSERT_PROVIDER, values)
    session.execute(_SET_OBSERVED, values)


def _set_dispositions(session: ImportSession, values: dict[str, Any]) -> None:
    """Sets each staged machine's disposition: `new`, `known` (imported before) or `managed` (by a driver).

    Raises ImportRefused when an id belongs to another machine or snapshot in the database.
    """
    for position, id, kind, name, ref, *other in session.rows(_CONFLICTING_MACHINE, values):
        existing = _describe(*other[:3]) + f" of provider {other[3]!r}"
        raise ImportRefused(
            position,
            f"Id {id} belongs to different machines: in the file to {_describe(kind, name, ref)}, in the database to "
            + (f"{existing}." if other[4] == values["tenant"] else "a machine of another tenant."),
        )
    session.execute(_SET_DISPOSITION)
    for position, index, id, name, kind, machine, other_name, other_kind, other_id, other_machine in session.rows(
        _CONFLICTING_SNAPSHOT
    ):
        raise ImportRefused(
            f"{position}.snapshots[{index}]",
            f"Id {id} belongs to different snapshots: in the file to {name!r} of {_KIND_NAMES[kind]} {machine},"
            f" in the database to {other_name!r} of {_KIND_NAMES[other_kind]} {other_id} ({other_machine!r}).",
        )


def _describe(kind: str, name: str, ref: str) -> str:
    return f"{_KIND_NAMES[MachineKind(kind)]} {name!r} ({ref})"


def _merge_machines(session: ImportSession, values: dict[str, Any]) -> RowCounts:
    columns = _MACHINE_COLUMNS.split(", ")
    session.execute(_compare(_CHANGED_MACHINES, "m", columns))
    machines = dict(session.rows("SELECT disposition, count(*) FROM staged_machine GROUP BY disposition"))
    counts = RowCounts(skipped=machines.get("managed", 0))
    counts.created = session.execute(_INSERT_MACHINES, values)
    counts.updated = session.execute(_assign(_UPDATE_MACHINES, "m", columns, "machine"), values)
    counts.unchanged = machines.get("known", 0) - counts.updated
    session.execute(_OBSERVE_MACHINES, values)
    session.execute(_CLEAR_CHANGED)
    return counts


def _merge_snapshots(session: ImportSession, values: dict[str, Any]) -> RowCounts:
    columns = _SNAPSHOT_COLUMNS.split(", ")
    session.execute(_compare(_CHANGED_SNAPSHOTS, "s", columns))
    (count,), *_ = session.rows("SELECT count(*) FROM staged_snapshot")
    (skipped,), *_ = session.rows(_COUNT_SKIPPED)
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
