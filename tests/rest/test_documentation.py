"""docs/manageiq.md is correct: its commands succeed, and its numbers are those of the code."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.access import sessions
from gateway.access.caller import right_name
from gateway.access.roles import Roles
from gateway.config import Settings
from gateway.operations.commands.base import MAX_TARGETS
from gateway.rest import regexes
from gateway.rest.entry_point import VERSIONS
from gateway.rest.features import ALWAYS, FEATURES, WITH_WRITES
from gateway.rest.query import MAX_LIMIT
from tests.access.clients import create_token
from tests.databases import Databases
from tests.rest.world import Rest
from tests.rules.markdown import table
from tests.serving import served


def test_every_command_succeeds(rest: Rest, root: Path) -> None:
    commands = re.findall(r"^    curl (.*)$", (root / "docs/manageiq.md").read_text(), re.MULTILINE)
    assert len(commands) == 8
    for command in commands:
        words = shlex.split(command)
        url = next(word for word in words if word.startswith("http")).removeprefix("http://127.0.0.1:8000")
        body = words[words.index("-d") + 1] if "-d" in words else None
        method = words[words.index("-X") + 1] if "-X" in words else "GET" if body is None else "POST"
        answer = rest.http.request(method, rest.gateway.url + url, content=body)
        assert answer.status_code == (204 if method == "DELETE" else 200), (command, answer.text)
        shown = answer.json() if answer.content else {"task_id": answer.headers["location"].rpartition("/")[2]}
        for result in shown.get("results", [shown]):
            assert result.get("success", True), (command, json.dumps(result))
            if "task_id" in result:
                assert rest.finish(result["task_id"])["status"] == "Ok", command


def test_the_numbers_are_those_of_the_code(root: Path) -> None:
    text = " ".join((root / "docs/manageiq.md").read_text().split())
    for sentence in (
        f"below `/api/v{VERSIONS[0]}` ({VERSIONS[-1]} to {VERSIONS[0]} are the same)",
        f"valid for {sessions.IDLE_TIMEOUT.total_seconds() // 60:.0f} minutes after its last use",
        f"after {sessions.MAX_LIFETIME.total_seconds() // 3_600:.0f} hours at the latest",
        f"at most {regexes.MAX_PATTERN_LENGTH} characters long and is evaluated on at most {regexes.MAX_ROWS} rows",
        f"the newest {MAX_LIMIT} of each machine. One request names at most {MAX_TARGETS} snapshots.",
    ):
        assert sentence in text, sentence
    assert re.findall(r"^\| (D\d+) ", (root / "docs/manageiq.md").read_text(), re.MULTILINE) == [
        f"D{number}" for number in range(1, 18)
    ]


@pytest.fixture
def environment(databases: Databases) -> Iterator[dict[str, str]]:
    """The variables that the documented commands use, with the address and a token of a gateway that has users."""
    settings = Settings(database_url=databases.new("sqlite", demo=True), drain_timeout=0.01)
    token = create_token(settings.database_url, "billing")
    with served(settings) as gateway:
        yield {"PATH": os.environ["PATH"], "LC_ALL": "C", "TOKEN": token, "GATEWAY": gateway.url}


def test_the_first_hour(environment: dict[str, str], root: Path) -> None:
    """Its requests are sent as they are documented, and the documented refusal is the response."""
    section = (root / "docs/manageiq.md").read_text().partition("## The first hour\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^       (curl .*)$", section, re.MULTILINE)
    outputs = [
        subprocess.run(
            ["/bin/sh", "-c", command.replace("curl ", "curl -s --noproxy '*' ", 1)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for command in commands
    ]
    entry, machines, refused = outputs
    assert json.loads(entry)["identity"]["userid"] == "billing"
    assert [sorted(row) for row in json.loads(machines)["resources"]] == [["href", "id", "name"]] * 3
    assert refused in re.findall(r"^       (\{.*\})$", section, re.MULTILINE)
    settings = re.findall(r"(GATEWAY_[A-Z_]+)=(\S+)", section)
    read = Settings.from_environment(dict(settings))
    assert (read.public_url, read.allowed_hosts) == ("https://snapshots.example.com", ("snapshots", "10.0.0.7"))


def test_an_imported_machine_is_refused_as_documented(rest: Rest, root: Path) -> None:
    rest.sql("INSERT INTO provider (name, tenant, driver) VALUES ('manageiq', 'default', 'none')")
    rest.sql("UPDATE machine SET provider = 'manageiq' WHERE id = 11")
    refused = rest.post("/vms/11/snapshots", {"name": "n"}, 400)["results"][0]["message"]
    assert f'"{refused}"' in " ".join((root / "docs/manageiq.md").read_text().split())


def test_the_roles_are_those_of_the_code(root: Path) -> None:
    """The features of each right, and a role that the gateway accepts."""
    wanted = [
        (", ".join(f"`{feature}`" for feature in features) or "none", f"`{right_name(*right)}`")
        for right, features in FEATURES.items()
    ]
    rows = [tuple(line.strip("| ").split(" | ")) for line in table(root / "docs/manageiq.md", "Product features")[2:]]
    assert rows[: len(wanted)] == wanted
    assert [features for features, _ in rows[len(wanted) :]] == [f"`{name}`" for name in (*ALWAYS, *WITH_WRITES)]
    (role,) = re.findall(r"^    GATEWAY_ROLES='(.*)'$", (root / "docs/manageiq.md").read_text(), re.MULTILINE)
    rights, administers = Roles.read(role).rights(["self_service"])
    assert not administers
    assert rights == {right for right, features in FEATURES.items() if features}
