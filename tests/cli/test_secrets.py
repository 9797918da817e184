"""Secrets are sent and configured in all possible places, and must never be returned, logged or stored."""

import base64
import logging
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import psycopg
import pytest
from sqlmodel import SQLModel
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from gateway.config import Settings
from gateway.inventory.demo import load_demo
from gateway.inventory.provider_configuration import read_providers
from gateway.models import AuditEntry
from tests.cli.programs import Program, run, serving
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.client import CREATE, REVERT
from tests.serving import Served, served
from tests.waiting import until

SECRET = "planted-7f3a"  # part of every secret
BASIC = base64.b64encode(f"user:{SECRET}-basic".encode()).decode()
JWT = f"eyJhbGciOiJIUzI1NiJ9.{base64.urlsafe_b64encode(SECRET.encode()).decode()}.{SECRET}-signature"
PLANTED = [SECRET, BASIC, base64.b64encode(SECRET.encode()).decode().rstrip("=")]

HEADERS: list[dict[str, str]] = [
    {"authorization": f"Bearer {SECRET}-token"},
    {"authorization": f"Bearer {JWT}"},
    {"authorization": f"Basic {BASIC}"},
    {"x-auth-token": f"{SECRET}-x-auth"},
    {"cookie": f"session={SECRET}-cookie"},
]
BODIES: list[dict[str, Any]] = [
    {"query": "{ vms { totalCount } }"},
    {"query": "query ($password: String) { vms(after: $password) { totalCount } }", "variables": {}},
    {"query": "{ nothing }", "variables": {"password": f"{SECRET}-variable"}},
    {"query": "query ($password: String) { viewer { name } }", "variables": {"password": f"{SECRET}-variable"}},
    {"query": "{ auditEntries { nodes { id } } }", "extensions": {"token": f"{SECRET}-extension"}},
    {"query": REVERT, "variables": {"input": {"snapshotId": "snapshot-99999"}, "password": f"{SECRET}-variable"}},
    {"query": CREATE, "variables": {"input": {"machineId": "vm-11", "name": "x"}, "password": f"{SECRET}-variable"}},
]
PATHS = ["/api", "/api/vms", "/api/vms/999", "/api/nothing", "/nothing", "/graphql", "/health"]

# Nothing listens on port 9 of the loopback interface, so every provider fails and logs an error.
PROVIDERS = {
    "openstack": 'address = "http://127.0.0.1:9/v3"\nuser = "u"\nproject = "p"\npassword = {env = "PLANTED"}',
    "proxmox": 'address = "https://127.0.0.1:9"\nuser = "u@pve"\ntoken_name = "t"\ntoken_value = {env = "PLANTED"}',
    "vsphere": 'address = "https://127.0.0.1:9"\nuser = "u"\npassword = {env = "PLANTED"}',
    "ec2": (
        'region = "r-1"\naddress = "http://127.0.0.1:9"\naccess_key_id = "AKIA"\nsecret_access_key = {env = "PLANTED"}'
    ),
}


def leaks(text: str) -> list[str]:
    """The lines that contain a planted secret."""
    return [line for line in text.splitlines() if any(secret in line for secret in PLANTED)]


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PLANTED", f"{SECRET}-provider")
    return "\n".join(f'[{driver}]\ndriver = "{driver}"\n{options}' for driver, options in PROVIDERS.items())


@pytest.fixture(params=SLOW_KINDS)
def url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """The URL of a database. That of PostgreSQL has a password."""
    url = databases.new(request.param)
    if request.param == "postgresql":  # the test server accepts any password
        user = urlsplit(url).username
        url = url.replace(f"{user}@", f"{user}:{SECRET}-database@", 1)
        assert SECRET in url
    return url


@pytest.mark.thorough  # starts a process
def test_no_secret_is_returned_logged_or_stored(url: str, providers: str) -> None:
    with serving("--demo", database_url=url, log_level="debug", providers=providers) as program:
        responses = "\n".join(_responses(program))
        until(lambda: all_have_failed(program))
        code, out, err = program.stop(signal.SIGTERM)
        assert (code, leaks(program.greeting + out + err)) == (0, [])
        for driver in PROVIDERS:
            assert f"{driver}" in err  # the failure to connect was logged
    check_responses_and_rows(responses, url)


