"""A migration beside a serving gateway on PostgreSQL: a deadlock with a transaction of the gateway does not fail it."""

from concurrent.futures import ThreadPoolExecutor

import psycopg

from gateway.store.migrate import migrate, revisions
from tests.databases import Databases
from tests.waiting import PATIENCE, until

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'snapshot'::regclass"


def test_a_deadlock_is_retried(databases: Databases) -> None:
    """The transaction writes the tables in another order than the migration, which is the one that is ended."""
    url = databases.new("postgresql", demo=True)
    with (
        psycopg.connect(url, autocommit=True) as observer,
        psycopg.connect(url) as writer,
        ThreadPoolExecutor(1) as thread,
    ):
        observer.execute(f"ALTER DATABASE {writer.info.dbname} SET deadlock_timeout = '50ms'".encode())
        for table in ("operation", "snapshot"):
            observer.execute(f"DROP TRIGGER publish_{table}_updated ON {table}".encode())
            observer.execute(f"DROP FUNCTION publish_{table}_updated()".encode())
        writer.execute("SET deadlock_timeout = '600s'")
        writer.execute("UPDATE snapshot SET description = 'changed' WHERE id = 3")
        migrated = thread.submit(migrate, url)
        until(lambda: observer.execute(WAITING).fetchall() != [(0,)])
        writer.execute("UPDATE operation SET phase = 'changed' WHERE id = 1")
        writer.commit()
        assert migrated.result(PATIENCE) == (revisions()[-1], revisions()[-1])
        assert observer.execute("SELECT description FROM snapshot WHERE id = 3").fetchall() == [("changed",)]
        names = "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'publish%updated' ORDER BY tgname"
        assert [row[0] for row in observer.execute(names)] == [
            f"publish_{noun}_updated" for noun in ("machine", "operation", "provider", "snapshot")
        ]
