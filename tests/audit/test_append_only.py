"""The audit log is append-only: entries cannot be changed or deleted early, and no command is accepted without one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.config import Settings
from gateway.errors import StartupError
from gateway.operations.housekeeping import sweep
from tests.audit.world import CallerClient, entries
from tests.graphql.client import CREATE, DELETE, REVERT, await_final_state, dump, execute_sql, tree
from tests.serving import Served
from tests.waiting import until

LONG_AGO = "'2020-01-01T00:00:00.000000Z'"
REFUSED = "the record of who did what is append-only"  # the message of the released triggers


@pytest.fixture
def sql(gateway: Served) -> Callable[[str], list[Any]]:
    """Runs SQL in a transaction of its own, as the gateway's database user."""
    return lambda text: gateway.run(gateway.gateway.database.write(lambda tx: tx.rows(text)))


def _create_entry(operator: CallerClient, admin: CallerClient) -> int:
    """Causes an entry and returns its number."""
    operator.mutate(REVERT, snapshotId="snapshot-99997")
    (entry,) = entries(admin, filter={"requestId": {"eq": operator.request_id}})
    number: str = entry["id"].removeprefix("audit-")
    return int(number)


def test_sql_cannot_change_or_delete_entries(
    gateway: Served, admin: CallerClient, operator: CallerClient, sql: Callable[[str], list[Any]]
) -> None:
    number = _create_entry(operator, admin)
    before = entries(admin)
    attempts = [
        f"UPDATE audit_entry SET caller_name = 'eve' WHERE id = {number}",
        f"UPDATE audit_entry SET created_at = {LONG_AGO}",
        f"DELETE FROM audit_entry WHERE id = {number}",
        "DELETE FROM audit_entry",
    ]
    if gateway.gateway.database.dialect == "sqlite":
        columns = "id, created_at, tenant, caller_roles, surface, action, outcome, repeats"
        row = f"{number}, {LONG_AGO}, 'default', '[]', 'REST', 'READ', 'REFUSED', 0"
        attempts += [f"INSERT OR REPLACE INTO audit_entry ({columns}) VALUES ({row})"]
    else:
        attempts += ["TRUNCATE audit_entry"]
    for attempt in attempts:
        with pytest.raises(Exception, match=REFUSED):
            sql(attempt)
    assert entries(admin) == before


def test_retention(
    gateway: Served, admin: CallerClient, operator: CallerClient, sql: Callable[[str], list[Any]]
) -> None:
    """Entries older than the setting are deleted in batches of limited size; younger ones are kept."""
    kept = _create_entry(operator, admin)
    columns = "tenant, caller_roles, surface, action, outcome, repeats"
    aged = "'default', '[]', 'REST', 'READ', 'REFUSED', 0"
    database = gateway.gateway.database
    before = {node["id"] for node in entries(admin)}
    sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)"
        f" INSERT INTO audit_entry (id, created_at, {columns}) SELECT -i, {LONG_AGO}, {aged} FROM n"
    )
    statements = database.statement_count
    gateway.run(sweep(database, Settings()))
    assert sql("SELECT count(*) FROM audit_entry WHERE id < 0")[0][0] == 0
    assert database.statement_count - statements >= 3  # batches of 500
    assert {node["id"] for node in entries(admin)} == before
    assert f"audit-{kept}" in before


def test_the_retention_is_at_least_thirty_days() -> None:
    environment = {"GATEWAY_KEEP_AUDIT": "2591999"}
    with pytest.raises(StartupError, match=r"GATEWAY_KEEP_AUDIT must be at least 2592000 \(30 days\)"):
        Settings.from_environment(environment)
    assert Settings.from_environment({"GATEWAY_KEEP_AUDIT": "2592000"}).keep_audit == 2_592_000


def test_a_command_that_cannot_be_recorded_is_not_accepted(
    gateway: Served, operator: CallerClient, sql: Callable[[str], list[Any]]
) -> None:
    before = dump(gateway)
    with _failing_inserts(gateway, sql, "ACCEPTED"):
        for mutation, arguments in (
            (CREATE, {"machineId": "vm-23", "name": "x"}),
            (REVERT, {"snapshotId": "snapshot-3"}),
            (DELETE, {"ids": ["snapshot-3", "snapshot-4"]}),
        ):
            body = operator.post(mutation, input=arguments)
            assert [error["extensions"]["code"] for error in body["errors"]] == ["INTERNAL_SERVER_ERROR"]
            assert "full" not in str(body)
        assert dump(gateway) == before


def test_a_refusal_that_cannot_be_recorded_is_still_returned(
    gateway: Served, operator: CallerClient, sql: Callable[[str], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    with _failing_inserts(gateway, sql, "REFUSED"):
        payload = operator.mutate(REVERT, snapshotId="snapshot-99996")
    assert [error["code"] for error in payload["errors"]] == ["NOT_FOUND"]
    assert "Refusals could not be recorded count=1" in caplog.text


def test_an_operation_whose_outcome_cannot_be_recorded_stays_running(
    gateway: Served,
    admin: CallerClient,
    operator: CallerClient,
    sql: Callable[[str], list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It finishes when the outcome can be recorded, and the driver is not called twice."""
    with _failing_inserts(gateway, sql, "SUCCEEDED"):
        payload = operator.mutate(CREATE, machineId="vm-26", name="patient")
        operation = payload["operation"]["id"]
        logged = f"Operation could not be recorded and will be claimed again operation={operation}"
        until(lambda: logged in caplog.text)
        query = "query ($id: ID!) { operation(id: $id) { state } }"
        assert gateway.ask(query, id=operation)["operation"]["state"] == "RUNNING"
    execute_sql(gateway, f"UPDATE operation SET lease_until = {LONG_AGO} WHERE lease_until IS NOT NULL")
    assert await_final_state(gateway, operation) == ("SUCCEEDED", None)
    found = entries(admin, filter={"operationId": {"eq": operation}})
    assert [node["outcome"] for node in found] == ["ACCEPTED", "SUCCEEDED"]
    assert [name for name, _, _ in tree(gateway, "vm-26")].count("*patient") == 1


@contextmanager
def _failing_inserts(gateway: Served, sql: Callable[[str], list[Any]], outcome: str) -> Iterator[None]:
    """Makes the database reject entries with this outcome while the block runs."""
    if gateway.gateway.database.dialect == "sqlite":
        begin = (
            f"CREATE TRIGGER broken BEFORE INSERT ON audit_entry WHEN NEW.outcome = '{outcome}'"
            " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
        end = "DROP TRIGGER broken"
    else:
        begin = f"ALTER TABLE audit_entry ADD CONSTRAINT broken CHECK (outcome <> '{outcome}') NOT VALID"
        end = "ALTER TABLE audit_entry DROP CONSTRAINT broken"
    sql(begin)
    try:
        yield
    finally:
        sql(end)
