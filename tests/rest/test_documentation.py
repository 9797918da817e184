"""docs/manageiq.md is correct: its commands succeed, and its numbers are those of the code."""

import json
import re
import shlex
from pathlib import Path

from gateway.access import sessions
from gateway.operations.commands.base import MAX_TARGETS
from gateway.rest import regexes
from gateway.rest.entry_point import VERSIONS
from gateway.rest.query import MAX_LIMIT
from tests.rest.world import Rest


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
