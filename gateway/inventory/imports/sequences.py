"""Advances id sequences past ids that were inserted explicitly, so that they are not assigned a second time.

SQLite's AUTOINCREMENT tracks the largest id itself. PostgreSQL's sequences ignore explicit ids.
"""

# Sequences never move backwards, so ids of deleted rows are not reused. Run with LOCK_TABLES held, which prevents
# concurrent inserts.
ADVANCE_SEQUENCES = {
    "sqlite": (),
    "postgresql": tuple(
        f"SELECT setval('{table}_id_seq', greatest(last_value, (SELECT max(id) FROM {table}))) FROM {table}_id_seq"
        f" WHERE EXISTS (SELECT 1 FROM {table})"
        for table in ("machine", "snapshot")
    ),
}
# Locks out writers until the transaction ends, as on SQLite; readers continue. EXCLUSIVE mode also waits for
# transactions that have only locked rows so far, which prevents deadlocks with them. The order of the tables, machines
# first, is the same everywhere.
LOCK_TABLES = {"sqlite": (), "postgresql": ("LOCK TABLE machine, snapshot IN EXCLUSIVE MODE",)}
