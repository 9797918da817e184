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
# What must be held for that until the transaction ends. As on SQLite, readers go on and writers wait: also those that
# only lock rows so far, or we would wait for each other. Machines first, as everywhere.
LOCK = {"sqlite": (), "postgresql": ("LOCK TABLE machine, snapshot IN EXCLUSIVE MODE",)}
