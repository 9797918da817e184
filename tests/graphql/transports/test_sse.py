"""Server-sent events: graphql-sse's distinct connections mode, as used by graphql-sse, urql and EventSource."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import orjson
import pytest

from tests.serving import http_client

from .serving import Serving, serve

EVENTS = {"accept": "text/event-stream"}
# urql sends this with every request.
URQL = {"accept": "application/graphql-response+json, application/json, text/event-stream, multipart/mixed"}


@contextmanager
def stream(
    client: httpx2.Client, query: str, headers: dict[str, str], variables: dict[str, Any] | None = None
) -> Iterator[httpx2.Response]:
    body = orjson.dumps({"query": query, "variables": variables})
    sent = {"content-type": "application/json", **headers}
    with client.stream("POST", "/graphql", content=body, headers=sent) as response:
        yield response


def events(response: httpx2.Response) -> list[tuple[str, Any]]:
    """All events up to the end of the stream, parsed with LF as the only line end."""
    found = []
    for block in response.read().decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            found.append((fields["event"], orjson.loads(fields["data"]) if fields["data"] else None))
    return found


def expected_events(to: int) -> list[tuple[str, Any]]:
    return [*(("next", {"data": {"count": number}}) for number in range(1, to + 1)), ("complete", None)]


@pytest.mark.parametrize("headers", [EVENTS, URQL], ids=["graphql-sse", "urql"])
def test_a_subscription_streams(client: httpx2.Client, headers: dict[str, str]) -> None:
    with stream(client, "subscription ($to: Int!) { count(to: $to) }", headers, {"to": 3}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        assert events(response) == expected_events(3)


def test_a_subscription_by_get_with_event_source(client: httpx2.Client) -> None:
    response = client.get("/graphql", params={"query": "subscription { count(to: 2) }"}, headers=EVENTS)
    assert events(response) == expected_events(2)


def test_queries_of_clients_that_accept_json_are_not_streamed(client: httpx2.Client) -> None:
    with stream(client, "{ hello }", URQL) as response:
        assert response.headers["content-type"].startswith("application/graphql-response+json")
        assert orjson.loads(response.read()) == {"data": {"hello": "hello world"}}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("{ hello }", {"data": {"hello": "hello world"}}),
        ("mutation { __typename }", {"data": {"__typename": "Mutation"}}),
    ],
)
def test_queries_and_mutations_are_streamed_to_clients_that_accept_only_events(
    client: httpx2.Client, query: str, expected: dict[str, Any]
) -> None:
    with stream(client, query, EVENTS) as response:
        assert events(response) == [("next", expected), ("complete", None)]


def test_a_mutation_by_get_is_rejected(client: httpx2.Client, serving: Serving) -> None:
    before = serving.world.touched
    response = client.get("/graphql", params={"query": "mutation { touch }"}, headers=EVENTS)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert serving.world.touched == before


@pytest.mark.parametrize("query", ["subscription { nope }", "subscription {", "{ nope }"])
def test_a_request_error_has_a_form_that_the_client_accepts(client: httpx2.Client, query: str) -> None:
    with stream(client, query, URQL) as response:
        assert response.status_code == 400
        (error,) = orjson.loads(response.read())["errors"]
    with stream(client, query, EVENTS) as response:
        assert response.status_code == 200
        assert events(response) == [("next", {"errors": [error]}), ("complete", None)]


def test_a_failure_within_a_stream_is_masked_and_ends_it(client: httpx2.Client) -> None:
    with stream(client, "subscription { failing }", {**EVENTS, "x-request-id": "mid-stream"}) as response:
        first, failed, last = events(response)
    assert (first, last) == (("next", {"data": {"failing": 1}}), ("complete", None))
    (error,) = failed[1]["errors"]
    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
    assert "mid-stream" in error["message"]


@pytest.mark.parametrize("headers", [EVENTS, URQL], ids=["graphql-sse", "urql"])
def test_a_disconnect_ends_the_subscription(client: httpx2.Client, serving: Serving, headers: dict[str, str]) -> None:
    with stream(client, "subscription { never }", headers) as response:
        assert response.status_code == 200
    serving.wait_for_closed_subscription()


def test_idle_streams_are_pinged_and_end_when_the_server_stops() -> None:
    with (
        serve(sse_ping=0.01) as serving,
        http_client(serving.origin) as client,
        stream(client, "subscription { never }", EVENTS) as response,
    ):
        chunks = response.iter_bytes()
        seen = b""
        while len(seen) < 9:
            seen += next(chunks)
        serving.server.stop()
        # No `complete`: the client must see that the stream is broken, and reconnect.
        assert (seen + b"".join(chunks)).replace(b":\n\n", b"") == b""


def test_a_client_that_reads_no_data_is_dropped() -> None:
    with (
        serve(send_timeout=0.05) as serving,
        http_client(serving.origin) as client,
        stream(client, "subscription { flood(size: 65536) }", EVENTS) as response,
    ):
        assert response.status_code == 200
        serving.wait_for_closed_subscription()
