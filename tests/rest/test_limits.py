"""Limits on what one request of the REST API may cost. They apply to all parts of the request together."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from gateway.rest.parameters import MAX_PARAMETERS
from gateway.rest.regexes import MAX_PATTERNS, MAX_SEARCHES
from tests.databases import SLOW_KINDS, Databases
from tests.rest.world import Rest, rest_served

ADVICE = "Request smaller pages with `limit`, fewer `attributes`, or less with `expand`."
MAX_COST = 200


@pytest.fixture(scope="module", params=SLOW_KINDS)
def cheap(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Rest]:
    """The demo world with a low limit of the cost."""
    with rest_served(Settings(database_url=databases.new(request.param, demo=True), max_cost=MAX_COST)) as rest:
        yield rest


def test_the_cost_of_a_list_is_limited(cheap: Rest) -> None:
    """1 for the list, and 1 for each row of a full page."""
    assert cheap.get("/vms", expand="resources", attributes="name", limit=MAX_COST - 1)["resources"]
    message = cheap.refusal("/vms", expand="resources", attributes="name", limit=MAX_COST)
    assert message == f"The request costs {MAX_COST + 1} or more, and the limit is {MAX_COST}. {ADVICE}"
    assert cheap.get("/vms", limit=0)["count"] == cheap.get("/vms", hide="resources")["count"]


def test_the_embedded_rows_of_a_request_are_limited_together(cheap: Rest) -> None:
    """The rows that are there count, not full pages: most machines have few snapshots."""
    counts = [
        int(row["v_total_snapshots"])
        for row in cheap.get("/vms", expand="resources", attributes="v_total_snapshots", sort_by="id", limit=100)[
            "resources"
        ]
    ]
    total, allowed = 0, 0
    for count in counts:  # the list, and for each machine 1, its list and its snapshots
        if 1 + 2 * (allowed + 1) + total + count > MAX_COST:
            break
        total, allowed = total + count, allowed + 1
    assert 0 < allowed < len(counts)
    found = cheap.get("/vms", expand="resources,snapshots", attributes="id", sort_by="id", limit=allowed)["resources"]
    assert [len(row["snapshots"]) for row in found] == counts[:allowed]
    cost = 1 + 2 * (allowed + 1) + total + counts[allowed]
    message = cheap.refusal("/vms", expand="resources,snapshots", attributes="id", sort_by="id", limit=allowed + 1)
    assert message == f"The request costs {cost} or more, and the limit is {MAX_COST}. {ADVICE}"


def test_one_machine_with_its_snapshots_is_within_the_limit(cheap: Rest) -> None:
    machine = cheap.get("/vms/11", expand="snapshots")
    assert len(machine["snapshots"]) == cheap.get("/vms/11/snapshots", limit=0)["count"]


def test_the_number_of_regular_expressions_is_limited(shared: Rest) -> None:
    filters = [f"name=~/{number}/" for number in range(MAX_PATTERNS)]
    assert shared.get("/vms/11/snapshots", filter=filters)["subcount"] == 0
    message = shared.refusal("/vms/11/snapshots", filter=[*filters, "or name!~/x/"])
    assert message == f"A request may have at most {MAX_PATTERNS} regular expressions."


def test_the_number_of_parameters_is_limited(shared: Rest) -> None:
    """The links of a list repeat them all."""
    parameters = "&".join(["limit=1", *["filter[]="] * (MAX_PARAMETERS - 1)])
    links = shared.get(f"{shared.root}/vms?{parameters}")["links"]
    assert links["next"].count("&") == MAX_PARAMETERS
    assert shared.refusal(f"{shared.root}/vms?{parameters}&one=more") == (
        f"The URL has more than {MAX_PARAMETERS} parameters."
    )


@pytest.mark.parametrize("path", ["/vms", "/vms/11", "/vms/11/snapshots"])
@pytest.mark.parametrize("action", ["[" * 1_000 + "]" * 1_000, "{}"])
def test_an_action_that_is_no_text_is_refused(shared: Rest, path: str, action: str) -> None:
    answer = shared.http.post(shared.root + path, content=f'{{"action": {action}}}')
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The action must be text.")


@pytest.mark.parametrize(("id", "shown"), [("[" * 1_000 + "]" * 1_000, "[…]"), ('{"a": 1}', "{…}"), ("null", "nil")])
def test_an_id_that_is_no_text_is_refused(shared: Rest, id: str, shown: str) -> None:
    body = f'{{"action": "delete", "resources": [{{"id": {id}}}]}}'
    answer = shared.http.post(f"{shared.root}/vms/11/snapshots", content=body)
    message = f"Invalid Snapshot id {shown} specified"
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_the_rows_that_all_regular_expressions_search_are_limited(databases: Databases, kind: str) -> None:
    """5,001 snapshots: 9 expressions search them, 10 do not. The budget is that of one request."""
    rows = MAX_SEARCHES // 10 + 1
    with rest_served(Settings(database_url=databases.new(kind, demo=True))) as rest:
        rest.sql("DELETE FROM snapshot WHERE machine_id = 12")
        for start in range(0, rows, 1_000):
            values = ", ".join(
                f"('default', 12, 'row{number}', 'row{number}', 'READY', FALSE, FALSE, '2026-01-01T00:00:00.000000Z')"
                for number in range(start, min(start + 1_000, rows))
            )
            rest.sql(
                "INSERT INTO snapshot (tenant, machine_id, name, name_folded, state, memory, is_current, created_at)"
                f" VALUES {values}"
            )
        for _ in range(2):
            found = rest.get("/vms/12/snapshots", filter=["name=~/row/"] * 9, limit=1)
            assert found["subquery_count"] == rows
            message = rest.refusal("/vms/12/snapshots", filter=["name=~/row/"] * 10, limit=1)
            assert message.startswith(f"The regular expressions would have to search more than {MAX_SEARCHES} rows")


def test_messages_that_repeat_the_input_are_shortened(shared: Rest) -> None:
    for path, parameters in (
        ("/vms", {"filter": "x" * 60_000}),
        ("/vms", {"filter": f"{'x' * 60_000}=1"}),
        ("/vms", {"attributes": "x" * 60_000}),
        ("/vms", {"sort_by": "x" * 60_000}),
        ("/vms", {"filter": f"id={'x' * 60_000}"}),
        ("/vms/" + "x" * 60_000, {}),
        ("/" + "x" * 60_000, {}),
    ):
        message = shared.refusal(path, **parameters)
        assert len(message) == 1_000, path[:20]
        assert message.endswith("x…")
