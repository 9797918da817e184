"""What docs/manageiq.md tells is so: its commands are taken, its numbers are the code's."""

import json
import re
import shlex
from pathlib import Path

from gateway.access import sessions
from gateway.operations.commands.base import MAX_TARGETS
from gateway.rest import regexes
from gateway.rest.entry import VERSIONS
from gateway.rest.query import LARGEST_PAGE
from tests.rest.world import Rest


def test_every_command_is_taken(rest: Rest, root: Path) -> None:
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
    told = " ".join((root / "docs/manageiq.md").read_text().split())
    for sentence in (
        f"below `/api/v{VERSIONS[0]}` ({VERSIONS[-1]} to {VERSIONS[0]} are the same)",
        f"good for {sessions.TTL.total_seconds() // 60:.0f} minutes after its last use",
        f"at the latest after {sessions.LONGEST.total_seconds() // 3_600:.0f} hours",
        f"at most {regexes.LONGEST} characters long and looks at no more than {regexes.MOST_ROWS} rows",
        f"the newest {LARGEST_PAGE} of each machine. One request names at most {MAX_TARGETS} snapshots.",
    ):
        assert sentence in told, sentence
    assert re.findall(r"^\| (D\d+) ", (root / "docs/manageiq.md").read_text(), re.MULTILINE) == [
        f"D{number}" for number in range(1, 18)
    ]
