"""GraphQL over HTTP: methods, content negotiation, and the response to each kind of invalid request."""

from typing import Any

import httpx2
import orjson
import pytest

from .serving import MAX_BODY, Serving, serve

GRAPHQL = "application/graphql-response+json"
JSON = {"content-type": "application/json"}


def post(client: httpx2.Client, body: Any, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    sent = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return client.post("/graphql", content=content, headers=sent)


def code(response: httpx2.Response) -> str:
    """The code of the only error of a response that has the shape of a GraphQL request error."""
    assert response.headers["content-type"] in {"application/json; charset=utf-8", f"{GRAPHQL}; charset=utf-8"}
    (error,) = response.json()["errors"]
    assert list(response.json()) == ["errors"]
    assert error["message"]
    return str(error["extensions"]["code"])


BAD_BODIES = [
    b"",
    b"{",
    b'"abc"',
    b"5",
    b"null",
    b"true",
    b"\xff\xfe",
    b'{"query":"{ hello }\xff"}',
    b'{"query":"{ hello(name: \\"\\ud800\\") }"}',
    b'{"query":"query($n:String){hello(name:$n)}","variables":{"n":"\\udc00"}}',
    b'\xef\xbb\xbf{"query":"{ hello }"}',
    b'{"query":"{ hello }","variables":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b"[]",
    b'[{"query":"{ hello }"}]',
    b"{}",
    b'{"qeury":"{ hello }"}',
    b'{"query":null}',
    b'{"query":5}',
    b'{"query":["{ hello }"]}',
    b'{"query":"{ hello }","operationName":1}',
    b'{"query":"{ hello }","variables":[1]}',
    b'{"query":"{ hello }","variables":"{}"}',
    b'{"query":"{ hello }","extensions":false}',
]


@pytest.mark.parametrize("accept", ["application/json", GRAPHQL])
@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: repr(body[:40]))
def test_malformed_bodies_are_400_with_either_media_type(client: httpx2.Client, body: bytes, accept: str) -> None:
    response = post(client, body, accept=accept)
    assert (response.status_code, code(response)) == (400, "BAD_USER_INPUT")
    assert response.headers["content-type"] == f"{accept}; charset=utf-8"


def test_batches_are_rejected(client: httpx2.Client) -> None:
    response = post(client, [{"query": "mutation { touch }"}])
    assert "Batching is not supported" in response.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ('application/json;charset="utf-8"', 200),
        ("application/json; profile=x", 200),
        ("application/json; charset=latin-1", 415),
        ("application/jsonp", 415),
        ("application/graphql", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/plain, application/json", 415),
        ("", 415),
    ],
)
def test_only_json_in_utf8_is_accepted(client: httpx2.Client, content_type: str, status: int) -> None:
    response = post(client, {"query": "{ hello }"}, content_type=content_type)
    assert response.status_code == status
    if status == 415:
        assert code(response) == "BAD_USER_INPUT"


def test_a_missing_content_type_and_a_compressed_body_are_rejected(client: httpx2.Client) -> None:
    assert client.post("/graphql", content=b'{"query":"{ hello }"}').status_code == 415
    assert post(client, {"query": "{ hello }"}, content_encoding="gzip").status_code == 415


