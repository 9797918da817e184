"""The attack list: malicious requests, some of them as raw bytes, with the expected responses."""

import gzip
import json
from typing import Any, NamedTuple

LIMIT = "LIMIT_EXCEEDED"
BAD = "BAD_USER_INPUT"
INVALID = "GRAPHQL_VALIDATION_FAILED"
PARSE = "GRAPHQL_PARSE_FAILED"
MIB = 1_048_576


class Attack(NamedTuple):
    """One request, and the expected status and error code. If `raw` is set, its bytes are sent instead of a request.

    The status of a GraphQL error is the one for clients that accept `application/graphql-response+json`. A code in
    lower case is the kind of a REST error. None means that the response is not an error.
    """

    name: str
    status: int
    code: str | None
    method: str = "POST"
    path: str = "/graphql"
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    body: Any = None  # bytes are sent unchanged, anything else as JSON
    raw: bytes | None = None


def query(name: str, code: str | None, text: str, variables: Any = None, status: int = 400) -> Attack:
    body = {"query": text, "variables": variables}
    return Attack(name, status, code, headers={"accept": "application/graphql-response+json"}, body=body)


def rest(name: str, status: int, code: str | None, path: str, **more: Any) -> Attack:
    return Attack(name, status, code, more.pop("method", "GET"), path, **more)


def raw(name: str, status: int, code: str | None, head: bytes, body: bytes = b"") -> Attack:
    return Attack(name, status, code, raw=head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body)


def nested(opening: str, closing: str, inner: str, times: int) -> str:
    return opening * times + inner + closing * times


FORM = "application/x-www-form-urlencoded"
FILTER = "query ($f: MachineFilter) { vms(filter: $f) { totalCount } }"
QUERY = json.dumps({"query": "{ __typename }"}).encode()
TOUCH = 'mutation { createSnapshot(input: {machineId: "vm-11", name: "attack"}) { operation { id } } }'
CHANGE = {"query": TOUCH}
POST = b"POST /graphql HTTP/1.1\nhost: localhost\nconnection: close\ncontent-type: application/json"
GET = b"GET /healthz HTTP/1.1\nhost: localhost\nconnection: close"


def deep(times: int, inner: Any) -> Any:
    for _ in range(times):
        inner = {"not": inner}
    return inner


def chained(number: int, spreads: int, last: str) -> str:
    """Fragments that spread the next one `spreads` times each."""
    links = (f"fragment F{n} on Query {{ {f'...F{n + 1} ' * spreads} }}" for n in range(number))
    return f"{{ ...F0 }} {' '.join(links)} fragment F{number} on Query {{ {last} }}"


