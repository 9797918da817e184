"""Runs two versions of the gateway beside each other on one PostgreSQL, under load, and counts what failed.

    python -m tests.releases.rolling CHECKOUT

First an upgrade: the gateway of CHECKOUT, an earlier version, serves clients that create and delete snapshots and read.
The database is migrated, this version starts beside it and gets the same load, and then the old one is stopped.
`updateSnapshot` is tried at the new one all the time. It must be refused while the old one runs, and accepted soon
after.

Then a newer version beside this one: a copy of this checkout that knows one more kind of operation. Operations of that
kind are queued on machines of their own, and both versions get the load.

Exits with 1 if a request failed, an accepted operation was lost or ended otherwise than SUCCEEDED, or an
`updateSnapshot` was accepted too early.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from gateway.models import Operation
from gateway.store.statements import table_of
from tests.postgres import PostgresServer, find_binaries
from tests.waiting import until

HERE = Path(__file__).parents[2]

LOAD_SECONDS = 10.0  # in each phase
CLIENTS = 4  # per gateway
LEASE = 6.0  # seconds; short, so that the registration of a stopped process expires soon

CREATE = """mutation ($machine: ID!, $name: String!, $key: String) {
    createSnapshot(input: {machineId: $machine, name: $name, idempotencyKey: $key}) {
        operation { id } snapshot { id } errors { code message } } }"""
DELETE = """mutation ($id: ID!) { deleteSnapshots(input: {ids: [$id]}) {
    results { operation { id } errors { code message } } errors { code message } } }"""
UPDATE = """mutation ($id: ID!, $name: String!) { updateSnapshot(input: {snapshotId: $id, name: $name}) {
    operation { id } errors { code message } } }"""
READ = "{ machines(first: 5) { nodes { id name snapshots(first: 3) { totalCount nodes { name } } } } }"
STATES = "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Operation { id kind state } } }"
MACHINES = "{ vms(first: 20) { nodes { id } } }"

# What turns a copy of this checkout into a newer version, with one more kind of operation: file, text, replacement.
NEWER = (
    (
        "gateway/models.py",
        "\n\nclass OperationState(",
        '\n    ARCHIVE_SNAPSHOT = "ARCHIVE_SNAPSHOT", "Archives a snapshot.", "Archiving"\n\n\nclass OperationState(',
    ),
    (
        "gateway/models.py",
        "\n\nclass AuditOutcome(",
        '\n    ARCHIVE_SNAPSHOT = "ARCHIVE_SNAPSHOT", "Archive a snapshot."\n\n\nclass AuditOutcome(',
    ),
    (
        "gateway/operations/operation_kinds.py",
        "OPERATION_TYPES: Mapping[OperationKind, OperationType] = {\n",
        "OPERATION_TYPES: Mapping[OperationKind, OperationType] = {\n    OperationKind.ARCHIVE_SNAPSHOT: _ARCHIVE,\n",
    ),
    (
        "gateway/operations/operation_kinds.py",
        "\nOPERATION_TYPES",
        "\n_ARCHIVE = RefreshMachineOperation()\nOPERATION_TYPES",
    ),
)
_OPERATION = table_of(Operation).c
QUEUE_NEWER = f"""INSERT INTO operation (tenant, kind, state, machine_id, machine_kind, machine_name, created_at, token,
        {_OPERATION.payload.name}, {_OPERATION.dispatched.name}, attempt, fence, requested_by, requested_by_folded)
    SELECT tenant, 'ARCHIVE_SNAPSHOT', 'QUEUED', id, kind, name, now(), md5(random()::text),
        '{{}}', FALSE, 0, 0, 'p', 'p'
    FROM machine WHERE id = ANY(%s)"""


class Clients:
    """Clients of the gateways. Counts what they requested and what failed, and remembers the accepted operations."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.operations: list[str] = []
        self._lock = threading.Lock()
        self._number = 0

    def post(self, client: httpx2.Client, label: str, query: str, **variables: Any) -> dict[str, Any]:
        """The data of the response. Anything else counts as a failure and raises."""
        self._count(label)
        try:
            response = client.post("/graphql", json={"query": query, "variables": variables})
            data: dict[str, Any] | None = response.json().get("data")
        except Exception as error:
            self._fail(f"{label}: {error!r}")
            raise
        if data is None:
            self._fail(f"{label}: {response.text[:300]}")
            raise AssertionError(response.text)
        return data

    def work(self, client: httpx2.Client, machine: str) -> None:
        """Creates a snapshot and deletes it, both to the end, and reads."""
        with self._lock:
            self._number += 1
            name = f"load-{self._number}"
        payload = self.post(client, "create", CREATE, machine=machine, name=name, key=name)["createSnapshot"]
        if not self._accepted("create", payload):
            return
        self.await_end(client, [payload["operation"]["id"]])
        deleted = self.post(client, "delete", DELETE, id=payload["snapshot"]["id"])["deleteSnapshots"]
        self._accepted("delete", deleted["results"][0])
        self.post(client, "read", READ)

    def await_end(self, client: httpx2.Client, operations: Sequence[str]) -> list[dict[str, Any]]:
        """Waits until the operations have ended. Returns them."""

        def ended() -> list[dict[str, Any]] | None:
            found: list[dict[str, Any]] = client.post(
                "/graphql", json={"query": STATES, "variables": {"ids": operations}}
            ).json()["data"]["nodes"]
            return None if any(each["state"] in ("QUEUED", "RUNNING") for each in found) else found

        return until(ended, 60.0, pause=0.05)

    def _accepted(self, label: str, payload: dict[str, Any]) -> bool:
        if payload["errors"]:
            self._fail(f"{label}: refused: {payload['errors']}")
            return False
        with self._lock:
            self.operations.append(payload["operation"]["id"])
        return True

    def _count(self, label: str) -> None:
        with self._lock:
            self.counts[label] += 1

    def _fail(self, text: str) -> None:
        with self._lock:
            self.failures.append(text)


