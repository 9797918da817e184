"""Each operation that ends is one line of the log, with what an operator needs to find out what happened."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.client import (
    CANCEL,
    CREATE,
    REFRESH,
    await_running,
    execute_sql,
    mutate,
    provider_ref,
    set_latency,
    stalled,
)
from tests.serving import Served, served, without_refreshes
from tests.waiting import until


@pytest.fixture(scope="module", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """The demo world with instantaneous providers. Each test uses another machine."""
    settings = Settings(database_url=databases.new(request.param, demo=True), drain_timeout=0.1)
    with served(settings, jobs=without_refreshes) as gateway:
        set_latency(gateway, 0)
        yield gateway


def lines(caplog: pytest.LogCaptureFixture, operation: str) -> list[tuple[str, dict[str, Any]]]:
    """The level and the fields of the lines about the end of an operation, `seconds` only as its type."""
    found = []
    for record in caplog.records:
        fields: dict[str, Any] = getattr(record, "fields", {})
        if record.getMessage() == "Operation ended" and fields["operation"] == operation:
            shown = {name: value for name, value in fields.items() if value is not None}
            assert shown.pop("seconds") >= 0.0
            found.append((record.levelname, shown))
    return found


def ended(caplog: pytest.LogCaptureFixture, operation: str) -> tuple[str, dict[str, Any]]:
    """The only line about the end of an operation. It is written after the end is committed."""
    until(lambda: lines(caplog, operation))
    (line,) = lines(caplog, operation)
    return line


def test_success(gateway: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        payload = mutate(gateway, CREATE, machineId="vm-21", name="n")
        operation, snapshot = payload["operation"]["id"], payload["snapshot"]["id"]
        assert ended(caplog, operation) == (
            "INFO",
            {
                "operation": operation,
                "kind": "CREATE_SNAPSHOT",
                "state": "SUCCEEDED",
                "machine": "vm-21",
                "snapshot": snapshot,
                "requestedBy": "local",
            },
        )
        refreshed = mutate(gateway, REFRESH, machineId="instance-201")["operation"]["id"]
        fields = ended(caplog, refreshed)[1]
        assert (fields["kind"], fields["machine"], "snapshot" in fields) == ("REFRESH_MACHINE", "instance-201", False)


def test_failure(gateway: Served, caplog: pytest.LogCaptureFixture) -> None:
    ref = provider_ref(gateway, "vm-22")
    fault = '{"on": "create", "kind": "refuse", "message": "no space left", "times": 1}'
    execute_sql(gateway, f"UPDATE simulated_machine SET fault = '{fault}' WHERE ref = '{ref}'")
    payload = mutate(gateway, CREATE, machineId="vm-22", name="n")
    operation = payload["operation"]["id"]
    level, fields = ended(caplog, operation)
    error = gateway.await_operation(operation)["error"]
    assert (level, fields["state"], fields["code"]) == ("WARNING", "FAILED", "PROVIDER_FAILED")
    assert (fields["error"], fields["providerMessage"]) == (error["message"], "no space left")


def test_cancellation(gateway: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Of an operation that runs, by the worker; of one that waits, by the request."""
    with caplog.at_level(logging.INFO):
        with stalled(gateway, "vm-23"):
            running = mutate(gateway, CREATE, machineId="vm-23", name="n")["operation"]["id"]
            await_running(gateway, running)
            queued = mutate(gateway, CREATE, machineId="vm-23", name="n")["operation"]["id"]
            for _ in range(2):  # the second one is refused, and has no line
                mutate(gateway, CANCEL, operationId=queued)
            mutate(gateway, CANCEL, operationId=running)
            stopped = ended(caplog, running)
        for operation, (level, fields) in ((running, stopped), (queued, ended(caplog, queued))):
            assert (level, fields["state"], fields["machine"]) == ("INFO", "CANCELED", "vm-23"), operation