@pytest.mark.parametrize(
    ("accept", "status", "served"),
    [
        (None, 200, "application/json"),
        ("", 200, "application/json"),
        ("*/*", 200, "application/json"),
        ("application/*", 200, "application/json"),
        ("application/json", 200, "application/json"),
        ("APPLICATION/JSON ; charset=utf-8", 200, "application/json"),
        (GRAPHQL, 200, GRAPHQL),
        (f"{GRAPHQL}; charset=utf-8, application/json; q=0.9", 200, GRAPHQL),
        (f"application/json, {GRAPHQL}", 200, GRAPHQL),
        (f"application/json, {GRAPHQL};q=0.5", 200, "application/json"),
        (f"{GRAPHQL};q=0.5, */*", 200, "application/json"),
        ("application/json;q=0, */*", 200, GRAPHQL),
        (f"{GRAPHQL}, application/json, text/event-stream, multipart/mixed", 200, GRAPHQL),
        ("text/html, */*;q=0.1", 200, "application/json"),
        ("application/json;q=nonsense, */*", 200, "application/json"),
        ("text/html", 406, "application/json"),
        ("application/xml, application/jsonp", 406, "application/json"),
        (f"{GRAPHQL};q=0", 406, "application/json"),
        ("*/*;q=0", 406, "application/json"),
        ("a," * 2_000 + GRAPHQL, 200, GRAPHQL),
        ("a," * 2_034 + GRAPHQL, 406, "application/json"),  # only the first 4,096 bytes count
    ],
)
def test_the_media_type_of_the_response_follows_accept(
    client: httpx2.Client, accept: str | None, status: int, served: str
) -> None:
    request = client.build_request("POST", "/graphql", content=b'{"query":"{ hello }"}', headers=JSON)
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept
    response = client.send(request)
    assert (response.status_code, response.headers["content-type"]) == (status, f"{served}; charset=utf-8")
    assert response.headers["vary"] == "Accept, Origin"


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ nope }", "GRAPHQL_VALIDATION_FAILED"),
        ("query A { hello } query B { hello }", "BAD_USER_INPUT"),
        ("query ($n: Int!, $s: String) { hello(name: $s) }", "GRAPHQL_VALIDATION_FAILED"),
        ("query ($n: String!) { hello(name: $n) }", "BAD_USER_INPUT"),
    ],
)
def test_a_request_error_is_400_with_the_graphql_media_type_and_200_with_json(
    client: httpx2.Client, query: str, wrong: str
) -> None:
    strict = post(client, {"query": query}, accept=GRAPHQL)
    assert (strict.status_code, code(strict)) == (400, wrong)
    legacy = post(client, {"query": query}, accept="application/json")
    assert (legacy.status_code, code(legacy)) == (200, wrong)


def test_all_parameters_by_post(client: httpx2.Client) -> None:
    response = post(
        client,
        {
            "query": "query A($n: String) { hello(name: $n) } query B { __typename }",
            "operationName": "A",
            "variables": {"n": "Zoë 🏃"},
            "extensions": None,
            "more": "ignored",
        },
    )
    assert (response.status_code, response.json()) == (200, {"data": {"hello": "hello Zoë 🏃"}})
    assert response.headers["cache-control"] == "no-store"


def test_all_parameters_by_get(client: httpx2.Client) -> None:
    parameters = {
        "query": "query A($n: String) { hello(name: $n) } query B { __typename }",
        "operationName": "A",
        "variables": '{"n": "Zoë 🏃"}',
        "extensions": "",
        "nocache": "1",
    }
    response = client.get("/graphql", params=parameters)
    assert (response.status_code, response.json()) == (200, {"data": {"hello": "hello Zoë 🏃"}})
    head = client.head("/graphql", params=parameters)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "query_string",
    [
        "",
        "query=",
        "query=%7B+hello+%7D&variables=[1]",
        "query=%7B+hello+%7D&variables=%7B",
        "query=%7B+hello+%7D&extensions=1",
        "query=%7B+hello+%7D&query=%7B+hello+%7D",
        "query=%7B+hello+%FF%7D",
        'query=%7B+hello+%7D&variables={"n":"\\ud800"}',
    ],
)
def test_malformed_requests_by_get(client: httpx2.Client, query_string: str) -> None:
    response = client.get(f"/graphql?{query_string}", headers={"accept": GRAPHQL})
    assert response.status_code == 400
    assert code(response) in {"BAD_USER_INPUT", "GRAPHQL_PARSE_FAILED"}


def test_a_long_url_is_rejected(serving: Serving) -> None:
    target = b"/graphql?query=" + b"x" * 33_000
    response = serving.raw(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 414 ")


@pytest.mark.parametrize("query", ["mutation { touch }", "subscription { never }"])
@pytest.mark.parametrize("accept", ["application/json", GRAPHQL])
def test_mutations_and_subscriptions_by_get_are_rejected(
    client: httpx2.Client, serving: Serving, query: str, accept: str
) -> None:
    before = serving.world.touched
    response = client.get("/graphql", params={"query": query}, headers={"accept": accept})
    assert code(response) == "BAD_USER_INPUT"
    expected = (405, "POST") if query.startswith("mutation") else (406, None)
    assert (response.status_code, response.headers.get("allow")) == expected
    assert serving.world.touched == before


def test_a_mutation_by_post_runs(client: httpx2.Client, serving: Serving) -> None:
    before = serving.world.touched
    assert post(client, {"query": "mutation { touch }"}).json() == {"data": {"touch": before + 1}}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_other_methods_are_rejected(client: httpx2.Client, method: str) -> None:
    response = client.request(method, "/graphql")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, POST, OPTIONS")
    assert code(response) == "BAD_USER_INPUT"


def test_options_returns_the_supported_methods(client: httpx2.Client) -> None:
    response = client.options("/graphql")
    assert (response.status_code, response.headers["allow"]) == (204, "GET, HEAD, POST, OPTIONS")
    assert response.headers["accept-post"] == "application/json"


def test_a_browser_is_redirected_to_graphiql(client: httpx2.Client) -> None:
    browser = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}
    response = client.get("/graphql?query=%7B+hello+%7D", headers=browser)
    assert (response.status_code, response.headers["location"]) == (303, "/graphiql?query=%7B+hello+%7D")
    assert client.get("/graphql", headers=browser).headers["location"] == "/graphiql"
    # Programs that accept both types receive JSON.
    both = {"accept": "application/json, text/html"}
    assert client.get("/graphql", params={"query": "{ hello }"}, headers=both).status_code == 200


