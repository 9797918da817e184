"""Merges the staged rows into the inventory, with set-based statements in one transaction.

The number of statements does not depend on the number of rows. Machines that a driver manages are skipped.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from gateway.inventory.counts import MergeCounts, RowCounts
from gateway.inventory.imports.checks import check_parents, remove_snapshots_without_machine, snapshot_position
from gateway.inventory.imports.manageiq import shortened
from gateway.inventory.imports.problems import MAX_LISTED, Consequence, ImportRefused, Problems
from gateway.inventory.imports.sequences import ADVANCE_SEQUENCES, LOCK_TABLES
from gateway.inventory.imports.staging import ImportSession
from gateway.inventory.provider_rows import RegisteredProvider
from gateway.models import MachineKind

_KIND_NAMES: dict[str, str] = {MachineKind.VM: "Vm", MachineKind.INSTANCE: "Instance"}

# ---- identity

# A staged machine and a row with the same id are the same machine when one of their references agrees. A row that was
# imported without references has its id as the reference. The kind is no part of the identity: it may be a guess.
_SAME_MACHINE = """
    (t.tenant = :tenant AND (NOT t.imported OR t.provider = :provider) AND (
        t.provider_ref = m.provider_ref OR COALESCE(t.provider_uid = m.provider_uid, FALSE)
        OR t.imported AND CAST(m.id AS TEXT) IN (t.provider_ref, m.provider_ref)))
"""
_CONFLICTING_MACHINES = f"FROM staged_machine m JOIN machine t ON t.id = m.id WHERE NOT {_SAME_MACHINE}"
_FIND_CONFLICTING_MACHINES = f"""
    SELECT m.position, m.id, COALESCE(m.kind, 'VM'), m.name, m.provider_ref,
        t.kind, t.name, t.provider_ref, t.provider, t.tenant
    {_CONFLICTING_MACHINES} ORDER BY m.no LIMIT {MAX_LISTED}
"""
_REMOVE_CONFLICTING_MACHINES = f"DELETE FROM staged_machine WHERE no IN (SELECT m.no {_CONFLICTING_MACHINES})"
_HAS_MACHINES = "SELECT 1 FROM staged_machine LIMIT 1"
_SET_DISPOSITION = """
    UPDATE staged_machine SET disposition = COALESCE((
        SELECT CASE WHEN t.imported THEN 'known' ELSE 'managed' END FROM machine t WHERE t.id = staged_machine.id
    ), 'new')
"""
_MERGED_SNAPSHOTS = "staged_snapshot s JOIN staged_machine m ON m.no = s.machine_no AND m.disposition <> 'managed'"
_CONFLICTING_SNAPSHOTS = f"""
    WITH taken AS MATERIALIZED (
        SELECT s.machine_no, s.place, s.id, s.name, t.name AS other, t.machine_id
        FROM {_MERGED_SNAPSHOTS} JOIN snapshot t ON t.id = s.id WHERE t.machine_id <> m.id
    )
"""
_FIND_CONFLICTING_SNAPSHOTS = f"""
    {_CONFLICTING_SNAPSHOTS}
    SELECT m.position, s.place, s.id, s.name, COALESCE(m.kind, 'VM'), m.id, s.other, o.kind, o.id, o.name, o.tenant
    FROM taken s JOIN staged_machine m ON m.no = s.machine_no JOIN machine o ON o.id = s.machine_id
    ORDER BY s.machine_no, s.place LIMIT {MAX_LISTED}
"""
_SET_INCOMPLETE = f"""
    UPDATE staged_machine SET complete = FALSE WHERE no IN ({_CONFLICTING_SNAPSHOTS} SELECT machine_no FROM taken)