DOCUMENTS = [
    query("alias bomb", LIMIT, "{" + " ".join(f"a{n}: __typename" for n in range(101)) + "}"),
    query("1,000 root fields of one name", LIMIT, "{" + "viewer { name } " * 1_000 + "}"),
    query("900 leaves of one name", LIMIT, "{" + "__typename " * 900 + "}"),
    query("directive flood", LIMIT, "{ __typename " + "@include(if: true) " * 101 + "}"),
    query("unknown directives", LIMIT, "{ __typename " + "@a " * 2_000 + "}"),
    query("depth", LIMIT, "{ vm(id: 1) " + nested("{ machine ", "}", "{ id }", 30) + "}"),
    query("depth beyond any stack", PARSE, nested("{ a ", "}", "", 1_500)),
    query("nested lists", PARSE, "{ nodes(ids: " + nested("[", "]", "", 2_000) + ") { id } }"),
    query("fragment cycle", INVALID, "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }"),
    query("a recursive fragment", INVALID, "{ ...A } fragment A on Query { ...A }"),
    query("2^60 aliases", LIMIT, chained(60, 2, "a: __typename")),
    query("2^60 fields", LIMIT, chained(60, 2, "__typename")),
    query("600 fragments deep", LIMIT, chained(600, 1, "__typename")),
    query("many fragments on one type", LIMIT, "{" + " ".join(f"...F{n}" for n in range(380)) + "}"
          + "".join(f"fragment F{n} on Query {{ __typename }}" for n in range(380))),
    query("tokens", PARSE, "{" + "viewer " * 6_000 + "}"),
    query("recursive introspection", INVALID,
          "{ __schema { types " + nested("{ fields { type ", "} }", "{ name }", 5) + "} }"),
    query("a page that is too large", BAD, "{ vms(first: 2147483647) { nodes { id } } }", status=200),
    query("a number that is too large", INVALID, "{ vms(first: 9999999999999) { nodes { id } } }"),
    query("cost", LIMIT, "{ vms(first: 1000) { nodes { snapshots(first: 1000) { nodes { id } } } } }"),
    query("an id beyond 64 bits", BAD, '{ vm(id: "vm-9223372036854775808") { id } }', status=200),
    query("a long id", BAD, f'{{ vm(id: "vm-{"9" * 10_000}") {{ id }} }}', status=200),
    query("another script's digits", BAD, '{ vm(id: "vm-\u0661\u0661") { id } }', status=200),
    query("NUL in an id", BAD, '{ vm(id: "vm-11\\u0000") { id } }', status=200),
    query("NUL in a filter", BAD, FILTER, {"f": {"name": {"eq": "a\0b"}}}, status=200),
    query("a tampered cursor", BAD, '{ vms(after: "WzEsMl0=") { nodes { id } } }', status=200),
    query("a cursor of SQL", BAD, '{ vms(after: "JyBPUiAxPTEgLS0=") { nodes { id } } }', status=200),
    query("SQL in a filter", None, FILTER, {"f": {"name": {"eq": "' OR 1=1; DROP TABLE machine --"}}}, status=200),
    query("a filter 60 deep", BAD, FILTER, {"f": deep(60, {})}, status=200),
    query("a filter 300 wide", BAD, FILTER, {"f": {"or": [{"name": {"eq": "x"}}] * 300}}, status=200),
    query("a filter 5,000 wide", LIMIT, FILTER, {"f": {"or": [{"name": {"eq": "x"}}] * 5_000}}),
    query("a million characters", LIMIT, "{ __typename } #" + "x" * 900_000),
    query("an object of unknown members", INVALID, "{ vms(filter: {" + " ".join(f"x{n}: 1" for n in range(1_600))
          + "}) { totalCount } }"),
    query("a key of 50,000 characters", LIMIT, "{ vms(first: 1000) { nodes { " + "x" * 50_000 + ": id } } }"),
    query("introspection 90 times", LIMIT,
          "{" + " ".join(f"a{n}: __schema {{ types {{ fields {{ args {{ name }} }} }} }}" for n in range(90)) + "}"),
    query("a pattern of stars", BAD, FILTER, {"f": {"name": {"like": "*a" * 500}}}, status=200),
    query("a long text", BAD, FILTER, {"f": {"name": {"eq": "x" * 900_000}}}, status=200),
    query("thousands of unknown names", INVALID, "{" + " ".join(f"x{n}" for n in range(900)) + "}"),
    query("a mutation with a huge payload", LIMIT,
          'mutation { createSnapshots(input: {machineIds: ["vm-11"' + ', "vm-11"' * 1_500 + '], name: "n"})'
          " { results { operation { machine { snapshots(first: 1000) { nodes { id } } } } } } }"),
]  # fmt: skip

