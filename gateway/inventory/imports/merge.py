"""From the staged file into the inventory: one set-based merge, in one transaction.

Every statement works on all rows at once, whatever their number. What a driver manages is left alone.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gateway.inventory.counts import Counts, Tally
from gateway.inventory.imports.records import ImportRefused
from gateway.inventory.imports.sequences import ADVANCE_SEQUENCES, LOCK
from gateway.inventory.imports.staging import Session
from gateway.models import MachineKind

_WORDS = {MachineKind.VM: "Vm", MachineKind.INSTANCE: "Instance"}

# ---- who is who

# The same number is the same machine when one of its identities agrees. What was imported without any goes by number.
_SAME = """
    (t.tenant = :tenant AND t.kind = m.kind AND (NOT t.imported OR t.provider = :provider) AND (
        t.provider_ref = m.provider_ref OR COALESCE(t.provider_uid = m.provider_uid, FALSE)
        OR t.imported AND CAST(m.id AS TEXT) IN (t.provider_ref, m.provider_ref)))
"""
_TAKEN_MACHINE = f"""
    SELECT m.position, m.id, m.kind, m.name, m.provider_ref, t.kind, t.name, t.provider_ref, t.provider, t.tenant
    FROM staged_machine m JOIN machine t ON t.id = m.id WHERE NOT {_SAME} ORDER BY m.no LIMIT 1
"""
_DECIDE = """
    UPDATE staged_machine SET fate = COALESCE((
        SELECT CASE WHEN t.imported THEN 'known' ELSE 'managed' END FROM machine t WHERE t.id = staged_machine.id
    ), 'new')
"""
_MINE = "staged_snapshot s JOIN staged_machine m ON m.no = s.machine_no AND m.fate <> 'managed'"
_TAKEN_SNAPSHOT = f"""
    WITH taken AS MATERIALIZED (
        SELECT s.machine_no, s.place, s.id, s.name, t.name AS other, t.machine_id
        FROM {_MINE} JOIN snapshot t ON t.id = s.id WHERE t.machine_id <> m.id
    )
    SELECT m.position, s.place, s.id, s.name, m.kind, m.id, s.other, o.kind, o.id, o.name
    FROM taken s JOIN staged_machine m ON m.no = s.machine_no JOIN machine o ON o.id = s.machine_id
    ORDER BY s.machine_no, s.place LIMIT 1
"""

# ---- the provider

_PROVIDER = "SELECT driver, tenant FROM provider WHERE name = :provider"
_ADD_PROVIDER = "INSERT INTO provider (name, tenant, driver) VALUES (:provider, :tenant, 'none')"
_OBSERVED = "UPDATE provider SET observed_at = :now WHERE name = :provider"

# ---- machines

_MACHINE_COLUMNS = (
    "name, name_folded, description, description_folded, provider_ref, provider_ref_folded, provider_uid, power_state,"
    " host, host_folded, flavor, availability_zone"
)
_ADD_MACHINES = f"""
    INSERT INTO machine (id, tenant, kind, provider, provider_folded, imported, {_MACHINE_COLUMNS},
        created_at, updated_at, observed_at)
    SELECT id, :tenant, kind, :provider, :provider_folded, TRUE, {_MACHINE_COLUMNS},
        COALESCE(created_at, :now), :now, :now
    FROM staged_machine WHERE fate = 'new' ORDER BY no
"""
# Snapshots that an unfinished operation is at work on do not occur here: imported machines have no driver.
_CHANGED_MACHINES = """
    INSERT INTO changed SELECT m.id FROM staged_machine m JOIN machine t ON t.id = m.id
    WHERE m.fate = 'known' AND ({new}) IS DISTINCT FROM ({old})
"""
_UPDATE_MACHINES = """
    UPDATE machine SET {sets}, updated_at = :now FROM staged_machine m
    WHERE m.id = machine.id AND m.id IN (SELECT id FROM changed)
"""
_OBSERVE_MACHINES = (
    "UPDATE machine SET observed_at = :now WHERE id IN (SELECT id FROM staged_machine WHERE fate = 'known')"
)

# ---- snapshots

_SNAPSHOT_COLUMNS = (
    "name, name_folded, description, description_folded, is_current, size_bytes, provider_ref, provider_ref_folded,"
    " parent_id"
)
_ADD_SNAPSHOTS = f"""
    INSERT INTO snapshot (id, tenant, machine_id, state, memory, {_SNAPSHOT_COLUMNS}, created_at, observed_at)
    SELECT s.id, :tenant, m.id, 'READY', FALSE, {", ".join("s." + name for name in _SNAPSHOT_COLUMNS.split(", "))},
        COALESCE(s.created_at, :now), :now
    FROM {_MINE} WHERE TRUE ON CONFLICT (id) DO NOTHING
"""
_CHANGED_SNAPSHOTS = f"""
    INSERT INTO changed SELECT s.id FROM {_MINE} JOIN snapshot t ON t.id = s.id
    WHERE m.fate = 'known' AND ({{new}}) IS DISTINCT FROM ({{old}})
"""
_LISTED = "machine_id IN (SELECT id FROM staged_machine WHERE fate = 'known' AND listed)"
# First of all, because a machine has one current snapshot at every moment.
_STEP_DOWN = f"""
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
_SKIPPED = """
    SELECT count(*) FROM staged_snapshot s JOIN staged_machine m ON m.no = s.machine_no WHERE m.fate = 'managed'
"""
_FORGET = "DELETE FROM changed"


