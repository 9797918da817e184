"""Keeps numbers that came from elsewhere from being given out again.

SQLite's AUTOINCREMENT remembers the largest id by itself; PostgreSQL's sequences do not see ids that are given.
"""

# Never backwards: a number of a row that is gone stays used. Run where nobody else can insert meanwhile.
ADVANCE_SEQUENCES = {
    "sqlite": (),
    "postgresql": tuple(
        f"SELECT setval('{table}_id_seq', greatest(last_value, (SELECT max(id) FROM {table}))) FROM {table}_id_seq"
        f" WHERE EXISTS (SELECT 1 FROM {table})"
        for table in ("machine", "snapshot")
    ),
}
# What must be held for that until the transaction ends. As on SQLite, readers go on and writers wait.
LOCK = {"sqlite": (), "postgresql": ("LOCK TABLE machine, snapshot IN SHARE ROW EXCLUSIVE MODE",)}
