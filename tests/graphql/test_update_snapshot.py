"""`updateSnapshot`: the name and description of a snapshot change at its provider, then in the inventory."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.config import Settings
from gateway.drivers.base import Matrix
from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.models import MachineKind
from gateway.store.database import Transaction
from tests.audit.world import ADMIN, OPERATOR, VIEWER, CallerClient, entries, entries_of_last_request
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.client import (
    CANCEL,
    CREATE,
    DELETE,
    REVERT,
    UPDATE,
    await_final_state,
    await_running,
    dump,
    execute_sql,
    mutate,
    provider_ref,
    set_latency,
    stalled,
    subscribe,
    tree,
)
from tests.graphql.subscription_clients import subscribe_by_sse
from tests.graphql.test_invalid_mutations import NAMES, SNAPSHOT_IDS, refusal
from tests.serving import Served, served, without_refreshes

SUCCEEDED = ("SUCCEEDED", None)
NOTHING = {"operation": None, "snapshot": None}

SHOWN = "name description state memory isCurrent sizeBytes providerRef createdAt createdBy parent { id }"
READ = f"query ($id: ID!) {{ snapshot(id: $id) {{ {SHOWN} }} }}"


def read(gateway: Served, snapshot: str) -> dict[str, Any]:
    found: dict[str, Any] = gateway.ask(READ, id=snapshot)["snapshot"]
    return found


def names(gateway: Served, snapshot: str) -> tuple[str, str | None]:
    """The name and description of a snapshot in the inventory, which must be those at the provider."""
    shown = read(gateway, snapshot)
    sql = f"SELECT name, description FROM simulated_snapshot WHERE ref = '{shown['providerRef']}'"

    async def query(tx: Transaction) -> list[Any]:
        return [tuple(row) for row in await tx.rows(sql)]

    assert gateway.run(gateway.gateway.database.read(query)) == [(shown["name"], shown["description"])]
    return shown["name"], shown["description"]


def update(gateway: Served, snapshot: str, **changes: Any) -> str:
    """Has an update accepted and returns the id of its operation."""
    payload = mutate(gateway, UPDATE, snapshotId=snapshot, **changes)
    assert payload["errors"] == []
    operation: str = payload["operation"]["id"]
    return operation


def updated(gateway: Served, snapshot: str, **changes: Any) -> None:
    """Updates a snapshot, and waits until that has succeeded."""
    assert await_final_state(gateway, update(gateway, snapshot, **changes)) == SUCCEEDED


def inject_fault(gateway: Served, machine: str, kind: str, more: str = "") -> None:
    fault = f'{{"on": "update", "kind": "{kind}"{more}}}'
    sql = f"UPDATE simulated_machine SET fault = '{fault}' WHERE ref = '{provider_ref(gateway, machine)}'"
    execute_sql(gateway, sql)


# ---- what changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": " Vor dem Umbau\t"}, ("Vor dem Umbau", "Before the upgrade to 2.0")),
        ({"description": " kept unchanged "}, ("test-before-upgrade", " kept unchanged ")),
        ({"name": "x" * 255, "description": "y" * 4000}, ("x" * 255, "y" * 4000)),
        ({"description": None}, ("test-before-upgrade", None)),
        ({"description": ""}, ("test-before-upgrade", None)),
        ({"name": "☃", "description": None}, ("☃", None)),
        ({"name": "test-before-upgrade"}, ("test-before-upgrade", "Before the upgrade to 2.0")),
    ],
    ids=["name", "description", "both", "null", "empty", "name and null", "same"],
)
def test_given_fields_change_and_others_do_not(
    busy: Served, changes: dict[str, Any], expected: tuple[str, str]
) -> None:
    before = read(busy, "snapshot-4")
    tree_before = tree(busy, "vm-11")
    updated(busy, "snapshot-4", **changes)
    assert names(busy, "snapshot-4") == expected
    assert read(busy, "snapshot-4") == before | dict(zip(("name", "description"), expected, strict=True))
    updated(busy, "snapshot-4", name=before["name"], description=before["description"])
    assert read(busy, "snapshot-4") == before
    assert tree(busy, "vm-11") == tree_before


def test_snapshot_of_an_instance(busy: Served) -> None:
    updated(busy, "snapshot-8", name="release", description="now")
    assert names(busy, "snapshot-8") == ("release", "now")


def test_names_need_not_be_unique(busy: Served) -> None:
    updated(busy, "snapshot-451", name="weekly-450")
    assert names(busy, "snapshot-451")[0] == names(busy, "snapshot-450")[0] == "weekly-450"


def test_snapshot_changes_when_the_operation_succeeds(busy: Served) -> None:
    """Until then it has its name and its state. Updates are executed in order, and before a delete that follows."""
    with stalled(busy, "vm-12"):
        first = mutate(busy, CREATE, machineId="vm-12", name="first")["operation"]["id"]
        await_running(busy, first)
        payload = mutate(busy, UPDATE, snapshotId="snapshot-303", name="one", description="1")
        one = payload["operation"]["id"]
        assert payload == {
            "operation": {"id": one, "kind": "UPDATE_SNAPSHOT", "state": "QUEUED", "snapshotId": "snapshot-303"},
            "snapshot": {"id": "snapshot-303", "name": "test-restore-303", "state": "READY"},
            "errors": [],
        }
        two = update(busy, "snapshot-303", name="two")
        last = update(busy, "snapshot-304", name="last")
        deleted = mutate(busy, DELETE, ids=["snapshot-304"])["results"][0]["operation"]["id"]
        assert read(busy, "snapshot-303")["name"] == "test-restore-303"
    for operation in (first, one, two, last, deleted):
        assert await_final_state(busy, operation) == SUCCEEDED
    assert names(busy, "snapshot-303") == ("two", "1")
    assert "snapshot-304" not in str(tree(busy, "vm-12"))
    query = "query ($id: ID!) { operation(id: $id) { snapshotName } }"
    worked_on = [busy.ask(query, id=operation)["operation"]["snapshotName"] for operation in (one, two, last)]
    assert worked_on == ["test-restore-303", "test-restore-303", "before-upgrade-304"]


# ---- refusals: nothing changes


@pytest.mark.parametrize(
    ("changes", "message", "path"),
    [
        ({}, "Neither a name nor a description is given, so there is nothing to change.", []),
        ({"name": None}, "The name cannot be null: every snapshot has one.", ["name"]),
        ({"name": None, "description": "x"}, "The name cannot be null: every snapshot has one.", ["name"]),
        *(({"name": name, "description": "x"}, message, ["name"]) for name, message in NAMES),
        (
            {"description": "x" * 4001},
            "The description has 4001 characters; at most 4000 are allowed.",
            ["description"],
        ),
        ({"name": "n", "description": "\0"}, "The description contains a NUL character.", ["description"]),
        (
            {"name": "n", "idempotencyKey": "k" * 256},
            "The idempotency key has 256 characters; it must have 1 to 255.",
            ["idempotencyKey"],
        ),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_invalid_arguments(gateway: Served, changes: dict[str, Any], message: str, path: list[str]) -> None:
    for snapshot in ("snapshot-4", "snapshot-999999"):
        payload = mutate(gateway, UPDATE, snapshotId=snapshot, **changes)
        assert payload == NOTHING | {"errors": [refusal("INVALID", message, *path)]}


@pytest.mark.parametrize(("snapshot", "error"), SNAPSHOT_IDS, ids=[snapshot for snapshot, _ in SNAPSHOT_IDS])
def test_invalid_ids(gateway: Served, snapshot: str, error: dict[str, Any]) -> None:
    assert mutate(gateway, UPDATE, snapshotId=snapshot, name="n") == NOTHING | {"errors": [error]}


@pytest.mark.parametrize(
    ("input_", "message"),
    [
        ({"name": "n"}, "to include required field 'snapshotId'"),
        ({"snapshotId": "snapshot-4", "name": 5}, "String cannot represent a non string value: 5"),
        ({"snapshotId": "snapshot-4", "name": "n", "dryRun": True}, "unknown field 'dryRun'"),
    ],
)
def test_input_of_wrong_type(gateway: Served, input_: dict[str, Any], message: str) -> None:
    (error,) = gateway.post(UPDATE, {"input": input_})["errors"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}
    assert message in error["message"]


def test_snapshot_of_an_unfinished_operation(busy: Served) -> None:
    with stalled(busy, "vm-36"):
        creating = mutate(busy, CREATE, machineId="vm-36", name="new")
        operation = creating["operation"]["id"]
        await_running(busy, operation)
        deleting = mutate(busy, DELETE, ids=["snapshot-420"])["results"][0]["operation"]["id"]
        changing = ("operation", "event")  # heartbeats and progress continue
        before = dump(busy, *changing)
        for snapshot, state, conflict in (
            (creating["snapshot"]["id"], "The snapshot is still being created.", operation),
            ("snapshot-420", "The snapshot is being deleted.", deleting),
        ):
            error = refusal("CONFLICT", f"{state} Wait for {conflict}.", "snapshotId", conflict=conflict)
            assert mutate(busy, UPDATE, snapshotId=snapshot, name="n") == NOTHING | {"errors": [error]}
        assert dump(busy, *changing) == before
    for each in (operation, deleting):
        assert await_final_state(busy, each) == SUCCEEDED
    with stalled(busy, "vm-36"):
        reverting = mutate(busy, REVERT, snapshotId="snapshot-419")["operation"]["id"]
        state = "The machine is being reverted to the snapshot."
        error = refusal("CONFLICT", f"{state} Wait for {reverting}.", "snapshotId", conflict=reverting)
        assert mutate(busy, UPDATE, snapshotId="snapshot-419", name="n")["errors"] == [error]
        other = update(busy, "snapshot-423", name="waits")  # another snapshot of the machine can be updated
    for each in (reverting, other):
        assert await_final_state(busy, each) == SUCCEEDED
    assert names(busy, "snapshot-423")[0] == "waits"


@pytest.mark.parametrize(
    ("snapshot", "sql", "message"),
    [
        (
            "snapshot-438",
            "UPDATE machine SET gone_at = '2099-01-01T00:00:00.000000Z' WHERE id = 39",
            "The machine is gone: its provider no longer reports it.",
        ),
        (
            "snapshot-448",
            "UPDATE machine SET provider = 'old' WHERE id = 40",
            "No driver is configured for provider 'old', so the machine can only be read.",
        ),
        (
            "snapshot-418",
            "UPDATE snapshot SET state = 'ERROR', provider_ref = NULL WHERE id = 418",
            "The snapshot was never created, because its creation failed. It can only be deleted.",
        ),
    ],
    ids=["gone", "imported", "never created"],
)
def test_snapshot_that_cannot_be_updated(busy: Served, snapshot: str, sql: str, message: str) -> None:
    provider = "INSERT INTO provider (name, tenant, driver) VALUES ('old', 'default', 'none')"
    execute_sql(busy, f"{provider} ON CONFLICT DO NOTHING")
    execute_sql(busy, sql)
    before = dump(busy)
    payload = mutate(busy, UPDATE, snapshotId=snapshot, name="n")
    assert payload == NOTHING | {"errors": [refusal("UNSUPPORTED", message, "snapshotId")]}
    assert dump(busy) == before
    query = "query ($id: ID!) { snapshot(id: $id) { capability(action: UPDATE) { supported reason } } }"
    assert busy.ask(query, id=snapshot)["snapshot"]["capability"] == {"supported": False, "reason": message}


def test_right_is_required_and_the_refusal_is_audited(busy: Served) -> None:
    admin, viewer = CallerClient(busy, ADMIN), CallerClient(busy, VIEWER)
    before = dump(busy)
    payload = viewer.mutate(UPDATE, snapshotId="snapshot-3", name="n")
    message = "Updating snapshots of Vms requires the right vm:update."
    assert payload == NOTHING | {"errors": [refusal("FORBIDDEN", message, "snapshotId")]}
    assert dump(busy) == before
    assert entries_of_last_request(admin, viewer) == [
        ("UPDATE_SNAPSHOT", "REFUSED", "FORBIDDEN", "vm-11 web-01", "snapshot-3 test-base", None)
    ]


def test_audit_entries(busy: Served) -> None:
    """They have the name that the snapshot had when the update was accepted."""
    admin, operator = CallerClient(busy, ADMIN), CallerClient(busy, OPERATOR)
    inject_fault(busy, "vm-16", "refuse", ', "message": "locked", "times": 1')
    machine = "vm-16 " + busy.ask('{ vm(id: "vm-16") { name } }')["vm"]["name"]
    for outcome, code in (("FAILED", "PROVIDER_FAILED"), ("SUCCEEDED", None)):
        operation = operator.mutate(UPDATE, snapshotId="snapshot-326", name="audited")["operation"]["id"]
        assert await_final_state(busy, operation) == (outcome, code)
        subject = (machine, "snapshot-326 nightly-326", operation)
        assert entries_of_last_request(admin, operator) == [
            ("UPDATE_SNAPSHOT", "ACCEPTED", None, *subject),
            ("UPDATE_SNAPSHOT", outcome, code, *subject),
        ]
    found = entries(admin, filter={"action": {"eq": "UPDATE_SNAPSHOT"}, "machineId": {"eq": "vm-16"}})
    assert [(node["callerName"], node["outcome"]) for node in found] == [
        ("oskar", outcome) for outcome in ("ACCEPTED", "FAILED", "ACCEPTED", "SUCCEEDED")
    ]


@pytest.fixture(params=SLOW_KINDS)
def fixed_descriptions(
    request: pytest.FixtureRequest, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """A gateway whose providers can rename a snapshot, but not change its description."""
    matrix = SimulatedDriver.matrix

    def fixed(self: SimulatedDriver, kind: MachineKind) -> Matrix:
        return replace(matrix(self, kind), fixed={"description": "This provider cannot change descriptions."})

    monkeypatch.setattr(SimulatedDriver, "matrix", fixed)
    with served(Settings(database_url=databases.new(request.param, demo=True), drain_timeout=0.1)) as gateway:
        set_latency(gateway, 0)
        yield gateway


def test_field_that_the_provider_cannot_change(fixed_descriptions: Served) -> None:
    gateway = fixed_descriptions
    before = dump(gateway)
    error = refusal("UNSUPPORTED", "This provider cannot change descriptions.", "description")
    for changes in ({"description": "x"}, {"description": None}, {"name": "n", "description": "x"}):
        assert mutate(gateway, UPDATE, snapshotId="snapshot-4", **changes) == NOTHING | {"errors": [error]}
    assert dump(gateway) == before
    updated(gateway, "snapshot-4", name="n")
    assert names(gateway, "snapshot-4") == ("n", "Before the upgrade to 2.0")


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_limits_of_the_queues(kind: str, databases: Databases) -> None:
    url = databases.new(kind, demo=True)
    limits = {"operation_queue_per_machine": 2, "operation_queue_total": 3}
    with served(Settings(database_url=url, drain_timeout=0.1, **limits)) as gateway:  # type: ignore[arg-type]
        with stalled(gateway, "vm-11"), stalled(gateway, "vm-12"):
            running = mutate(gateway, CREATE, machineId="vm-11", name="new")["operation"]["id"]
            await_running(gateway, running)
            operations = [running, update(gateway, "snapshot-3", name="queued")]
            full = "Machine 'vm-11' has 2 unfinished operations, which is the limit. Retry later."
            payload = mutate(gateway, UPDATE, snapshotId="snapshot-3", name="n")
            assert payload == NOTHING | {"errors": [refusal("LIMIT_EXCEEDED", full, "snapshotId")]}
            operations.append(mutate(gateway, CREATE, machineId="vm-12", name="new")["operation"]["id"])
            all_full = "The gateway has 3 unfinished operations, which is the limit. Retry later."
            payload = mutate(gateway, UPDATE, snapshotId="snapshot-302", name="n")
            assert payload == NOTHING | {"errors": [refusal("LIMIT_EXCEEDED", all_full, "snapshotId")]}
        for operation in operations:
            assert await_final_state(gateway, operation) == SUCCEEDED
        assert names(gateway, "snapshot-3")[0] == "queued"


# ---- idempotency


def test_replay_returns_the_same_operation(busy: Served) -> None:
    arguments = {"snapshotId": "snapshot-345", "name": "once", "description": None, "idempotencyKey": "replay"}
    first = mutate(busy, UPDATE, **arguments)
    assert await_final_state(busy, first["operation"]["id"]) == SUCCEEDED
    updated(busy, "snapshot-345", name="later")
    before = dump(busy)
    again = mutate(busy, UPDATE, **(arguments | {"name": " once "}))
    assert again["operation"] == first["operation"] | {"state": "SUCCEEDED"}
    assert again["snapshot"]["name"] == "later"  # the present state
    assert dump(busy) == before


# Requests that all differ in their arguments. What is absent must differ from every text and from null.
DIFFERENT: list[dict[str, Any]] = [
    {"name": "n"},
    {"name": "n", "description": None},
    *({"name": "n", "description": text} for text in ("", "0", "UNCHANGED", "Unchanged.UNCHANGED", "null")),
    {"name": "0"},
    {"description": "n"},
    {"description": None},
    {"name": "n", "description": "n"},
]


@pytest.mark.parametrize("first", DIFFERENT, ids=str)
def test_key_with_other_arguments_is_refused(busy: Served, first: dict[str, Any]) -> None:
    key = {"idempotencyKey": f"reuse {first}"}
    updated(busy, "snapshot-346", **first, **key)
    before = dump(busy)
    message = "The idempotency key was used for a request with other arguments. Use a new key."
    error = refusal("IDEMPOTENCY_KEY_REUSED", message, "idempotencyKey")
    for other in DIFFERENT:
        if other != first:
            payload = mutate(busy, UPDATE, snapshotId="snapshot-346", **other, **key)
            assert payload == NOTHING | {"errors": [error]}, other
    assert mutate(busy, UPDATE, snapshotId="snapshot-347", **first, **key)["errors"] == [error]
    assert mutate(busy, UPDATE, snapshotId="snapshot-346", **first, **key)["errors"] == []
    assert dump(busy) == before


def test_refusal_uses_no_key(busy: Served) -> None:
    key = {"idempotencyKey": "refused first"}
    before = dump(busy)
    assert mutate(busy, UPDATE, snapshotId="snapshot-999999", name="n", **key)["errors"][0]["code"] == "NOT_FOUND"
    assert dump(busy) == before
    updated(busy, "snapshot-346", name="accepted", **key)


# ---- cancellation and failures


def test_queued_update_is_canceled(busy: Served) -> None:
    before = names(busy, "snapshot-361")
    with stalled(busy, "vm-26"):
        running = mutate(busy, CREATE, machineId="vm-26", name="new")["operation"]["id"]
        await_running(busy, running)
        queued = update(busy, "snapshot-361", name="never", description="never")
        assert mutate(busy, CANCEL, operationId=queued)["operation"]["state"] == "CANCELED"
        assert mutate(busy, CANCEL, operationId=queued)["errors"][0]["code"] == "CONFLICT"
    assert await_final_state(busy, running) == SUCCEEDED
    assert await_final_state(busy, queued) == ("CANCELED", None)
    assert names(busy, "snapshot-361") == before
    assert read(busy, "snapshot-361")["state"] == "READY"


def test_update_of_another_caller_is_canceled_with_its_right_only(busy: Served) -> None:
    viewer = CallerClient(busy, VIEWER)
    with stalled(busy, "vm-26"):
        running = mutate(busy, CREATE, machineId="vm-26", name="next")["operation"]["id"]
        await_running(busy, running)
        queued = update(busy, "snapshot-362", name="renamed")
        message = f"Canceling {queued} requires the right vm:update."
        assert viewer.mutate(CANCEL, operationId=queued)["errors"] == [refusal("FORBIDDEN", message, "operationId")]
    assert await_final_state(busy, queued) == SUCCEEDED


def test_faults_of_the_provider(busy: Served) -> None:
    """Only a refusal fails the update. A lost response is no failure: the update is repeated."""
    times = ', "times": 1'
    cases = {
        "refuse": ("vm-27", "snapshot-364", ("FAILED", "PROVIDER_FAILED")),
        "unavailable": ("vm-28", "snapshot-372", SUCCEEDED),
        "busy": ("vm-29", "snapshot-377", SUCCEEDED),
        "lost": ("vm-30", "snapshot-387", SUCCEEDED),
    }
    before = {snapshot: names(busy, snapshot) for _, snapshot, _ in cases.values()}
    operations = {}
    for kind, (machine, snapshot, _) in cases.items():
        inject_fault(busy, machine, kind, f', "message": "{kind}!"{times}')
        operations[kind] = update(busy, snapshot, name=kind, description=None)
    for kind, (_, snapshot, end) in cases.items():
        assert await_final_state(busy, operations[kind]) == end
        assert names(busy, snapshot) == (before[snapshot] if end != SUCCEEDED else (kind, None))
        assert read(busy, snapshot)["state"] == "READY"
    error = busy.await_operation(operations["refuse"])["error"]
    assert error == {
        "code": "PROVIDER_FAILED",
        "message": "The provider reported an error.",
        "retryable": False,
        "providerMessage": "refuse!",
    }


CHANGED = "subscription ($id: ID!) { snapshotChanged(machineId: $id) { kind snapshot { id name description } } }"


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_unknown_outcome(kind: str, databases: Databases) -> None:
    """At the deadline. The refresh that follows shows what the provider did, and the next operation is executed."""
    settings = Settings(database_url=databases.new(kind, demo=True), drain_timeout=0.1)
    short = replace(settings, operation_deadline=0.4, operation_lease=1.0)
    changed_snapshots = ["snapshot-4", "snapshot-302", "snapshot-310"]
    with served(short, jobs=without_refreshes) as gateway:
        set_latency(gateway, 0)
        for fault, machine, snapshot, code in zip(
            ("lost", "hang", "unavailable"),
            ("vm-11", "vm-12", "vm-13"),
            changed_snapshots,
            ("OUTCOME_UNKNOWN", "OUTCOME_UNKNOWN", "PROVIDER_UNAVAILABLE"),
            strict=True,
        ):
            inject_fault(gateway, machine, fault)
            with subscribe_by_sse(gateway, CHANGED, id=machine) as events:
                operation = update(gateway, snapshot, name=fault, description="x")
                assert await_final_state(gateway, operation) == ("FAILED", code)
                if code == "OUTCOME_UNKNOWN":
                    changed = next(events)["data"]["snapshotChanged"]
                    assert changed == {
                        "kind": "UPDATED",
                        "snapshot": {"id": snapshot, "name": fault, "description": "x"},
                    }
            execute_sql(gateway, "UPDATE simulated_machine SET fault = NULL")
    with served(settings, jobs=without_refreshes) as gateway:  # with time for a slow machine
        for snapshot in changed_snapshots:
            updated(gateway, snapshot, name="next")
            assert names(gateway, snapshot)[0] == "next"


def test_snapshot_that_was_deleted_at_the_provider(busy: Served) -> None:
    """The update fails, and the refresh that follows removes the snapshot."""
    ref = read(busy, "snapshot-398")["providerRef"]
    with subscribe_by_sse(busy, CHANGED.replace("snapshot {", "snapshotId snapshot {"), id="vm-31") as events:
        with stalled(busy, "vm-31"):
            running = mutate(busy, CREATE, machineId="vm-31", name="new")["operation"]["id"]
            await_running(busy, running)
            queued = update(busy, "snapshot-398", name="too late")
            execute_sql(busy, f"DELETE FROM simulated_snapshot WHERE ref = '{ref}'")
        assert await_final_state(busy, queued) == ("FAILED", "NOT_FOUND")
        changes = iter(lambda: next(events)["data"]["snapshotChanged"], None)
        assert next(change for change in changes if change["snapshotId"] == "snapshot-398") == {
            "kind": "DELETED",
            "snapshotId": "snapshot-398",
            "snapshot": None,
        }
    error = busy.await_operation(queued)["error"]
    assert error["message"] == "The provider has no such snapshot."
    message = "Snapshot 'snapshot-398' was not found."
    assert mutate(busy, UPDATE, snapshotId="snapshot-398", name="n")["errors"] == [
        refusal("NOT_FOUND", message, "snapshotId")
    ]


# ---- where the change is seen


def test_subscriptions(busy: Served) -> None:
    """`snapshotChanged` has one event, with both new values, and `operationUpdated` ends with them."""
    with subscribe_by_sse(busy, CHANGED, id="vm-32") as events:
        operation = update(busy, "snapshot-403", name="seen", description="by all")
        query = "subscription ($id: ID!) { operationUpdated(id: $id) { kind state snapshot { name description } } }"
        *_, last = subscribe(busy, query, id=operation)
        assert last["data"]["operationUpdated"] == {
            "kind": "UPDATE_SNAPSHOT",
            "state": "SUCCEEDED",
            "snapshot": {"name": "seen", "description": "by all"},
        }
        updated(busy, "snapshot-404", name="next")
        assert [next(events)["data"]["snapshotChanged"] for _ in range(2)] == [
            {"kind": "UPDATED", "snapshot": {"id": "snapshot-403", "name": "seen", "description": "by all"}},
            {
                "kind": "UPDATED",
                "snapshot": {"id": "snapshot-404", "name": "next", "description": names(busy, "snapshot-404")[1]},
            },
        ]


def test_filters_and_sort_use_the_new_values(busy: Served) -> None:
    """The case-folded copies change together with the values."""
    updated(busy, "snapshot-411", name="ÄRGER", description="Große STRASSE")
    updated(busy, "snapshot-412", name="äpfel")
    listed = "query ($f: SnapshotFilter, $s: [SnapshotSort!]) { snapshots(filter: $f, sort: $s) { nodes { id } } }"

    def find(condition: dict[str, Any], *sort: dict[str, str]) -> list[str]:
        found = busy.ask(listed, f={"machineId": {"eq": "vm-33"}} | condition, s=[*sort])
        return [node["id"] for node in found["snapshots"]["nodes"]]

    assert find({"name": {"eq": "ärger", "ignoreCase": True}}) == ["snapshot-411"]
    assert find({"name": {"eq": "ÄRGER"}}) == ["snapshot-411"]
    assert find({"description": {"contains": "GROSSE strasse", "ignoreCase": True}}) == ["snapshot-411"]
    by_name = find({}, {"field": "NAME", "ignoreCase": True})  # type: ignore[dict-item]
    assert by_name[-2:] == ["snapshot-412", "snapshot-411"]
    assert find({}, {"field": "NAME"})[-2:] == ["snapshot-411", "snapshot-412"]
    updated(busy, "snapshot-411", description=None)
    assert find({"description": {"isNull": True}, "name": {"eq": "ÄRGER"}}) == ["snapshot-411"]
    assert find({"description": {"contains": "strasse", "ignoreCase": True}}) == []


def test_rest_shows_the_task_and_has_no_such_action(busy: Served) -> None:
    with stalled(busy, "vm-34"):
        running = mutate(busy, CREATE, machineId="vm-34", name="new")["operation"]["id"]
        await_running(busy, running)
        operation = update(busy, "snapshot-415", name="renamed")
        task = f"/api/tasks/{operation.removeprefix('operation-')}"
        queued = busy.http.get(task).json()
        machine = busy.ask('{ vm(id: "vm-34") { name } }')["vm"]["name"]
        before = names(busy, "snapshot-415")[0]
        name = f"Updating snapshot {before} for Virtual Machine id:34 name:'{machine}'"
        assert queued["name"] == name
        assert (queued["state"], queued["status"]) == ("Queued", "Ok")
        assert queued["message"] == f"Queued the action: [{name}] being run for user: [local]"
    assert await_final_state(busy, operation) == SUCCEEDED
    done = busy.http.get(task).json()
    assert (done["name"], done["state"], done["status"], done["message"], done["pct_complete"]) == (
        *(name, "Finished", "Ok", "Task completed successfully", 100),
    )
    snapshot = busy.http.get("/api/vms/34/snapshots/415").json()
    assert snapshot["name"] == "renamed"
    assert {action["name"] for action in snapshot["actions"]} == {"delete", "revert"}
    for action in ("edit", "update", "rename"):
        response = busy.http.post("/api/vms/34/snapshots/415", json={"action": action, "resource": {"name": "n"}})
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith("Unsupported Action")
    assert names(busy, "snapshot-415")[0] == "renamed"
