"""Every SQL text sent to PostgreSQL: constructs beyond plain SQL are listed in docs/scaling.md."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import SQLModel

import gateway
from gateway.config import Settings
from gateway.store.change_triggers import change_triggers
from gateway.store.migrations import triggers
from gateway.store.postgres import PostgresTransaction
from gateway.store.statements import Statement
from tests.databases import Databases, load_world
from tests.graphql.client import CREATE, set_latency
from tests.serving import served

# Plain SQL, which every engine supports: keywords, common types and functions.
_PLAIN = """
ALL AND AS ASC BETWEEN BIGINT BOOLEAN BY CASE CAST CONFLICT CROSS DELETE DESC DISTINCT DO ELSE END ESCAPE
EXISTS FALSE FIRST FLOAT FROM FULL GREATEST GROUP HAVING IN INNER INSERT INTEGER INTO IS JOIN LAST LEFT LIKE
LIMIT NOT NOTHING NULL NULLS OFFSET ON OR ORDER OUTER OVERRIDING PRECISION DOUBLE RETURNING SELECT SET SYSTEM
TEXT THEN TIME TIMESTAMP TRUE UNION UPDATE USER VALUE VALUES VARCHAR WHEN WHERE WITH ZONE abs coalesce count
exists greatest in length lower make_interval max min nullif over partition right row_number strpos sum upper
values
"""
PLAIN = set(_PLAIN.split())
# The keywords of each construct, and its name in the page's table.
CONSTRUCTS = {
    "FOR UPDATE": r"\bFOR (NO KEY )?UPDATE\b( OF \w+)?",
    "FOR SHARE": r"\bFOR (KEY )?SHARE\b( OF \w+)?",
    "ROWS FROM (json_to_recordset(…))": r"\bROWS FROM \(json_to_recordset\(",
    "SKIP LOCKED": r"\bSKIP LOCKED\b",
    "clock_timestamp()": r"\bclock_timestamp\(",
    "WITH RECURSIVE": r"\bRECURSIVE\b",
    "CROSS JOIN LATERAL": r"\bLATERAL\b",
    "OVER (PARTITION BY …)": r"\bOVER \((PARTITION BY)?",
    "unnest": r"\bunnest\(",
    "= ANY": r"\bANY ?\(",
    "ARRAY": r"\bARRAY ?\(",
    "WITH ORDINALITY": r"\bORDINALITY\b",
    "COLLATE": r"\bCOLLATE\b",
    "REFERENCING": r"\bREFERENCING\b",
    "PL/pgSQL": r"\bLANGUAGE plpgsql\b",
    "pg_current_xact_id": r"\bpg_current_xact_id\(",
    "pg_snapshot_xmin": r"\bpg_(snapshot_xmin|current_snapshot)\(",
    "LOCK TABLE": r"\bLOCK TABLE\b|\bIN [A-Z ]+ MODE\b",
    "setval": r"\bsetval\(",
    "NOTIFY": r"\bpg_notify\(",
    "pg_stat_activity": r"\bpg_stat_activity\b|\bcurrent_database\(",
}
_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"")
_WORD = re.compile(r"\b[A-Z]{2,}\b|\b[a-z_0-9]+(?=\()")

_READ = """{
  machines(first: 2, sort: [{field: NAME, ignoreCase: true}]) { totalCount pageInfo { hasPreviousPage } nodes { id
    snapshots(first: 2, filter: {
      name: {contains: "a", ignoreCase: true}, or: [{description: {like: "a*b"}}, {not: {sizeBytes: {gt: "5"}}}]
    }) { totalCount pageInfo { hasNextPage } nodes { id parent { id } children(first: 1) { nodes { id } } } }
    currentSnapshot { id } operations(last: 1) { nodes { id } } } }
  some: vms(filter: {someSnapshot: {state: {in: [READY]}}, name: {endsWith: "1"}}, offset: 1) { nodes { id } }
  nodes(ids: ["vm-11", "snapshot-3"]) { id }
  providers { name machineCount }
}"""


def _written() -> Iterator[str]:
    """Statements declared in modules, and the triggers."""
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if re.search(r"\.migrations|\.drivers\.|__main__$", module.name):  # drivers have no SQL, and need their extras
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Statement):
                yield value.compiled("postgresql").sql
    yield from triggers.create("postgresql")
    for trigger in change_triggers(SQLModel.metadata, "postgresql"):
        yield from trigger.statements


@pytest.fixture(scope="module")
def sent(databases: Databases) -> list[str]:
    """The same, and everything that a gateway sends while it serves reads, writes and subscriptions."""
    texts = list(_written())
    patch = pytest.MonkeyPatch()
    rows = PostgresTransaction.rows

    async def recorded(self: Any, sql: str, parameters: Any = ()) -> Any:
        texts.append(sql)
        return await rows(self, sql, parameters)

    patch.setattr(PostgresTransaction, "rows", recorded)
    url = load_world(databases.new("postgresql"))
    with served(Settings(database_url=url)) as server:
        set_latency(server, 0)
        server.ask(_READ)
        created = server.ask(CREATE, input={"machineId": "vm-11", "name": "new"})["createSnapshot"]
        server.await_operation(created["operation"]["id"])
        for query in ("expand=resources&filter[]=name='a*'&sort_by=name", "expand=resources&filter[]=name=~/a/"):
            server.http.get(f"/api/vms?{query}")
    patch.undo()
    return texts


def test_every_construct_beyond_plain_sql_is_known(sent: list[str]) -> None:
    known = set()
    for text in (sql for sql in sent if "TRIGGER" not in sql and "LANGUAGE plpgsql" not in sql):
        rest = _LITERAL.sub("", text)
        for construct in CONSTRUCTS.values():
            rest = re.sub(construct, "", rest)
        known |= set(_WORD.findall(rest))
    assert known - PLAIN <= {"tree", "p"}  # names of subqueries


def test_every_construct_is_used_and_documented(sent: list[str], root: Path) -> None:
    everything = "\n".join(sent)
    page = (root / "docs" / "scaling.md").read_text()
    assert [name for name, pattern in CONSTRUCTS.items() if not re.search(pattern, everything)] == []
    assert [name for name in CONSTRUCTS if name not in page] == []