"""
_REMOVE_CONFLICTING_SNAPSHOTS = (
    f"DELETE FROM staged_snapshot WHERE id IN ({_CONFLICTING_SNAPSHOTS} SELECT id FROM taken)"
)

# ---- the provider

_PROVIDER = "SELECT driver, tenant FROM provider WHERE name = :provider"
_INSERT_PROVIDER = "INSERT INTO provider (name, tenant, driver) VALUES (:provider, :tenant, 'none')"
_SET_OBSERVED = "UPDATE provider SET observed_at = :now WHERE name = :provider"

# ---- machines

_MACHINE_COLUMNS = (
    "name, name_folded, description, description_folded, provider_ref, provider_ref_folded, provider_uid, power_state,"
    " host, host_folded, flavor, availability_zone"
)
# New values that depend on the old ones: `s` is the staged row, `t` the row in the database.
_CREATED_AT = {"created_at": "COALESCE({s}.created_at, {t}.created_at)"}
_DEPENDENT_MACHINE_COLUMNS = {
    "kind": "COALESCE({s}.kind, {t}.kind)",
    "gone_at": "CASE WHEN {s}.is_gone THEN COALESCE({s}.gone_at, {t}.gone_at, :now) END",
    **_CREATED_AT,
}
_COUNT_DISPOSITIONS = "SELECT disposition, count(*) FROM staged_machine GROUP BY disposition"
_INSERT_MACHINES = f"""
    INSERT INTO machine (id, tenant, kind, provider, provider_folded, imported, {_MACHINE_COLUMNS},
        gone_at, created_at, updated_at, observed_at)
    SELECT id, :tenant, COALESCE(kind, 'VM'), :provider, :provider_folded, TRUE, {_MACHINE_COLUMNS},
        CASE WHEN is_gone THEN COALESCE(gone_at, :now) END, COALESCE(created_at, :now), :now, :now
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
    "name, name_folded, description, description_folded, state, memory, is_current, size_bytes, provider_ref,"
    " provider_ref_folded, created_by, created_by_folded, parent_id"
)
_INSERT_SNAPSHOTS = f"""
    INSERT INTO snapshot (id, tenant, machine_id, {_SNAPSHOT_COLUMNS}, created_at, observed_at)
    SELECT s.id, :tenant, m.id, {", ".join("s." + name for name in _SNAPSHOT_COLUMNS.split(", "))},
        COALESCE(s.created_at, :now), :now
    FROM {_MERGED_SNAPSHOTS} WHERE TRUE ON CONFLICT (id) DO NOTHING
"""
_CHANGED_SNAPSHOTS = f"""
    INSERT INTO changed SELECT s.id FROM {_MERGED_SNAPSHOTS} JOIN snapshot t ON t.id = s.id
    WHERE m.disposition = 'known' AND ({{new}}) IS DISTINCT FROM ({{old}})
"""
# Runs before the inserts and updates, because an index allows one current snapshot per machine. A machine without a
# complete list keeps its current snapshot, unless another one is current now.
_CLEAR_CURRENT = """
    UPDATE snapshot SET is_current = FALSE
    WHERE is_current AND id NOT IN (SELECT id FROM staged_snapshot WHERE is_current) AND machine_id IN (
        SELECT id FROM staged_machine WHERE disposition = 'known'
        AND (complete OR no IN (SELECT machine_no FROM staged_snapshot WHERE is_current)))
"""
_UPDATE_SNAPSHOTS = """
    UPDATE snapshot SET {sets}, observed_at = :now FROM staged_snapshot s
    WHERE s.id = snapshot.id AND s.id IN (SELECT id FROM changed)
"""
_REMOVE_SNAPSHOTS = """
    DELETE FROM snapshot
    WHERE machine_id IN (SELECT id FROM staged_machine WHERE disposition = 'known' AND complete)
    AND NOT EXISTS (SELECT 1 FROM staged_snapshot s WHERE s.id = snapshot.id)
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
    other_tenant: str


class _DispositionCount(NamedTuple):
    disposition: str
    machines: int


def merge(
    session: ImportSession, problems: Problems, *, tenant: str, provider: str, user: str, now: datetime
) -> MergeCounts:
    """Merges the staged rows, which must have passed `check_staged`, and writes an audit entry for `user`.

    Leaves out machines and snapshots whose id belongs to another one in the database, and adds them to `problems`.
    Raises ImportRefused, with nothing written, when all machines were left out, or when the provider has a driver or
    belongs to another tenant.
    """
    values = {"tenant": tenant, "provider": provider, "provider_folded": provider.casefold(), "now": now}
    with session.transaction():
        for lock in LOCK_TABLES[session.dialect]:
            session.execute(lock)
        _ensure_provider(session, values)
        _leave_out_other_machines(session, values, problems)
        session.execute(_SET_DISPOSITION)
        _leave_out_other_snapshots(session, values, problems)
        counts = MergeCounts(_merge_machines(session, values), _merge_snapshots(session, values))
        counts.machines.left_out, counts.snapshots.left_out = problems.left_out
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


def _leave_out_other_machines(session: ImportSession, values: Mapping[str, object], problems: Problems) -> None:
    """Removes the staged machines whose id belongs to another machine in the database, with their snapshots."""
    if conflicts := session.rows(_FIND_CONFLICTING_MACHINES, _ConflictingMachine, values):
        listed = [(row.position, _machine_conflict(row, values["tenant"])) for row in conflicts]
        problems.add_all(listed, Consequence.MACHINE, session.execute(_REMOVE_CONFLICTING_MACHINES, values))
        problems.snapshots_of_machines += remove_snapshots_without_machine(session)
    if problems.left_out[0] and not session.rows(_HAS_MACHINES, int):
        raise problems.refusal()


def _machine_conflict(row: _ConflictingMachine, tenant: object) -> str:
    imported = _describe(row.kind, row.name, row.provider_ref)
    existing = "a machine of another tenant"
    if row.other_tenant == tenant:
        other = _describe(row.other_kind, row.other_name, row.other_provider_ref)
        existing = f"{other} of provider {row.other_provider!r}"
    return f"Id {row.id} belongs to different machines: in the file to {imported}, in the database to {existing}."


def _leave_out_other_snapshots(session: ImportSession, values: Mapping[str, object], problems: Problems) -> None:
    """Removes the staged snapshots whose id belongs to a snapshot of another machine in the database."""
    conflicts = session.rows(_FIND_CONFLICTING_SNAPSHOTS, _ConflictingSnapshot)
    if not conflicts:
        return
    session.execute(_SET_INCOMPLETE)
    listed = [
        (snapshot_position(row.position, row.place), _snapshot_conflict(row, values["tenant"])) for row in conflicts
    ]
    problems.add_all(listed, Consequence.SNAPSHOT, session.execute(_REMOVE_CONFLICTING_SNAPSHOTS))
    check_parents(session, problems)


def _snapshot_conflict(row: _ConflictingSnapshot, tenant: object) -> str:
    existing = "a snapshot of another tenant"
    if row.other_tenant == tenant:
        existing = (
            f"{shortened(row.other_name)!r} of {_KIND_NAMES[row.other_machine_kind]} {row.other_machine_id}"
            f" ({shortened(row.other_machine_name)!r})"
        )
    return (
        f"Id {row.id} belongs to different snapshots: in the file to {shortened(row.name)!r} of"
        f" {_KIND_NAMES[row.machine_kind]} {row.machine_id}, in the database to {existing}."
    )


def _describe(kind: str, name: str, ref: str) -> str:
    return f"{_KIND_NAMES[kind]} {shortened(name)!r} ({shortened(ref)})"


def _merge_machines(session: ImportSession, values: Mapping[str, object]) -> RowCounts:
    columns = _MACHINE_COLUMNS.split(", ")
    session.execute(_compare(_CHANGED_MACHINES, "m", columns, _DEPENDENT_MACHINE_COLUMNS), values)
    machines = dict(session.rows(_COUNT_DISPOSITIONS, _DispositionCount))
    counts = RowCounts(skipped=machines.get("managed", 0))
    counts.created = session.execute(_INSERT_MACHINES, values)
    update = _assign(_UPDATE_MACHINES, "m", columns, "machine", _DEPENDENT_MACHINE_COLUMNS)
    counts.updated = session.execute(update, values)
    counts.unchanged = machines.get("known", 0) - counts.updated
    session.execute(_OBSERVE_MACHINES, values)
    session.execute(_CLEAR_CHANGED)
    return counts


def _merge_snapshots(session: ImportSession, values: Mapping[str, object]) -> RowCounts:
    columns = _SNAPSHOT_COLUMNS.split(", ")
    session.execute(_compare(_CHANGED_SNAPSHOTS, "s", columns, _CREATED_AT))
    (count,) = session.rows("SELECT count(*) FROM staged_snapshot", int)
    (skipped,) = session.rows(_COUNT_SKIPPED, int)
    session.execute(_CLEAR_CURRENT)
    counts = RowCounts(skipped=skipped)
    counts.created = session.execute(_INSERT_SNAPSHOTS, values)
    counts.updated = session.execute(_assign(_UPDATE_SNAPSHOTS, "s", columns, "snapshot", _CREATED_AT), values)
    counts.removed = session.execute(_REMOVE_SNAPSHOTS)
    counts.unchanged = count - skipped - counts.created - counts.updated
    session.execute(_CLEAR_CHANGED)
    return counts


def _compare(sql: str, source: str, columns: Sequence[str], dependent: Mapping[str, str]) -> str:
    """Fills in the new and the old columns to compare."""
    new = [f"{source}.{column}" for column in columns]
    new += [expression.format(s=source, t="t") for expression in dependent.values()]
    return sql.format(new=", ".join(new), old=", ".join(f"t.{column}" for column in (*columns, *dependent)))


def _assign(sql: str, source: str, columns: Sequence[str], target: str, dependent: Mapping[str, str]) -> str:
    """Fills in the assignments of an UPDATE."""
    sets = [f"{column} = {source}.{column}" for column in columns]
    sets += [f"{column} = {expression.format(s=source, t=target)}" for column, expression in dependent.items()]
    return sql.format(sets=", ".join(sets))
