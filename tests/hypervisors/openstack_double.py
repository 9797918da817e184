"""A test double of OpenStack's HTTP APIs. A test injects faults with `Cloud.on`."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import uuid4

from gateway.drivers.openstack.driver import OpenStackDriver, Options, make
from gateway.drivers.options import Secret
from tests.hypervisors.openstack_services import PASSWORD, PATCH_TYPE, PROJECT, Answer, Services, fault

Forward = Callable[[], Answer]
Fault = Callable[[Forward], Answer | None]  # None closes the connection without a response


def refuse(code: int, body: Any = "no") -> Fault:
    """The request is not executed and returns an error."""
    return lambda forward: (code, body)


def lose(forward: Forward) -> Answer | None:
    """The request is executed, but its response is lost."""
    forward()
    return None


def drop(forward: Forward) -> Answer | None:
    """The request is neither executed nor answered."""
    return None


def garble(forward: Forward) -> Answer:
    """The request is executed, and returns HTML instead of JSON."""
    forward()
    return 200, "<html><h1>Welcome</h1></html>"


@dataclass
class Cloud(Services):
    """The services, reachable over HTTP."""

    writes: list[str] = field(default_factory=list)  # the requests that change something, as "POST compute/servers/…"
    reads: list[str] = field(default_factory=list)
    end: threading.Event = field(default_factory=threading.Event)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def driver(self, **options: Any) -> OpenStackDriver:
        """A new driver for this cloud."""
        login = {"address": f"{self.url}/identity/v3", "user": "gateway", "project": PROJECT}
        return make("cloud", Options(**(login | {"password": Secret(PASSWORD)} | options)), 4)

    def on(self, request: str, *faults: Fault, times: int = 1) -> None:
        """Applies faults to the next requests that start with `request`, such as "DELETE image/images"."""
        self.faults += [(request, fault) for fault in faults for _ in range(times)]

    def hang(self, forward: Forward) -> Answer | None:
        """The request is neither executed nor answered until the cloud ends."""
        self.end.wait()
        return None

    def expire_tokens(self) -> None:
        """Makes all tokens invalid, as after their lifetime of an hour."""
        self.tokens.clear()

    def answer(self, method: str, target: str, token: str | None, body: Any) -> tuple[Answer | None, str | None]:
        """The response, and the token if one was requested."""
        parts = urlsplit(target)
        service, _, path = parts.path.strip("/").partition("/")
        path = path.partition("/")[2]  # the version
        key = f"{method} {service}/{path}"
        with self._lock:
            (self.reads if method == "GET" or service == "identity" else self.writes).append(key)
            found = next((place for place, (start, _) in enumerate(self.faults) if key.startswith(start)), None)
            act = None if found is None else self.faults.pop(found)[1]
        made = str(uuid4())

        def forward() -> Answer:
            with self._lock:
                if service == "identity":
                    return self.identify(path, body, made)
                if path and token not in self.tokens:
                    return fault("error", 401, "The request you have made requires authentication.")
                words = [unquote(part) for part in path.split("/")]
                return self.serve(service, method, words, dict(parse_qsl(parts.query)), body)

        answer = act(forward) if act else forward()
        return answer, made if answer and answer[0] == 201 else None


@contextmanager
def cloud() -> Iterator[Cloud]:
    """A cloud on a free loopback port, for as long as the block lasts."""
    double = Cloud()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # sends a response in one piece

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if self.command == "PATCH" and self.headers["Content-Type"] != PATCH_TYPE:
                body = None
            answer, token = double.answer(self.command, self.path, self.headers.get("X-Auth-Token"), body)
            if answer is None:
                self.close_connection = True
                return
            code, content = answer
            text = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/html" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(text)))
            if token:
                self.send_header("X-Subject-Token", token)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: Any) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        double.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="openstack")
        thread.start()
        try:
            yield double
        finally:
            double.end.set()
            server.shutdown()
            thread.join()
