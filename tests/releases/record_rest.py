"""Records what the REST API answers to a fixed list of requests, and compares two recordings.

    python -m tests.releases.record_rest record CHECKOUT > FILE    # serves CHECKOUT's gateway on an empty database
    python -m tests.releases.record_rest compare OLD NEW           # exits with 1 if more than error messages differs

Each line of a recording is one request with its answer's status, headers and body. What differs between two runs of
the same code is normalized or left out: times, the port, request ids, tokens and rate limits.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_VOLATILE_HEADERS = {"date", "x-request-id", "ratelimit", "content-length", "retry-after"}
_MACHINES = ("/vms/11", "/instances/201")
_XML = {"accept": "application/xml"}


class Request(NamedTuple):
    """One request below `/api`."""

    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


def requests() -> Iterator[Request]:
    """Every route with answers and refusals, reads before writes."""
    yield from (Request("GET", path) for path in _reads())
    yield from (Request("GET", path) for path in _refused_reads())
    for path in ("", "/vms", "/vms/11", "/instances", "/tasks", "/vms/11/snapshots", "/vms/11/snapshots/4", "/foo"):
        yield from (Request(method, path) for method in ("OPTIONS", "HEAD", "PUT", "PATCH"))
        yield Request("GET", path, headers=_XML)
    yield from _refused_writes()
    yield from _writes()


def _reads() -> Iterator[str]:
    yield from ("", "/v4.4.0", "/vms", "/instances", "/tasks", "/tasks/1", "/tasks/2", "/tasks?expand=resources")
    for collection in ("/vms", "/instances"):
        yield f"{collection}?expand=resources&limit=3"
        yield f"{collection}?expand=resources,snapshots&limit=2&offset=1"
        yield f"{collection}?hide=resources&filter[]=name='web-*'"
        yield f"{collection}?expand=resources&attributes=name,v_total_snapshots,host.name&sort_by=name&sort_order=desc"
        yield f"{collection}?limit=0"
        yield f"{collection}?filter[]=snapshots.name='*before*'&filter[]=or%20power_state=on"
    for machine in _MACHINES:
        yield machine
        yield f"{machine}?expand=snapshots&attributes=name,snapshots"
        yield f"{machine}/snapshots"
        yield f"{machine}/snapshots?expand=resources&sort_by=name&sort_options=ignore_case"
        yield f"{machine}/snapshots?expand=resources&attributes=name,total_size,parent_uid,vm_or_template.name"
        yield f"{machine}/snapshots?filter[]=name='*e*'&limit=1"
        yield f"{machine}/snapshots?filter[]=created_on%3E1%20month%20ago&filter[]=total_size%3E=1.megabyte"
        yield f"{machine}/snapshots?filter[]=name=~/^t.*/i"
    yield from ("/vms/11/snapshots/3", "/vms/11/snapshots/4?expand=resources&attributes=actions,name")


def _refused_reads() -> Iterator[str]:
    yield from ("/foo", "/v9.9.9/vms", "/vms/abc", "/vms/0", "/vms/201", "/instances/11", "/tasks/0", "/tasks/x")
    yield from ("/vms/11/foo", "/vms/11/snapshots/abc", "/vms/11/snapshots/0", "/vms/11/snapshots/3/x", "/vms/1/2/3/4")
    yield from ("/vms/99999999999999999999/snapshots", "/tasks/1/snapshots", "/snapshots")
    for parameters in (
        *("limit=x", "offset=-1", "limit=0&offset=1", "attributes=nonsense", "sort_by=nonsense", "sort_order=sideways"),
        *("by_tag=x", "collection_class=Nonsense", "expand=snapshots&attributes=snapshots", "sort_options=nonsense"),
        *("filter[]=nonsense='x'", "filter[]=name", "filter[]=name='x", "filter[]=id=x", "filter[]=name=~/(/"),
        *("filter[]=created_on%3Enever", "filter[]=total_size%3E1.lightyear", "filter[]=power_state%3E1", "filter[]=="),
        *("filter[]=name=~/" + "a" * 1_100 + "/", "filter[]=" + "or%20name='x'&filter[]=" * 3 + "name='x'", "%ff=1"),
    ):
        yield f"/vms?{parameters}"
        yield f"/vms/11/snapshots?{parameters}"


def _refused_writes() -> Iterator[Request]:
    for machine in _MACHINES:
        snapshots = f"{machine}/snapshots"
        for body in (
            *({"name": ""}, {"name": "x" * 256}, {}, {"name": 5}, {"action": "nonsense"}, {"action": 5}, [1], "text"),
            *({"action": "create"}, {"action": "create", "resources": []}, {"action": "create", "resources": [{}]}),
            *({"name": "a", "description": 5}, {"name": "a", "memory": "perhaps"}, {"name": "a", "nonsense": 1}),
            *(
                {"action": "delete"},
                {"action": "delete", "resources": [{"id": 0}]},
                {"action": "delete", "resources": 1},
            ),
            {"action": "delete", "resources": [{"href": "http://elsewhere/api/vms/12/snapshots/1"}]},
        ):
            yield Request("POST", snapshots, body)
        yield Request("POST", f"{snapshots}/0", {"action": "delete"})
        yield Request("POST", f"{snapshots}/4", {"action": "nonsense"})
        yield Request("DELETE", f"{snapshots}/0")
        yield Request("DELETE", f"{snapshots}/x")
        yield Request("POST", machine, {"action": "start"})
        yield Request("DELETE", machine)
    yield Request("POST", "/instances/201/snapshots/7", {"action": "revert"})
    yield Request("POST", "/vms", {"action": "create"})
    yield Request("POST", "/tasks/1", {"action": "delete"})
    yield Request("POST", "/vms/11/snapshots", None, {"content-encoding": "gzip"})
    yield Request("DELETE", "/auth")
    yield Request("GET", "/vms", headers={"authorization": "Bearer nonsense"})
    yield Request("GET", "/vms", headers={"x-auth-token": "nonsense"})
    yield Request("GET", "/auth", headers={"authorization": "Basic ###"})


def _writes() -> Iterator[Request]:
    yield Request("GET", "/auth?requester_type=ws")
    yield Request("POST", "/vms/11/snapshots", {"name": "recorded", "description": "By the recording", "memory": False})
    yield Request("POST", "/vms/12/snapshots", {"action": "create", "resource": {"name": "recorded"}})
    yield Request("POST", "/instances/201/snapshots", {"action": "create", "resources": [{"name": "a"}, {"name": ""}]})
    yield Request("POST", "/vms/11/snapshots/4", {"action": "revert"})
    yield Request("POST", "/vms/13/snapshots", {"name": "once"}, {"idempotency-key": "recorded-1"})
    yield Request("POST", "/vms/13/snapshots", {"name": "once"}, {"idempotency-key": "recorded-1"})
    yield Request("POST", "/vms/13/snapshots", {"name": "twice"}, {"idempotency-key": "recorded-1"})
    yield Request("DELETE", "/vms/11/snapshots/5")
    yield Request("POST", "/vms/11/snapshots/3", {"action": "delete"})
    yield Request("POST", "/vms/11/snapshots", {"action": "delete", "resources": [{"id": 3}, {"id": 4}]})
    yield Request("GET", "/vms/11/snapshots?expand=resources")


# ---- record


def record(checkout: str) -> None:
    """Serves the gateway of `checkout` with the demo world on an empty database, and prints each answer."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--demo", "--port", "0"],
            cwd=folder,
            env=kept | {"PYTHONPATH": str(Path(checkout).resolve())},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            url = re.search(r"http://[\d.:]+", process.stdout.readline())
            assert url is not None
            with httpx2.Client(base_url=url[0], trust_env=False, timeout=30) as client:
                for request in requests():
                    print(json.dumps(_answer(client, request, url[0])))
        finally:
            process.kill()
            process.communicate()