def test_no_secret_is_returned_logged_or_stored_in_this_process(
    url: str, providers: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same without the banner and the format of log lines."""
    caplog.set_level(logging.DEBUG)
    settings = Settings(database_url=url, providers=providers, drain_timeout=0.1)
    with served(settings) as gateway:
        gateway.run(load_demo(gateway.gateway.database, "default"))
        responses = "\n".join(_responses(gateway))
        until(lambda: all_have_failed(gateway))
    logged = [record for record in caplog.records if record.name.startswith("gateway")]
    lines = "\n".join(f"{record.getMessage()} {record.__dict__} {record.exc_text}" for record in logged)
    assert leaks(lines) == []
    for driver in PROVIDERS:
        assert driver in lines
    check_responses_and_rows(responses, url)


def all_have_failed(gateway: Program | Served) -> bool:
    """Whether the gateway has tried to read each provider."""
    found = gateway.ask("{ providers { name problem } }")["providers"]
    return {*PROVIDERS} <= {provider["name"] for provider in found if provider["problem"]}


def check_responses_and_rows(responses: str, url: str) -> None:
    assert leaks(responses) == []
    stored = "\n".join(_stored(url))
    assert "REVERT_VM_SNAPSHOT" in stored
    assert leaks(stored) == []


def _responses(program: Program | Served) -> Iterator[str]:
    for headers in HEADERS:
        for body in BODIES:
            for more in ({}, {"accept": "text/event-stream"}):
                yield program.http.post("/graphql", json=body, headers=headers | more).text
        for path in PATHS:
            yield program.http.get(path, headers=headers).text
            yield program.http.post(path, json={"password": f"{SECRET}-member"}, headers=headers).text
        yield program.http.post("/api/vms/11/snapshots/999", json={"action": "revert"}, headers=headers).text
        yield program.http.post("/graphql", content=b'{"query": ', headers=headers).text
        yield program.http.get("/graphql", params={"token": f"{SECRET}-url"}, headers=headers).text
    payload = {"authorization": f"Bearer {SECRET}-init", "password": f"{SECRET}-init"}
    address = program.url.replace("http", "ws", 1) + "/graphql"
    with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")]) as socket:
        socket.send(orjson.dumps({"type": "connection_init", "payload": payload}).decode())
        yield str(socket.recv())
        socket.send(orjson.dumps({"type": "connection_init", "payload": payload}).decode())
        with pytest.raises(Exception, match="4429"):
            socket.recv()


def _stored(url: str) -> Iterator[str]:
    """All rows of all tables."""
    assert AuditEntry.__tablename__ in SQLModel.metadata.tables
    connection: Any = (
        sqlite3.connect(Path(url.removeprefix("sqlite:///"))) if url.startswith("sqlite") else psycopg.connect(url)
    )
    with closing(connection):
        for table in SQLModel.metadata.tables:
            yield from map(repr, connection.execute(f"SELECT * FROM {table}").fetchall())


def test_provider_commands_print_no_secrets(providers: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for driver in PROVIDERS:
        code, out, err = run("provider", "check", driver, providers=providers)
        assert code == 1, (driver, out, err)
        assert leaks(out + err) == []
    assert leaks(caplog.text) == []
    code, out, err = run("provider", "list", providers=providers)
    assert (code, leaks(out + err)) == (0, [])


def test_representations_contain_no_secrets(providers: str) -> None:
    url = f"postgresql://u:{SECRET}@127.0.0.1/db"
    settings = Settings(database_url=url, providers=providers + f"\n# {SECRET}")
    assert leaks(repr(settings) + str(settings) + repr(replace(settings, port=1))) == []
    assert leaks(repr(read_providers(settings))) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u:{}@127.0.0.1:1/db", "The database cannot be used: connection failed"),
        ("postgresql://u@127.0.0.1:1/db?password={}", "The database cannot be used: connection failed"),
        ("postgresql://u:{}@127.0.0.1:1/db?sslmode=bogus", "The database cannot be used: connection is bad"),
        ("postgresql://u:x@{}@127.0.0.1:1/db", "GATEWAY_DATABASE_URL cannot be parsed"),
        ("postgresql://u:x{}/x@127.0.0.1:1/db", "GATEWAY_DATABASE_URL cannot be parsed"),
        ("postgresql://u:{}#x@127.0.0.1:1/db", "GATEWAY_DATABASE_URL cannot be parsed"),
        ("postgresql://u:{}?x@127.0.0.1:1/db", "GATEWAY_DATABASE_URL cannot be parsed"),
        ("postgresql://u:{}[x@127.0.0.1:1/db", "GATEWAY_DATABASE_URL cannot be parsed"),
        ("postgresql://u:{}@127.0.0.1:port/db", "GATEWAY_DATABASE_URL cannot be parsed"),
        ("postgresql:u:{}@127.0.0.1", "GATEWAY_DATABASE_URL must be sqlite:///FILE or postgresql://USER@HOST/NAME"),
        ("mysql://u:{}@127.0.0.1/db", "GATEWAY_DATABASE_URL must be sqlite:///FILE or postgresql://USER@HOST/NAME"),
    ],
)
@pytest.mark.parametrize("command", [("migrate",), ("serve", "--port", "0"), ("import", sys.executable)])
def test_errors_of_a_database_url_contain_no_secrets(command: tuple[str, ...], url: str, message: str) -> None:
    code, out, err = run(*command, database_url=url.format(SECRET))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"gateway: {message}")
    assert leaks(err) == []


def test_errors_of_an_inline_secret_do_not_contain_it(tmp_path: Path) -> None:
    """Both in valid and in malformed TOML."""
    options = PROVIDERS["vsphere"].replace('{env = "PLANTED"}', f'"{SECRET}"')
    code, out, err = run("provider", "list", providers=f'[v]\ndriver = "vsphere"\n{options}')
    assert (code, out, leaks(err)) == (2, "", [])
    broken = f'[v]\ndriver = "vsphere"\npassword = "{SECRET}\n'
    code, out, err = run("provider", "list", providers=broken)
    assert (code, out, leaks(err)) == (2, "", [])