# ---- the record of who did what

_RECORD = """
    INSERT INTO audit_entry (created_at, tenant, caller_key, caller_name, caller_name_folded, caller_roles, surface,
        action, outcome, subject, message, repeats)
    VALUES (:now, :tenant, '', :user, :user_folded, '[]', 'COMMAND_LINE',
        'IMPORT', 'SUCCEEDED', :provider, :message, 0)
"""


def merge(session: Session, *, tenant: str, provider: str, user: str, now: datetime) -> Counts:
    """Merges what is staged and found good, and records that `user` did.

    Raises ImportRefused, with nothing written, for an id that is taken.
    """
    values = {"tenant": tenant, "provider": provider, "provider_folded": provider.casefold(), "now": now}
    with session.transaction():
        for lock in LOCK[session.dialect]:
            session.execute(lock)
        _settle_provider(session, values)
        _decide(session, values)
        counts = Counts(_merge_machines(session, values), _merge_snapshots(session, values))
        session.execute(_RECORD, values | {"user": user, "user_folded": user.casefold(), "message": str(counts)})
        for statement in ADVANCE_SEQUENCES[session.dialect]:
            session.rows(statement)
        return counts


def _settle_provider(session: Session, values: dict[str, Any]) -> None:
    name = values["provider"]
    for driver, tenant in session.rows(_PROVIDER, {"provider": name}):
        if driver != "none":
            raise ImportRefused(
                "", f"provider {name!r} has the driver {driver!r}: import under another provider's name"
            )
        if tenant != values["tenant"]:
            raise ImportRefused("", f"provider {name!r} belongs to another tenant: import under another name")
        break
    else:
        session.execute(_ADD_PROVIDER, values)
    session.execute(_OBSERVED, values)


def _decide(session: Session, values: dict[str, Any]) -> None:
    """Finds out what is to become of every machine. Raises ImportRefused for a number that is something else's."""
    for position, id, kind, name, ref, *other in session.rows(_TAKEN_MACHINE, values):
        here = _described(*other[:3]) + f" of provider {other[3]!r}"
        raise ImportRefused(
            position,
            f"number {id} is taken: in the file it is {_described(kind, name, ref)}, here it is"
            + (f" {here}" if other[4] == values["tenant"] else " another tenant's"),
        )
    session.execute(_DECIDE)
    for position, place, id, name, kind, machine, other_name, other_kind, other_id, other_machine in session.rows(
        _TAKEN_SNAPSHOT
    ):
        raise ImportRefused(
            f"{position}.snapshots[{place}]",
            f"snapshot {id} is taken: in the file it is {name!r} of {_WORDS[kind]} {machine}, here it is"
            f" {other_name!r} of {_WORDS[other_kind]} {other_id} ({other_machine!r})",
        )


def _described(kind: str, name: str, ref: str) -> str:
    return f"{_WORDS[MachineKind(kind)]} {name!r} ({ref})"


def _merge_machines(session: Session, values: dict[str, Any]) -> Tally:
    columns = _MACHINE_COLUMNS.split(", ")
    session.execute(_compare(_CHANGED_MACHINES, "m", columns))
    fates = dict(session.rows("SELECT fate, count(*) FROM staged_machine GROUP BY fate"))
    tally = Tally(skipped=fates.get("managed", 0))
    tally.created = session.execute(_ADD_MACHINES, values)
    tally.updated = session.execute(_assign(_UPDATE_MACHINES, "m", columns, "machine"), values)
    tally.unchanged = fates.get("known", 0) - tally.updated
    session.execute(_OBSERVE_MACHINES, values)
    session.execute(_FORGET)
    return tally


def _merge_snapshots(session: Session, values: dict[str, Any]) -> Tally:
    columns = _SNAPSHOT_COLUMNS.split(", ")
    session.execute(_compare(_CHANGED_SNAPSHOTS, "s", columns))
    (count,), *_ = session.rows("SELECT count(*) FROM staged_snapshot")
    (skipped,), *_ = session.rows(_SKIPPED)
    session.execute(_STEP_DOWN)
    tally = Tally(skipped=skipped)
    tally.created = session.execute(_ADD_SNAPSHOTS, values)
    tally.updated = session.execute(_assign(_UPDATE_SNAPSHOTS, "s", columns, "snapshot"), values)
    tally.removed = session.execute(_REMOVE_SNAPSHOTS)
    tally.unchanged = count - skipped - tally.created - tally.updated
    session.execute(_FORGET)
    return tally


def _compare(sql: str, source: str, columns: Sequence[str]) -> str:
    """`sql` with the old and the new columns side by side. A time counts only where the file gives one."""
    new = ", ".join(f"{source}.{column}" for column in columns) + f", COALESCE({source}.created_at, t.created_at)"
    old = ", ".join(f"t.{column}" for column in columns) + ", t.created_at"
    return sql.format(new=new, old=old)


def _assign(sql: str, source: str, columns: Sequence[str], target: str) -> str:
    sets = ", ".join(f"{column} = {source}.{column}" for column in columns)
    return sql.format(sets=f"{sets}, created_at = COALESCE({source}.created_at, {target}.created_at)")
