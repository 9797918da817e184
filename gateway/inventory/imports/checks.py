"""Checks the staged rows of the imported files against each other, before the merge locks any table.

What contradicts other rows is taken out of the staging tables and reported: a record of an id that another record has,
a parent that is not a snapshot of the same machine, a cycle of parents, a second current snapshot. Each statement that
corrects rows runs only after a query has found some.
"""

from typing import NamedTuple

from gateway.inventory.imports.problems import MAX_LISTED, Consequence, Problems
from gateway.inventory.imports.staging import ImportSession

_INDEXES = (
    "CREATE INDEX staged_machine_id ON staged_machine (id)",
    "CREATE INDEX staged_snapshot_id ON staged_snapshot (id)",
)

# ---- machines

# Two staged machines with one id are the same when one of their references agrees, as in `merge`.
_OTHER_MACHINES = """
    FROM (SELECT id, min(no) AS no FROM staged_machine GROUP BY id HAVING count(*) > 1) repeated
    JOIN staged_machine f ON f.no = repeated.no JOIN staged_machine m ON m.id = repeated.id AND m.no > f.no
    WHERE NOT (m.provider_ref = f.provider_ref OR COALESCE(m.provider_uid = f.provider_uid, FALSE)
        OR CAST(m.id AS TEXT) IN (m.provider_ref, f.provider_ref))
"""
_FIND_OTHER_MACHINES = f"SELECT m.id, m.position, f.position {_OTHER_MACHINES} ORDER BY m.no LIMIT {MAX_LISTED}"
_REMOVE_OTHER_MACHINES = f"DELETE FROM staged_machine WHERE no IN (SELECT m.no {_OTHER_MACHINES})"
_HAS_REPEATED = "SELECT id FROM staged_machine GROUP BY id HAVING count(*) > 1 LIMIT 1"
_SET_REPEATED_KINDS = """
    UPDATE staged_machine SET kind = (SELECT max(o.kind) FROM staged_machine o WHERE o.id = staged_machine.id)
    WHERE kind IS NULL
"""
# Of several records of one machine, the last with a complete list of snapshots remains, or else the last.
_REMOVE_REPEATED = """
    DELETE FROM staged_machine WHERE no IN (
        SELECT m.no FROM staged_machine m JOIN (
            SELECT id, COALESCE(max(CASE WHEN complete THEN no END), max(no)) AS kept
            FROM staged_machine GROUP BY id HAVING count(*) > 1
        ) repeated ON repeated.id = m.id AND m.no <> repeated.kept)
"""
_REMOVE_SNAPSHOTS = """
    DELETE FROM staged_snapshot
    WHERE NOT EXISTS (SELECT 1 FROM staged_machine m WHERE m.no = staged_snapshot.machine_no)
"""
_COUNT_COLLECTION = """
    SELECT count(*) FROM (SELECT DISTINCT id, provider_ref FROM staged_machine WHERE COALESCE(collection, '') = :name) m
"""

# ---- snapshots

_RANKED = """
    WITH ranked AS MATERIALIZED (
        SELECT id, machine_no, place, row_number() OVER (PARTITION BY id ORDER BY machine_no, place) AS rank
        FROM staged_snapshot WHERE id IN (SELECT id FROM staged_snapshot GROUP BY id HAVING count(*) > 1)
    )
"""
_FIND_REPEATED_SNAPSHOTS = f"""
    {_RANKED}
    SELECT r.id, m.position, r.place, fm.position, f.place
    FROM ranked r JOIN ranked f ON f.id = r.id AND f.rank = 1
    JOIN staged_machine m ON m.no = r.machine_no JOIN staged_machine fm ON fm.no = f.machine_no
    WHERE r.rank > 1 ORDER BY r.machine_no, r.place LIMIT {MAX_LISTED}
"""
_SET_INCOMPLETE = f"""
    UPDATE staged_machine SET complete = FALSE WHERE no IN ({_RANKED} SELECT machine_no FROM ranked WHERE rank > 1)
"""
_REMOVE_REPEATED_SNAPSHOTS = f"""
    DELETE FROM staged_snapshot
    WHERE (machine_no, place) IN ({_RANKED} SELECT machine_no, place FROM ranked WHERE rank > 1)
"""
# MATERIALIZED finds the wrong rows first and sorts only them. With a LIMIT over the whole query, PostgreSQL would walk
# the rows of every machine in order.
_FOREIGN_PARENTS = """
    WITH wrong AS MATERIALIZED (
        SELECT s.machine_no, s.place, s.parent_id
        FROM staged_snapshot s LEFT JOIN staged_snapshot p ON p.id = s.parent_id
        WHERE s.parent_id IS NOT NULL AND p.machine_no IS DISTINCT FROM s.machine_no
    )
"""
_LATER_CURRENT = """
    WITH wrong AS MATERIALIZED (
        SELECT s.machine_no, s.place, s.id AS parent_id FROM staged_snapshot s JOIN (
            SELECT machine_no, min(place) AS place FROM staged_snapshot WHERE is_current
            GROUP BY machine_no HAVING count(*) > 1
        ) f ON f.machine_no = s.machine_no AND s.place > f.place WHERE s.is_current
    )
"""
# A cycle of parents is a snapshot that is its own parent, or has at least one parent with a larger id and one with a
# smaller id. Parents are older and nearly always have the smaller id, so the recursive query, which finds the snapshots
# that cannot be reached from a root, is rarely needed. Of these, those with a larger parent id lose it: each cycle has
# at least one.
_HAS_LARGER_PARENT = "SELECT 1 FROM staged_snapshot WHERE parent_id >= id LIMIT 1"
_HAS_SMALLER_PARENT = "SELECT 1 FROM staged_snapshot WHERE parent_id < id LIMIT 1"
_OWN_PARENTS = """
    WITH wrong AS MATERIALIZED (SELECT machine_no, place, parent_id FROM staged_snapshot WHERE parent_id = id)
"""
_PARENT_INDEX = "CREATE INDEX staged_snapshot_parent ON staged_snapshot (parent_id)"
_CYCLES = """
    WITH RECURSIVE reached (id) AS (
        SELECT id FROM staged_snapshot WHERE parent_id IS NULL
        UNION ALL SELECT s.id FROM reached JOIN staged_snapshot s ON s.parent_id = reached.id
    ), wrong AS MATERIALIZED (
        SELECT s.machine_no, s.place, s.parent_id FROM staged_snapshot s LEFT JOIN reached r ON r.id = s.id
        WHERE s.parent_id > s.id AND r.id IS NULL
    )
"""
_FIND_WRONG = f"""
    SELECT m.position, w.place, w.parent_id FROM wrong w JOIN staged_machine m ON m.no = w.machine_no
    ORDER BY w.machine_no, w.place LIMIT {MAX_LISTED}
"""
_CLEAR_WRONG = "UPDATE staged_snapshot SET {} WHERE (machine_no, place) IN ({} SELECT machine_no, place FROM wrong)"


