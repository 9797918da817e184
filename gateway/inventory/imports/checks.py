"""What can be wrong with an imported file as a whole: asked of the staged rows, before anything is locked."""

from gateway.inventory.imports.records import ImportRefused
from gateway.inventory.imports.staging import Session

_INDEXES = (
    "CREATE INDEX staged_machine_id ON staged_machine (id)",
    "CREATE INDEX staged_snapshot_id ON staged_snapshot (id)",
)
_MACHINE_TWICE = """
    SELECT m.id, m.position FROM staged_machine m JOIN (
        SELECT id FROM staged_machine GROUP BY id HAVING count(*) > 1 LIMIT 1
    ) twice ON twice.id = m.id ORDER BY m.no LIMIT 2
"""
_SNAPSHOT_TWICE = """
    SELECT s.id, m.position, s.place FROM (
        SELECT id FROM staged_snapshot GROUP BY id HAVING count(*) > 1 LIMIT 1
    ) twice JOIN staged_snapshot s ON s.id = twice.id JOIN staged_machine m ON m.no = s.machine_no
    ORDER BY s.machine_no, s.place LIMIT 2
"""
# What is wrong is found first and looked at then: with one LIMIT over all of it PostgreSQL walks every machine's rows.
_STRANGE_PARENT = """
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
# A ring of parents goes up in number somewhere and down elsewhere, or is a single snapshot. A parent is nearly always
# the older and smaller one, so the walk from the roots, to find what they do not lead to, is seldom needed.
_UPWARDS = "SELECT 1 FROM staged_snapshot WHERE parent_id >= id LIMIT 1"
_DOWNWARDS = "SELECT 1 FROM staged_snapshot WHERE parent_id < id LIMIT 1"
_OWN_PARENT = """
    WITH wrong AS MATERIALIZED (SELECT machine_no, place FROM staged_snapshot WHERE parent_id = id)
    SELECT m.position, w.place FROM wrong w JOIN staged_machine m ON m.no = w.machine_no
    ORDER BY w.machine_no, w.place LIMIT 1
"""
_BY_PARENT = "CREATE INDEX staged_snapshot_parent ON staged_snapshot (parent_id)"
_RING = """
    WITH RECURSIVE reached (id) AS (
        SELECT id FROM staged_snapshot WHERE parent_id IS NULL
        UNION ALL SELECT s.id FROM reached JOIN staged_snapshot s ON s.parent_id = reached.id
    ), wrong AS MATERIALIZED (
        SELECT machine_no, place FROM staged_snapshot WHERE id NOT IN (SELECT id FROM reached)
    )
    SELECT m.position, w.place FROM wrong w JOIN staged_machine m ON m.no = w.machine_no
    ORDER BY w.machine_no, w.place LIMIT 1
"""


def check_staged(session: Session) -> None:
    """Raises ImportRefused when the staged rows contradict each other. Indexes them on the way."""
    for statement in _INDEXES:
        session.execute(statement)
    if session.dialect == "postgresql":
        session.execute("ANALYZE staged_machine, staged_snapshot")  # nobody else does it for temporary tables
    if twice := session.rows(_MACHINE_TWICE):
        (id, first), (_id, second) = twice
        raise ImportRefused(second, f"machine {id} is in the file already, at {first}")
    if twice := session.rows(_SNAPSHOT_TWICE):
        (id, first, place), (_id, second, other) = twice
        raise _refused(second, other, f"snapshot {id} is in the file already, at {first}.snapshots[{place}]")
    for position, place, parent in session.rows(_STRANGE_PARENT):
        raise _refused(position, place, f"parent_id {parent} is not a snapshot in this machine's list")
    for position, place in session.rows(_TWO_CURRENT):
        raise _refused(position, place, "is current, and so is an earlier snapshot of the same machine")
    if session.rows(_UPWARDS):
        _check_rings(session)


def _check_rings(session: Session) -> None:
    ring = session.rows(_OWN_PARENT)
    if not ring and session.rows(_DOWNWARDS):
        session.execute(_BY_PARENT)
        ring = session.rows(_RING)
    for position, place in ring:
        raise _refused(position, place, "descends from itself")


def _refused(position: str, place: int, reason: str) -> ImportRefused:
    return ImportRefused(f"{position}.snapshots[{place}]", reason)