@pytest.mark.parametrize("accept", ["application/json", GRAPHQL, "*/*"])
def test_a_subscription_by_plain_post_names_the_streaming_transports(client: httpx2.Client, accept: str) -> None:
    response = post(client, {"query": "subscription { never }"}, accept=accept)
    assert (response.status_code, code(response)) == (406, "BAD_USER_INPUT")
    message = response.json()["errors"][0]["message"]
    assert "graphql-transport-ws" in message
    assert "text/event-stream" in message


def test_an_unexpected_exception_is_masked_and_reported_with_the_request_id(client: httpx2.Client) -> None:
    response = post(client, {"query": "{ bug }"}, accept=GRAPHQL, x_request_id="abc-123")
    assert (response.status_code, code(response)) == (500, "INTERNAL_SERVER_ERROR")
    assert response.headers["x-request-id"] == "abc-123"
    assert "abc-123" in response.text
    assert "passwd" not in response.text


def test_unauthenticated_and_forbidden_requests_are_not_executed(client: httpx2.Client, serving: Serving) -> None:
    before = serving.world.touched
    unknown = post(client, {"query": "mutation { touch }"}, authorization="wrong")
    assert (unknown.status_code, code(unknown)) == (401, "UNAUTHENTICATED")
    assert unknown.headers["www-authenticate"] == 'Bearer realm="snapshot gateway"'
    banned = client.get("/graphql", params={"query": "{ hello }"}, headers={"authorization": "banned"})
    assert (banned.status_code, code(banned)) == (403, "FORBIDDEN")
    assert serving.world.touched == before


def test_a_body_up_to_the_limit_is_accepted(client: httpx2.Client) -> None:
    body = b'{"query":"{ hello }"}'
    assert post(client, body + b" " * (MAX_BODY - len(body))).status_code == 200


def test_a_longer_body_is_rejected(client: httpx2.Client) -> None:
    with_length = post(client, b" " * (MAX_BODY + 1))
    assert (with_length.status_code, code(with_length)) == (413, "LIMIT_EXCEEDED")
    chunks = (b" " * 10_000 for _ in range(MAX_BODY // 10_000 + 1))
    streamed = client.post("/graphql", content=chunks, headers=JSON)
    assert (streamed.status_code, code(streamed)) == (413, "LIMIT_EXCEEDED")


def test_a_body_in_chunks_is_read(client: httpx2.Client) -> None:
    pieces = (bytes([byte]) for byte in b'{"query":"{ hello }"}')
    assert client.post("/graphql", content=pieces, headers=JSON).json() == {"data": {"hello": "hello world"}}


def test_an_incomplete_body_times_out() -> None:
    head = b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    with serve(body_timeout=0.05) as serving:
        response = serving.raw(head)
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"BAD_USER_INPUT"' in response


def test_a_valid_request_id_is_returned_and_an_invalid_one_is_replaced(client: httpx2.Client) -> None:
    given = client.get("/elsewhere", headers={"x-request-id": "A-z_0.9:/+="})
    assert (given.headers["x-request-id"], given.text) == ("A-z_0.9:/+=", "A-z_0.9:/+=")
    for invalid in ("", "a b", 'x"y', "x" * 65):
        generated = client.get("/elsewhere", headers={"x-request-id": invalid})
        assert generated.headers["x-request-id"] == generated.text
        assert generated.text.isalnum()
        assert generated.text != invalid
    assert client.get("/elsewhere").text != client.get("/elsewhere").text