class _OtherMachine(NamedTuple):
    id: int
    position: str
    first_position: str


class _RepeatedSnapshot(NamedTuple):
    id: int
    position: str  # of its machine
    place: int
    first_position: str
    first_place: int


class _WrongSnapshot(NamedTuple):
    position: str  # of its machine
    place: int
    parent_id: int


def check_staged(session: ImportSession, problems: Problems) -> None:
    """Corrects the staged rows so that each id occurs once and each machine's snapshots are trees with one current.

    Creates indexes on the staged rows, which the merge uses too.
    """
    for statement in _INDEXES:
        session.execute(statement)
    if session.dialect == "postgresql":
        session.execute("ANALYZE staged_machine, staged_snapshot")  # autovacuum skips temporary tables
    _check_machines(session, problems)
    if found := session.rows(_FIND_REPEATED_SNAPSHOTS, _RepeatedSnapshot):
        session.execute(_SET_INCOMPLETE)
        listed = [(snapshot_position(row.position, row.place), _repetition(row)) for row in found]
        problems.add_all(listed, Consequence.SNAPSHOT, session.execute(_REMOVE_REPEATED_SNAPSHOTS))
    check_parents(session, problems)
    reason = "The snapshot is current, but so is an earlier snapshot of the same machine."
    _clear(session, problems, _LATER_CURRENT, "is_current = FALSE", reason, Consequence.CURRENT)
    if session.rows(_HAS_LARGER_PARENT, int):
        _check_cycles(session, problems)


def _repetition(row: _RepeatedSnapshot) -> str:
    first = snapshot_position(row.first_position, row.first_place)
    return f"The files already contain snapshot {row.id}, at {first}."


def missing_machines(session: ImportSession, collection: str | None, total: int, left_out: int) -> int:
    """The number of machines of the collection, of `total`, that are neither staged nor among those `left_out`."""
    (staged,) = session.rows(_COUNT_COLLECTION, int, {"name": collection or ""})
    return max(0, total - staged - left_out)


def check_parents(session: ImportSession, problems: Problems) -> None:
    """Removes the parents that are not staged snapshots of the same machine."""
    reason = "Attribute 'parent_id' must be a snapshot of the same machine, not {}."
    _clear(session, problems, _FOREIGN_PARENTS, "parent_id = NULL", reason, Consequence.PARENT)


def remove_snapshots_without_machine(session: ImportSession) -> int:
    """Removes the staged snapshots of machines that are no longer staged, and returns their number."""
    return session.execute(_REMOVE_SNAPSHOTS)


def snapshot_position(position: str, place: int) -> str:
    """The position of a snapshot from that of its machine and its index."""
    return f"{position}.snapshots[{place}]"


def _check_machines(session: ImportSession, problems: Problems) -> None:
    """Leaves one record of each machine: a page may repeat machines of another, and `vms` contains all Instances."""
    if not session.rows(_HAS_REPEATED, int):
        return
    if found := session.rows(_FIND_OTHER_MACHINES, _OtherMachine):
        listed = [
            (row.position, f"The files already contain another machine {row.id}, at {row.first_position}.")
            for row in found
        ]
        problems.add_all(listed, Consequence.MACHINE, session.execute(_REMOVE_OTHER_MACHINES))
        problems.snapshots_of_machines += remove_snapshots_without_machine(session)
    session.execute(_SET_REPEATED_KINDS)
    session.execute(_REMOVE_REPEATED)
    remove_snapshots_without_machine(session)


def _check_cycles(session: ImportSession, problems: Problems) -> None:
    reason = "The snapshot is its own ancestor: the values of 'parent_id' form a cycle."
    _clear(session, problems, _OWN_PARENTS, "parent_id = NULL", reason, Consequence.PARENT)
    if session.rows(_HAS_LARGER_PARENT, int) and session.rows(_HAS_SMALLER_PARENT, int):
        session.execute(_PARENT_INDEX)
        _clear(session, problems, _CYCLES, "parent_id = NULL", reason, Consequence.PARENT)


def _clear(
    session: ImportSession, problems: Problems, wrong: str, assignment: str, reason: str, consequence: Consequence
) -> None:
    """Applies the assignment to the snapshots that `wrong` finds, and reports them. `{}` in `reason` is the parent."""
    if found := session.rows(wrong + _FIND_WRONG, _WrongSnapshot):
        listed = [(snapshot_position(row.position, row.place), reason.format(row.parent_id)) for row in found]
        problems.add_all(listed, consequence, session.execute(_CLEAR_WRONG.format(assignment, wrong)))
