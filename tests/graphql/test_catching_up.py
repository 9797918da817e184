"""A subscriber that comes again is told what it missed, or that this is no longer known."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.changes import change_feed as feed_module
from gateway.changes.change_feed import ChangeFeed, Lagged
from gateway.config import Settings
from gateway.operations.housekeeping import sweep
from tests.databases import KINDS, Databases
from tests.graphql.asking import CANCEL, CREATE, DELETE, ended, execute, held, latency, wish
from tests.graphql.following import Bodies, Follow, by_sse, by_websocket
from tests.serving import Served, served

SNAPSHOTS = "subscription ($machineId: ID) { snapshotChanged(machineId: $machineId) { kind snapshotId } }"
OPERATIONS = "subscription ($filter: OperationFilter) { operationChanged(filter: $filter) { id state } }"
EXPIRED = "changes since then are no longer known: read again, then subscribe without an id"


@pytest.fixture(scope="module", params=KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new(request.param), drain_timeout=0.1), demo=True) as gateway:
        latency(gateway, 0)
        yield gateway


def after(event: str | None) -> dict[str, Any]:
    return {"extensions": {"lastEventId": event}}


def until_deleted(bodies: Bodies, snapshot: str) -> list[tuple[str, str, str]]:
    """Id, kind and snapshot of every change, up to the one that tells that the snapshot is gone."""
    found = []
    for body in bodies:
        change = body["data"]["snapshotChanged"]
        found.append((body["extensions"]["eventId"], change["kind"], change["snapshotId"]))
        if found[-1][1:] == ("DELETED", snapshot):
            break
    return found


def lived(gateway: Served, machine: str) -> str:
    """A snapshot that was created and deleted again."""
    payload = wish(gateway, CREATE, machineId=machine, name="short-lived")
    assert ended(gateway, payload["operation"]["id"]) == ("SUCCEEDED", None)
    snapshot: str = payload["snapshot"]["id"]
    (result,) = wish(gateway, DELETE, ids=[snapshot])["results"]
    assert ended(gateway, result["operation"]["id"]) == ("SUCCEEDED", None)
    return snapshot


@pytest.mark.parametrize("again", [by_sse, by_websocket])
@pytest.mark.parametrize("first", [by_sse, by_websocket])
def test_what_happened_in_between_is_told(gateway: Served, first: Follow, again: Follow) -> None:
    """From every event on, all that came after it and nothing else, however the client is connected."""
    with first(gateway, SNAPSHOTS, machineId="vm-11") as bodies:
        whole = until_deleted(bodies, lived(gateway, "vm-11"))
    snapshot = whole[-1][2]
    assert {kind for _, kind, _ in whole} == {"CREATED", "UPDATED", "DELETED"}
    events = [event for event, _, _ in whole]
    assert len(set(events)) == len(events) > 3
    with first(gateway, SNAPSHOTS, machineId="vm-12") as others:
        lived(gateway, "vm-12")
        assert next(others)["data"]["snapshotChanged"]["kind"] == "CREATED"
    for place, event in enumerate(events[:-1]):
        with again(gateway, SNAPSHOTS, members=after(event), machineId="vm-11") as bodies:
            told = until_deleted(bodies, snapshot)
        # What has been deleted since is told by its deletion alone.
        assert told == [one for one in whole[place + 1 :] if one[1] == "DELETED" or one[2] != snapshot]
    with again(gateway, SNAPSHOTS, members=after(events[-1]), machineId="vm-11") as bodies:
        told = until_deleted(bodies, lived(gateway, "vm-11"))
    assert {event for event, _, _ in told}.isdisjoint(events)
    assert snapshot not in {found for _, _, found in told}


def test_event_source_comes_again_by_itself(gateway: Served) -> None:
    """It sends the last id that it was told; the stream begins with one, so that even silence can be resumed."""
    parameters = {"query": SNAPSHOTS, "variables": '{"machineId": "vm-13"}'}
    headers = {"accept": "text/event-stream"}
    with gateway.http.stream("GET", "/graphql", params=parameters, headers=headers) as answer:
        lines = answer.iter_lines()
        assert [next(lines), next(lines)] == [":", ""]
        begun = next(lines).removeprefix("id: ")
    snapshot = lived(gateway, "vm-13")
    headers |= {"last-event-id": begun}
    with gateway.http.stream("GET", "/graphql", params=parameters, headers=headers) as answer:
        lines = answer.iter_lines()
        assert [next(lines), next(lines)] == [":", ""]
        while True:
            event, id_, data, end = next(lines), next(lines), next(lines), next(lines)
            body = json.loads(data.removeprefix("data: "))
            assert (event, id_, end) == ("event: next", f"id: {body['extensions']['eventId']}", "")
            if body["data"]["snapshotChanged"] == {"kind": "DELETED", "snapshotId": snapshot}:
                break


@pytest.mark.parametrize("again", [by_sse, by_websocket])
def test_operations(gateway: Served, again: Follow) -> None:
    """Each with its present state, once."""
    filter = {"machineId": {"eq": "vm-14"}}
    with by_sse(gateway, OPERATIONS, filter=filter) as bodies, held(gateway, "vm-14"):
        one = wish(gateway, CREATE, machineId="vm-14", name="one")["operation"]["id"]
        begun = next(bodies)["extensions"]["eventId"]
        other = wish(gateway, CREATE, machineId="vm-14", name="other")["operation"]["id"]
        assert wish(gateway, CANCEL, operationId=other)["errors"] == []
    assert ended(gateway, one) == ("SUCCEEDED", None)
    with again(gateway, OPERATIONS, members=after(begun), filter=filter) as bodies:
        told = [next(bodies)["data"]["operationChanged"] for _ in range(2)]
    assert told == [{"id": other, "state": "CANCELED"}, {"id": one, "state": "SUCCEEDED"}]


@pytest.mark.parametrize("again", [by_sse, by_websocket])
def test_an_operation_needs_no_id(gateway: Served, again: Follow) -> None:
    """Its present state comes first, so an id of anything is not looked at."""
    query = "subscription ($id: ID!) { operationUpdated(id: $id) { isDone } }"
    with again(gateway, query, members=after("nonsense"), id="operation-1") as bodies:
        assert list(bodies) == [{"data": {"operationUpdated": {"isDone": True}}}]


@pytest.mark.parametrize("again", [by_sse, by_websocket])
@pytest.mark.parametrize(
    ("event", "code", "message"),
    [
        ("999999999-999999999", "LIMIT_EXCEEDED", EXPIRED),
        ("0-0", "LIMIT_EXCEEDED", EXPIRED),
        ("x", "BAD_USER_INPUT", "`lastEventId` is not the id of an event"),
        ("", "BAD_USER_INPUT", "`lastEventId` is not the id of an event"),
        ("1-1' OR 1=1", "BAD_USER_INPUT", "`lastEventId` is not the id of an event"),
        ("9" * 30 + "-1", "BAD_USER_INPUT", "`lastEventId` is not the id of an event"),
        ("٣-٣", "BAD_USER_INPUT", "`lastEventId` is not the id of an event"),
        (5, "BAD_USER_INPUT", "`lastEventId` is not the id of an event"),
    ],
)
def test_ids_of_no_event(gateway: Served, again: Follow, event: Any, code: str, message: str) -> None:
    with again(gateway, SNAPSHOTS, members=after(event)) as bodies:
        (body,) = bodies
    ((found),) = body["errors"]
    assert (found["extensions"]["code"], found["message"]) == (code, message)


def test_event_source_forgets_an_id_that_is_too_old(gateway: Served) -> None:
    """It would send the same id for ever."""
    headers = {"accept": "text/event-stream", "last-event-id": "1-999999999"}
    answer = gateway.http.get("/graphql", params={"query": SNAPSHOTS}, headers=headers)
    lines = answer.text.splitlines()
    assert lines[:4] == [":", "", "event: next", "id: "]
    assert json.loads(lines[4].removeprefix("data: "))["errors"][0]["message"] == EXPIRED
    assert lines[-3:] == ["event: complete", "data: ", ""]


def test_what_was_cleared_away_is_not_left_out_in_silence(gateway: Served) -> None:
    with by_sse(gateway, SNAPSHOTS, machineId="vm-15") as bodies:
        whole = until_deleted(bodies, lived(gateway, "vm-15"))
    execute(gateway, "UPDATE event SET at = '2020-01-01T00:00:00.000000Z'")
    gateway.run(sweep(gateway.gateway.database, Settings()))
    with by_sse(gateway, SNAPSHOTS, members=after(whole[0][0])) as bodies:
        assert [error["message"] for body in bodies for error in body["errors"]] == [EXPIRED]
    # The last event stays, and whoever knows it has missed nothing.
    rows = gateway.run(gateway.gateway.database.read(lambda tx: tx.rows("SELECT xid, id FROM event")))
    ((xid, number),) = rows
    with by_sse(gateway, SNAPSHOTS, members=after(f"{xid}-{number}"), machineId="vm-15") as bodies:
        told = until_deleted(bodies, lived(gateway, "vm-15"))
    assert whole[-1] not in told


def test_a_subscriber_that_lags_is_told(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is connected, or comes again: what is kept for it is bounded."""
    monkeypatch.setattr(feed_module, "_BUFFER", 3)
    database = gateway.gateway.database
    changes = "UPDATE snapshot SET description = 'changed' WHERE id <= 30"

    async def lag() -> None:
        feed = ChangeFeed(database)
        await feed.start()
        try:
            async with feed.listen(lambda _event: True) as slow, feed.listen(lambda _event: True) as last:
                start = slow.start
                assert start is not None
                await database.write(lambda tx: tx.rows(changes))
                with pytest.raises(Lagged):
                    await last.batch()
                with pytest.raises(Lagged):
                    await slow.batch()
            with pytest.raises(Lagged):
                await feed.listen(lambda _event: True, start).__aenter__()
        finally:
            await feed.stop()

    gateway.run(asyncio.wait_for(lag(), 20))