@contextmanager
def gateway(checkout: Path, url: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """The gateway of a checkout, and a client of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    settings = {"PYTHONPATH": str(checkout), "GATEWAY_OPERATION_LEASE": str(LEASE), "GATEWAY_DATABASE_URL": url}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "serve", "--port", "0", *arguments],
        cwd=checkout,
        env=kept | settings,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert address is not None
        with httpx2.Client(base_url=address[0], trust_env=False, timeout=60) as client:
            yield process, client
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextmanager
def load(clients: Clients, urls: Sequence[str], machines: Sequence[str]) -> Iterator[None]:
    """Has clients of all the gateways work while the block runs, each on a machine of its own."""
    stopping = threading.Event()

    def run(url: str, machine: str) -> None:
        with httpx2.Client(base_url=url, trust_env=False, timeout=60) as client:
            while not stopping.is_set():
                try:
                    clients.work(client, machine)
                except Exception:  # noqa: BLE001 - counted as a failure
                    time.sleep(0.1)

    pairs = zip([url for url in urls for _ in range(CLIENTS)], machines, strict=False)
    threads = [threading.Thread(target=run, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(90)


def main() -> int:
    """Both runs. Prints the counts and what failed; the exit code."""
    old = Path(sys.argv[1]).resolve()
    binaries = find_binaries()
    assert binaries is not None, "PostgreSQL is not installed."
    server = PostgresServer(binaries)
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            for name in ("upgrade", "newer"):
                connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'")
        upgraded = upgrade(old, server.url("upgrade"))
        return upgraded | newer(server.url("newer"))
    finally:
        server.stop()


def upgrade(old: Path, url: str) -> int:
    """An earlier version beside this one, through the migration and until the earlier one has stopped."""
    clients, phases, early = Clients(), [], []
    with ExitStack() as stack:
        old_process, old_client = stack.enter_context(gateway(old, url, "--demo"))
        machines = [node["id"] for node in clients.post(old_client, "read", MACHINES)["vms"]["nodes"]]
        _speed_up(url)
        with load(clients, [str(old_client.base_url)], machines):
            time.sleep(LOAD_SECONDS / 2)
            subprocess.run(
                [sys.executable, "-m", "gateway", "migrate", "--database-url", url], cwd=HERE, check=True, stdout=2
            )
            _, new_client = stack.enter_context(gateway(HERE, url))
            phases.append(f"migrated and started after {sum(clients.counts.values())} requests")
            both = [str(old_client.base_url), str(new_client.base_url)]
            with load(clients, both[1:], machines[CLIENTS:]):
                target = _snapshot(clients, new_client, machines[-1])
                deadline = time.monotonic() + LOAD_SECONDS
                tried = 0
                while time.monotonic() < deadline:
                    tried += 1
                    if _update(clients, new_client, target) is not None:
                        early.append(tried)
                    time.sleep(0.05)
                phases.append(f"updateSnapshot beside the old version: {tried} tried, {len(early)} accepted")
        old_process.terminate()
        old_process.wait(60)
        with load(clients, both[1:], machines):
            begun = time.monotonic()
            operation = until(lambda: _update(clients, new_client, target), 60.0, pause=0.1)
            phases.append(f"updateSnapshot accepted {time.monotonic() - begun:.1f} s after the old version stopped")
            clients.operations.append(operation)
        return _report("the earlier version beside this one", clients, new_client, phases) | bool(early)


def newer(url: str) -> int:
    """This version beside a newer one, which has operations of a kind that this one does not know."""
    clients, phases = Clients(), []
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        copy = Path(directory) / "newer"
        shutil.copytree(
            HERE / "gateway", copy / "gateway", ignore=shutil.ignore_patterns("node_modules", "__pycache__")
        )
        for name, text, replacement in NEWER:
            content = (copy / name).read_text()
            assert content.count(text) == 1, (name, text)
            (copy / name).write_text(content.replace(text, replacement))
        _, this_client = stack.enter_context(gateway(HERE, url, "--demo"))
        machines = [node["id"] for node in clients.post(this_client, "read", MACHINES)["vms"]["nodes"]]
        _speed_up(url)
        numbers = [int(machine.removeprefix("vm-")) for machine in machines[-3:]]
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(QUEUE_NEWER, [numbers])
        with load(clients, [str(this_client.base_url)], machines):
            time.sleep(LOAD_SECONDS / 2)
            waiting = _unknown(url)
            phases.append(f"operations of an unknown kind while only this version runs: {waiting} wait")
            _, newer_client = stack.enter_context(gateway(copy, url))
            with load(clients, [str(newer_client.base_url)], machines[CLIENTS:]):
                until(lambda: _unknown(url) == 0, 60.0, pause=0.1)
                time.sleep(LOAD_SECONDS)
        phases.append("the newer version has executed them")
        return _report("this version beside a newer one", clients, this_client, phases) | (waiting != len(numbers))


def _unknown(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM operation WHERE kind = 'ARCHIVE_SNAPSHOT' AND state <> 'SUCCEEDED'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _speed_up(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE simulated_machine SET latency_ms = 20")


def _snapshot(clients: Clients, client: httpx2.Client, machine: str) -> str:
    payload = clients.post(client, "create", CREATE, machine=machine, name="target")["createSnapshot"]
    clients.await_end(client, [payload["operation"]["id"]])
    snapshot: str = payload["snapshot"]["id"]
    return snapshot


def _update(clients: Clients, client: httpx2.Client, snapshot: str) -> str | None:
    """The operation of an `updateSnapshot`, or None if it was refused because of an old process."""
    payload = clients.post(client, "update", UPDATE, id=snapshot, name="renamed")["updateSnapshot"]
    if not payload["errors"]:
        operation: str = payload["operation"]["id"]
        return operation
    assert payload["errors"][0]["code"] == "UNSUPPORTED", payload
    assert "is still running" in payload["errors"][0]["message"], payload
    return None


def _report(title: str, clients: Clients, client: httpx2.Client, phases: Sequence[str]) -> int:
    """Waits for all operations, prints the counts; 1 if anything failed."""
    ends: Counter[str] = Counter()
    for start in range(0, len(clients.operations), 500):
        ends.update(each["state"] for each in clients.await_end(client, clients.operations[start : start + 500]))
    lost = len(clients.operations) - ends["SUCCEEDED"]
    print(f"{title}:")
    for phase in phases:
        print(f"  {phase}")
    print(f"  requests: {dict(clients.counts)}, failed: {len(clients.failures)}")
    print(f"  accepted operations: {len(clients.operations)}, ended: {dict(ends)}, lost: {lost}")
    for failure in clients.failures[:10]:
        print(f"  {failure}")
    return int(bool(clients.failures) or lost != 0)


if __name__ == "__main__":
    sys.exit(main())