def _answer(client: httpx2.Client, request: Request, url: str) -> dict[str, Any]:
    content = None if request.body is None else json.dumps(request.body).encode()
    answer = client.request(request.method, "/api" + request.path, content=content, headers=request.headers)
    headers = {
        name: _normal(value, url) for name, value in sorted(answer.headers.items()) if name not in _VOLATILE_HEADERS
    }
    body = _normal(answer.text, url)
    return {"request": [*request[:3], request.headers], "status": answer.status_code, "headers": headers, "body": body}


def _normal(text: str, url: str) -> str:
    text = _TIME.sub("<time>", text.replace(url, "<url>").replace(url.removeprefix("http://"), "<address>"))
    return re.sub(r'"(auth_token|expires_on|request_id)":"[^"]*"', r'"\1":"<value>"', text)


# ---- compare


def compare(old_path: str, new_path: str) -> int:
    """Prints what differs; the exit code."""
    old, new = ([json.loads(line) for line in Path(path).read_text().splitlines()] for path in (old_path, new_path))
    assert [answer["request"] for answer in old] == [answer["request"] for answer in new]
    messages = wrong = 0
    for before, after in zip(old, new, strict=True):
        if before == after:
            continue
        if _without_messages(before) == _without_messages(after):
            messages += 1
        else:
            wrong += 1
            print(f"{before['request']}\n- {_shown(before)}\n+ {_shown(after)}")
    refused = sum(answer["status"] >= 400 for answer in old)
    print(f"{len(old)} requests, {refused} of them refused: {messages} differ in messages of errors, {wrong} in more.")
    return int(bool(wrong))


def _without_messages(answer: dict[str, Any]) -> Any:
    """The answer without the texts that may change: of errors, and of results that are not a success."""
    try:
        body = json.loads(answer["body"])
    except json.JSONDecodeError:
        return answer
    if isinstance(body, dict):
        for part in (body.get("error"), *(body.get("results") or ()), body):
            if isinstance(part, dict) and (part is body.get("error") or part.get("success") is False):
                part.pop("message", None)
    return answer | {"body": body} if answer["status"] >= 400 or '"success":false' in answer["body"] else answer


def _shown(answer: dict[str, Any]) -> str:
    return json.dumps({name: answer[name] for name in ("status", "headers", "body")})


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record(sys.argv[2])
    else:
        sys.exit(compare(*sys.argv[2:]))
