"""Checks the staged rows of an imported file against each other, before the merge locks any table."""

from typing import NamedTuple

from gateway.inventory.imports.records import ImportRefused
from gateway.inventory.imports.staging import ImportSession

_INDEXES = (
    "CREATE INDEX staged_machine_id ON staged_machine (id)",
    "CREATE INDEX staged_snapshot_id ON staged_snapshot (id)",
)
_DUPLICATE_MACHINE = """
    SELECT m.id, m.position FROM staged_machine m JOIN (
        SELECT id FROM staged_machine GROUP BY id HAVING count(*) > 1 LIMIT 1
    ) twice ON twice.id = m.id ORDER BY m.no LIMIT 2
"""
_DUPLICATE_SNAPSHOT = """
    SELECT s.id, m.position, s.place FROM (
        SELECT id FROM staged_snapshot GROUP BY id HAVING count(*) > 1 LIMIT 1
    ) twice JOIN staged_snapshot s ON s.id = twice.id JOIN staged_machine m ON m.no = s.machine_no
    ORDER BY s.machine_no, s.place LIMIT 2
"""
# MATERIALIZED finds the wrong rows first and sorts only them. With a LIMIT over the whole query, PostgreSQL would walk
# the rows of every machine in order.
_FOREIGN_PARENT = """
    WITH wrong AS MATERIALIZED (
        SELECT s.machine_no, s.place, s.parent_id
        FROM staged_snapshot s LEFT JOIN staged_snapshot p ON p.id = s.parent_id
        WHERE s.parent_id IS NOT NULL AND p.machine_no IS DISTINCT FROM s.machine_no
    )
    SELECT m.position, w.place, w.parent_id FROM wrong w JOIN staged_machine m ON m.no = w.machine_no
    ORDER BY w.machine_no, w.place LIMIT 1
"""
_TWO_CURRENT = """
    SELECT m.position, c.place FROM (
        SELECT machine_no, max(place) AS place FROM staged_snapshot WHERE is_current
        GROUP BY machine_no HAVING count(*) > 1
    ) c JOIN staged_machine m ON m.no = c.machine_no ORDER BY m.no LIMIT 1
"""
# A cycle of parents is a snapshot that is its own parent, or has at least one parent with a larger id and one with a
# smaller id. Parents are older and nearly always have the smaller id, so the recursive query, which finds the snapshots
# that cannot be reached from a root, is rarely needed.
_HAS_LARGER_PARENT = "SELECT 1 FROM staged_snapshot WHERE parent_id >= id LIMIT 1"
_HAS_SMALLER_PARENT = "SELECT 1 FROM staged_snapshot WHERE parent_id < id LIMIT 1"
_OWN_PARENT = """
    WITH wrong AS MATERIALIZED (SELECT machine_no, place FROM staged_snapshot WHERE parent_id = id)
    SELECT m.position, w.place FROM wrong w JOIN staged_machine m ON m.no = w.machine_no
    ORDER BY w.machine_no, w.place LIMIT 1
"""
_PARENT_INDEX = "CREATE INDEX staged_snapshot_parent ON staged_snapshot (parent_id)"
_CYCLE = """
    WITH RECURSIVE reached (id) AS (
        SELECT id FROM staged_snapshot WHERE parent_id IS NULL
        UNION ALL SELECT s.id FROM reached JOIN staged_snapshot s ON s.parent_id = reached.id
    ), wrong AS MATERIALIZED (
        SELECT machine_no, place FROM staged_snapshot WHERE id NOT IN (SELECT id FROM reached)
    )
    SELECT m.position, w.place FROM wrong w JOIN staged_machine m ON m.no = w.machine_no
    ORDER BY w.machine_no, w.place LIMIT 1
"""


class _StagedMachine(NamedTuple):
    id: int
    position: str


class _StagedSnapshot(NamedTuple):
    id: int
    position: str  # of its machine
    place: int


class _SnapshotPlace(NamedTuple):
    position: str
    place: int


class _ForeignParent(NamedTuple):
    position: str
    place: int
    parent_id: int


def check_staged(session: ImportSession) -> None:
    """Raises ImportRefused for duplicate ids, parents on other machines, cycles, and several current snapshots.

    Creates indexes on the staged rows, which the merge uses too.
    """
    for statement in _INDEXES:
        session.execute(statement)
    if session.dialect == "postgresql":
        session.execute("ANALYZE staged_machine, staged_snapshot")  # autovacuum skips temporary tables
    if machines := session.rows(_DUPLICATE_MACHINE, _StagedMachine):
        (id, first), (_id, second) = machines
        raise ImportRefused(second, f"The file already contains machine {id}, at {first}.")
    if snapshots := session.rows(_DUPLICATE_SNAPSHOT, _StagedSnapshot):
        (id, first, index), (_id, second, other) = snapshots
        reason = f"The file already contains snapshot {id}, at {first}.snapshots[{index}]."
        raise _refused(second, other, reason)
    for position, index, parent in session.rows(_FOREIGN_PARENT, _ForeignParent):
        raise _refused(position, index, f"Attribute 'parent_id' must be a snapshot of the same machine, not {parent}.")
    for position, index in session.rows(_TWO_CURRENT, _SnapshotPlace):
        raise _refused(position, index, "The snapshot is current, but so is an earlier snapshot of the same machine.")
    if session.rows(_HAS_LARGER_PARENT, int):
        _check_cycles(session)


def _check_cycles(session: ImportSession) -> None:
    cycle = session.rows(_OWN_PARENT, _SnapshotPlace)
    if not cycle and session.rows(_HAS_SMALLER_PARENT, int):
        session.execute(_PARENT_INDEX)
        cycle = session.rows(_CYCLE, _SnapshotPlace)
    for position, index in cycle:
        raise _refused(position, index, "The snapshot is its own ancestor: the values of 'parent_id' form a cycle.")


def _refused(position: str, index: int, reason: str) -> ImportRefused:
    return ImportRefused(f"{position}.snapshots[{index}]", reason)