BODIES = [
    Attack("a batch", 400, BAD, body=[{"query": "{ __typename }"}] * 1_000),
    Attack("variables 100,000 deep", 400, BAD, headers={"content-type": "application/json"},
           body=b'{"query":"{__typename}","variables":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"),
    Attack("a lone surrogate", 400, BAD, headers={"content-type": "application/json"}, body=b'{"query":"\\ud800"}'),
    Attack("invalid UTF-8", 400, BAD, headers={"content-type": "application/json"}, body=b'{"query":"\xff"}'),
    Attack("a body that is too long", 413, LIMIT, headers={"content-type": "application/json"}, body=b" " * (MIB + 1)),
    Attack("a gzip bomb", 415, BAD, headers={"content-type": "application/json", "content-encoding": "gzip"},
           body=gzip.compress(bytes(64 * MIB))),
    rest("a gzip bomb, REST", 415, "unsupported_media_type", "/api/vms/11/snapshots", method="POST",
         headers={"content-encoding": "gzip"}, body=gzip.compress(bytes(MIB))),
    rest("a body that is too long, REST", 413, "payload_too_large", "/api/vms/11/snapshots", method="POST",
         body=b" " * (MIB + 1)),
    raw("a chunked body that is too long", 413, LIMIT, POST + b"\ntransfer-encoding: chunked",
        b"10000\r\n" + b" " * 65_536 + b"\r\n" + b"100000\r\n" + b" " * MIB),
    raw("a false content length", 413, LIMIT, POST + b"\ncontent-length: 99999999999999"),
]  # fmt: skip

PAGES = [
    Attack("a form", 415, BAD, headers={"content-type": FORM}, body=b"query=" + TOUCH.encode()),
    Attack("a multipart form", 415, BAD, headers={"content-type": "multipart/form-data; boundary=x"}, body=QUERY),
    Attack("a plain text form", 415, BAD, headers={"content-type": "text/plain"}, body=json.dumps(CHANGE).encode()),
    Attack("no content type", 415, BAD, headers={"content-type": ""}, body=json.dumps(CHANGE).encode()),
    Attack("a page of another site", 403, "FORBIDDEN", headers={"origin": "http://evil.example"}, body=CHANGE),
    Attack("a page without an origin", 403, "FORBIDDEN", headers={"origin": "null"}, body=CHANGE),
    Attack("a form of another site", 403, "FORBIDDEN", body=b"query=x",
           headers={"content-type": FORM, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}),
    rest("a form of another site, REST", 403, "forbidden", "/api/vms/11/snapshots", method="POST",
         headers={"content-type": "text/plain", "origin": "http://evil.example"}, body=b'{"name": "attack"}'),
    rest("a mutation by GET", 405, BAD, f"/graphql?query={TOUCH.replace(' ', '%20')}",
         headers={"accept": "application/json"}),
    rest("a query as an image", 403, "FORBIDDEN", "/graphql?query={__typename}",
         headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}),
    Attack("DNS rebinding", 421, BAD, headers={"host": "evil.example"}, body=CHANGE),
    rest("DNS rebinding, REST", 421, "misdirected_request", "/api/vms", headers={"host": "evil.example:8000"}),
    rest("a host with user information", 421, "misdirected_request", "/api",
         headers={"host": "localhost@evil.example"}),
]  # fmt: skip

PATHS = [
    rest("an id beyond 64 bits, REST", 404, "not_found", "/api/vms/9223372036854775808"),
    rest("a long id, REST", 404, "not_found", "/api/vms/" + "9" * 5_000),
    rest("a regex with catastrophic backtracking", 200, None, "/api/vms?filter[]=name=~(a%2B)%2B$"),
    rest("400 regexes", 400, "bad_request", "/api/vms?" + "&".join(["filter[]=name=~x"] * 400)),
    rest("a regex that is too large", 400, "bad_request", "/api/vms?filter[]=name=~" + "(a{1000}){1000}"),
    rest("SQL in a filter, REST", 200, None, "/api/vms?filter[]=name='%27%20OR%201=1%20--'"),
    rest("path traversal", 404, None, "/graphiql/assets/..%2f..%2f__init__.py"),
    rest("NUL in a path", 400, "bad_request", "/api/vms%00"),
    rest("a long query string", 414, BAD, "/graphql?query=" + "x" * 40_000, headers={"accept": "application/json"}),
    raw("a URL beyond 64 KiB", 400, "bad_request",
        GET.replace(b"/healthz", b"/api/vms?filter[]=" + b"x" * 70_000)),
]  # fmt: skip

WIRES = [
    raw("two lengths", 400, BAD, POST + b"\ncontent-length: 5\ncontent-length: 30", QUERY),
    raw("a length and chunks", 400, BAD, POST + b"\ncontent-length: 30\ntransfer-encoding: chunked", b"0\r\n\r\n"),
    raw("an unknown transfer encoding", 400, BAD, POST + b"\ntransfer-encoding: xchunked", QUERY),
    raw("a folded header", 400, BAD, GET + b"\nx-a: b\n c: d"),
    raw("a space before the colon", 400, BAD, GET + b"\ncontent-length : 5"),
    raw("NUL in a header", 400, BAD, GET + b"\nx-a: b\0c"),
    raw("two hosts", 400, None, GET + b"\nhost: evil.example"),
    raw("a huge header", 431, LIMIT, GET + b"\nx-a: " + b"x" * 200_000),
    raw("huge headers", 431, LIMIT, GET + b"".join(b"\nx-%d: %s" % (n, b"x" * 1_000) for n in range(200))),
    raw("a huge token", 431, LIMIT, GET + b"\nauthorization: Bearer " + b"x" * 200_000),
    raw("not HTTP", 400, BAD, b"\x16\x03\x01\x02\x00"),
    raw("an injected request id", 200, None, GET + b"\nx-request-id: a\tb<script>"),
    raw("a long request id", 200, None, GET + b"\nx-request-id: " + b"a" * 10_000),
]

ATTACKS = [*DOCUMENTS, *BODIES, *PAGES, *PATHS, *WIRES]
