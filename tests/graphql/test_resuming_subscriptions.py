"""A subscriber that reconnects receives the changes it missed, or an error if they are no longer stored."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.changes.change_feed import ChangeFeed
from gateway.changes.outbox import ChangeEvent, Lagged
from gateway.config import Settings
from gateway.http.request_id import REQUEST_ID
from gateway.operations.housekeeping import sweep
from gateway.store.database import Transaction
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.client import CANCEL, CREATE, DELETE, await_final_state, execute_sql, mutate, set_latency, stalled
from tests.graphql.subscription_clients import Bodies, Subscribe, subscribe_by_sse, subscribe_by_websocket
from tests.serving import Served, served
from tests.waiting import at_most, until_async, within

SNAPSHOTS = "subscription ($machineId: ID) { snapshotChanged(machineId: $machineId) { kind snapshotId } }"
OPERATIONS = "subscription ($filter: OperationFilter) { operationChanged(filter: $filter) { id state } }"
MAX_PENDING = 10_000  # changes that a subscriber may be behind
EXPIRED = "Changes after the event `lastEventId` are no longer stored. Reload the data and subscribe without it."
NO_EVENT_ID = "The extension `lastEventId` must be an event id that the gateway has sent."


@pytest.fixture(scope="module", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new(request.param, demo=True), drain_timeout=0.1)) as gateway:
        set_latency(gateway, 0)
        yield gateway


def after(event: str | None) -> dict[str, Any]:
    return {"extensions": {"lastEventId": event}}


def until_deleted(bodies: Bodies, snapshot: str) -> list[tuple[str, str, str]]:
    """Event id, kind and snapshot id of every change, up to the deletion of the snapshot."""
    found = []
    for body in bodies:
        change = body["data"]["snapshotChanged"]
        found.append((body["extensions"]["eventId"], change["kind"], change["snapshotId"]))
        if found[-1][1:] == ("DELETED", snapshot):
            break
    return found


def create_and_delete(gateway: Served, machine: str) -> str:
    """Creates a snapshot, deletes it, and returns its id."""
    payload = mutate(gateway, CREATE, machineId=machine, name="short-lived")
    assert await_final_state(gateway, payload["operation"]["id"]) == ("SUCCEEDED", None)
    snapshot: str = payload["snapshot"]["id"]
    (result,) = mutate(gateway, DELETE, ids=[snapshot])["results"]
    assert await_final_state(gateway, result["operation"]["id"]) == ("SUCCEEDED", None)
    return snapshot


@pytest.mark.parametrize("resume", [subscribe_by_sse, subscribe_by_websocket])
@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
def test_missed_changes_are_sent(gateway: Served, subscribe: Subscribe, resume: Subscribe) -> None:
    """Resuming after any event returns exactly the later events, over either transport."""
    with subscribe(gateway, SNAPSHOTS, machineId="vm-11") as bodies:
        whole = until_deleted(bodies, create_and_delete(gateway, "vm-11"))
    snapshot = whole[-1][2]
    assert {kind for _, kind, _ in whole} == {"CREATED", "UPDATED", "DELETED"}
    events = [event for event, _, _ in whole]
    assert len(set(events)) == len(events) > 3
    with subscribe(gateway, SNAPSHOTS, machineId="vm-12") as others:
        create_and_delete(gateway, "vm-12")
        assert next(others)["data"]["snapshotChanged"]["kind"] == "CREATED"
    for place, event in enumerate(events[:-1]):
        with resume(gateway, SNAPSHOTS, members=after(event), machineId="vm-11") as bodies:
            received = until_deleted(bodies, snapshot)
        # Of a snapshot that has since been deleted, only the deletion is sent.
        assert received == [one for one in whole[place + 1 :] if one[1] == "DELETED" or one[2] != snapshot]
    with resume(gateway, SNAPSHOTS, members=after(events[-1]), machineId="vm-11") as bodies:
        received = until_deleted(bodies, create_and_delete(gateway, "vm-11"))
    assert {event for event, _, _ in received}.isdisjoint(events)
    assert snapshot not in {found for _, _, found in received}


def test_event_source_resumes_with_last_event_id_header(gateway: Served) -> None:
    """EventSource sends the last event id on reconnect. The stream starts with an id, also before the first change."""
    parameters = {"query": SNAPSHOTS, "variables": '{"machineId": "vm-13"}'}
    headers = {"accept": "text/event-stream"}
    with gateway.http.stream("GET", "/graphql", params=parameters, headers=headers) as answer:
        lines = within(answer.iter_lines())
        assert [next(lines), next(lines)] == [":", ""]
        start_id = next(lines).removeprefix("id: ")
    snapshot = create_and_delete(gateway, "vm-13")
    headers |= {"last-event-id": start_id}
    with gateway.http.stream("GET", "/graphql", params=parameters, headers=headers) as answer:
        lines = within(answer.iter_lines())
        assert [next(lines), next(lines)] == [":", ""]
        for _ in at_most(100):
            event, id_, data, end = next(lines), next(lines), next(lines), next(lines)
            body = json.loads(data.removeprefix("data: "))
            assert (event, id_, end) == ("event: next", f"id: {body['extensions']['eventId']}", "")
            if body["data"]["snapshotChanged"] == {"kind": "DELETED", "snapshotId": snapshot}:
                break


@pytest.mark.parametrize("resume", [subscribe_by_sse, subscribe_by_websocket])
def test_missed_operation_changes_are_sent(gateway: Served, resume: Subscribe) -> None:
    """Each changed operation is sent once, in its current state."""
    filter = {"machineId": {"eq": "vm-14"}}
    with subscribe_by_sse(gateway, OPERATIONS, filter=filter) as bodies, stalled(gateway, "vm-14"):
        one = mutate(gateway, CREATE, machineId="vm-14", name="one")["operation"]["id"]
        start_id = next(bodies)["extensions"]["eventId"]
        other = mutate(gateway, CREATE, machineId="vm-14", name="other")["operation"]["id"]
        assert mutate(gateway, CANCEL, operationId=other)["errors"] == []
    assert await_final_state(gateway, one) == ("SUCCEEDED", None)
    with resume(gateway, OPERATIONS, members=after(start_id), filter=filter) as bodies:
        received = [next(bodies)["data"]["operationChanged"] for _ in range(2)]
    assert received == [{"id": other, "state": "CANCELED"}, {"id": one, "state": "SUCCEEDED"}]


@pytest.mark.parametrize("resume", [subscribe_by_sse, subscribe_by_websocket])
def test_operation_updated_ignores_the_event_id(gateway: Served, resume: Subscribe) -> None:
    """The subscription starts with the current state, so that no event id is needed."""
    query = "subscription ($id: ID!) { operationUpdated(id: $id) { isDone } }"
    with resume(gateway, query, members=after("nonsense"), id="operation-1") as bodies:
        assert list(bodies) == [{"data": {"operationUpdated": {"isDone": True}}}]


@pytest.mark.parametrize("resume", [subscribe_by_sse, subscribe_by_websocket])
@pytest.mark.parametrize(
    ("event", "code", "message"),
    [
        ("999999999-999999999", "LIMIT_EXCEEDED", EXPIRED),
        ("0-0", "LIMIT_EXCEEDED", EXPIRED),
        ("x", "BAD_USER_INPUT", NO_EVENT_ID),
        ("", "BAD_USER_INPUT", NO_EVENT_ID),
        ("1-1' OR 1=1", "BAD_USER_INPUT", NO_EVENT_ID),
        ("9" * 30 + "-1", "BAD_USER_INPUT", NO_EVENT_ID),
        ("٣-٣", "BAD_USER_INPUT", NO_EVENT_ID),
        (5, "BAD_USER_INPUT", NO_EVENT_ID),
    ],
)
def test_invalid_event_ids(gateway: Served, resume: Subscribe, event: Any, code: str, message: str) -> None:
    with resume(gateway, SNAPSHOTS, members=after(event)) as bodies:
        (body,) = bodies
    ((found),) = body["errors"]
    assert (found["extensions"]["code"], found["message"]) == (code, message)


def test_expired_event_id_is_reset_for_event_source(gateway: Served) -> None:
    """Otherwise EventSource would resend the same id with every reconnect."""
    headers = {"accept": "text/event-stream", "last-event-id": "1-999999999"}
    answer = gateway.http.get("/graphql", params={"query": SNAPSHOTS}, headers=headers)
    lines = answer.text.splitlines()
    assert lines[:4] == [":", "", "event: next", "id: "]
    assert json.loads(lines[4].removeprefix("data: "))["errors"][0]["message"] == EXPIRED
    assert lines[-3:] == ["event: complete", "data: ", ""]


def test_deleted_events_cause_an_error(gateway: Served) -> None:
    with subscribe_by_sse(gateway, SNAPSHOTS, machineId="vm-15") as bodies:
        whole = until_deleted(bodies, create_and_delete(gateway, "vm-15"))
    execute_sql(gateway, "UPDATE event SET at = '2020-01-01T00:00:00.000000Z'")
    gateway.run(sweep(gateway.gateway.database, Settings()))
    with subscribe_by_sse(gateway, SNAPSHOTS, members=after(whole[0][0])) as bodies:
        assert [error["message"] for body in bodies for error in body["errors"]] == [EXPIRED]
    # The last event is kept; a client that has its id has missed nothing.
    rows = gateway.run(gateway.gateway.database.read(lambda tx: tx.rows("SELECT xid, id FROM event")))
    ((xid, number),) = rows
    with subscribe_by_sse(gateway, SNAPSHOTS, members=after(f"{xid}-{number}"), machineId="vm-15") as bodies:
        received = until_deleted(bodies, create_and_delete(gateway, "vm-15"))
    assert whole[-1] not in received


def test_the_messages_of_a_step_are_limited_by_their_cost(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many missed changes are not loaded all at once."""
    newest = "SELECT xid, id FROM event ORDER BY xid DESC, id DESC LIMIT 1"
    execute_sql(gateway, "UPDATE snapshot SET description = 'start' WHERE id = (SELECT min(id) FROM snapshot)")
    ((xid, number),) = gateway.run(gateway.gateway.database.read(lambda tx: tx.rows(newest)))
    for change in range(40):
        execute_sql(
            gateway, f"UPDATE snapshot SET description = 'change {change}' WHERE id = (SELECT min(id) FROM snapshot)"
        )
    database, reads = gateway.gateway.database, Counter[str]()
    read = database.read

    async def counting_read(work: Any, *, single: bool = False) -> Any:
        reads[REQUEST_ID.get()] += 1
        return await read(work, single=single)

    monkeypatch.setattr(database, "read", counting_read)

    def resumed(selection: str) -> tuple[list[str], int]:
        query = f"subscription {{ snapshotChanged {{ {selection} }} }}"
        headers = {"x-request-id": selection[:4]}
        with subscribe_by_sse(gateway, query, headers=headers, members=after(f"{xid}-{number}")) as bodies:
            return [next(bodies)["extensions"]["eventId"] for _ in range(40)], reads[selection[:4]]

    resumed("kind")  # from now on, the credentials are known
    reads.clear()
    events, cheap = resumed("kind")
    costly_events, costly = resumed("machine { snapshots(first: 1000) { nodes { id } } }")
    assert costly_events == events
    assert costly - cheap == 2  # steps of 19 changes, at a cost of 1,003 each


def test_slow_subscriber_receives_an_error(gateway: Served) -> None:
    """The buffer of a connected subscriber, and the history for one that resumes, are bounded."""
    database, nouns = gateway.gateway.database, ["snapshot"]
    delivered = 0

    def count_event(_event: ChangeEvent) -> bool:
        nonlocal delivered
        delivered += 1
        return True

    async def change_often(tx: Transaction) -> None:
        changed = 0
        for number in at_most(MAX_PENDING):
            changed += len(await tx.rows(f"UPDATE snapshot SET description = 'change {number}' RETURNING id"))
            if changed > MAX_PENDING:
                break

    async def lag() -> None:
        feed = ChangeFeed(database)
        await feed.start()
        try:
            async with feed.listen(nouns, lambda _event: True) as slow, feed.listen(nouns, count_event) as last:
                start = slow.start
                assert start is not None
                await database.write(change_often)
                await until_async(lambda: delivered > MAX_PENDING)
                with pytest.raises(Lagged):
                    await last.batch()
                with pytest.raises(Lagged):
                    await slow.batch()
            with pytest.raises(Lagged):
                await feed.listen(nouns, lambda _event: True, start).__aenter__()
        finally:
            await feed.stop()

    gateway.run(lag())
