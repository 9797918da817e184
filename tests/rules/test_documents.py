"""The documents are correct: tables match the code, links resolve, examples run.

Responses are compared exactly, except for values that differ between runs: times are `<time>`, cursors (which contain
times) are `<cursor>`, `QUEUED` and `RUNNING` are equal, and progress is omitted. Of a stream, the events that are shown
must arrive in that order, up to the same end; further events may arrive where the document has `…`.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.__main__ import main
from gateway.config import Settings, environment_variable
from gateway.errors import MEANINGS, ErrorCode
from gateway.inventory.provider_configuration import DRIVERS, SIMULATED, read_providers
from gateway.reads.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_TEXT_LENGTH, MAX_WILDCARDS
from gateway.reads.ids import PREFIXES
from gateway.reads.pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from gateway.rest.errors import KINDS
from tests.databases import Databases
from tests.inventory.files import collection, snapshot, vm
from tests.rules.markdown import DOCUMENTS, README, ROOT, Example, examples, fences, links, table
from tests.rules.modules import modules
from tests.rules.tables import errors_table, settings_table
from tests.serving import Served, served
from tests.waiting import within

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()

_ORIGIN = "http://127.0.0.1:8000"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_CURSORS = {"cursor", "startCursor", "endCursor"}


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 80


def test_the_settings_are_those_of_the_code() -> None:
    assert table(ROOT / "docs/settings.md", "Variable") == settings_table()


def test_the_error_codes_are_those_of_the_code() -> None:
    assert set(MEANINGS) == set(ErrorCode)
    assert table(ROOT / "docs/errors.md", "Code") == errors_table()


def test_the_statuses_of_errors_are_documented() -> None:
    """Each status that an HttpError can have, with its codes in GraphQL, and its kind and class in REST."""
    codes = {meaning.http_status: set[str]() for meaning in MEANINGS.values()}
    for meaning in MEANINGS.values():
        codes[meaning.http_status].add(meaning.extensions_code)
    for status, code in _http_errors():
        codes.setdefault(status, set()).add(MEANINGS[code].extensions_code)
    expected = [
        f"| {status} | {', '.join(f'`{code}`' for code in sorted(codes[status]))} | `{kind}` | `{klass}`"
        for status, (kind, klass) in KINDS.items()
    ]
    _, _, *rows = table(ROOT / "docs/errors.md", "Status")
    assert [" | ".join(row.split(" | ")[:4]) for row in rows] == expected
    assert list(KINDS) == sorted(codes)


def _http_errors() -> Iterator[tuple[int, ErrorCode]]:
    """The status and the code of each HttpError in the code. The only other statuses are those of MEANINGS."""
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"HttpError", "RestError"}:
                match node.args:
                    case [ast.Constant(value=int(status)), _]:
                        yield status, ErrorCode.INVALID
                    case [ast.Constant(value=int(status)), _, ast.Attribute(attr=code), *_]:
                        yield status, ErrorCode[code]
                    case [status, *_]:
                        assert ast.unparse(status) == "MEANINGS[error.code].http_status", module.place


def test_the_limits_are_those_of_the_code() -> None:
    text = " ".join((ROOT / "docs/language.md").read_text().split())
    for sentence in (
        f"at most {MAX_CONDITIONS} conditions, nested at most {MAX_DEPTH} deep;",
        f"a text in it at most {MAX_TEXT_LENGTH} characters; a pattern at most {MAX_WILDCARDS} stars.",
        f"A page has {DEFAULT_PAGE_SIZE} rows unless you say otherwise, and at most {MAX_PAGE_SIZE};",
    ):
        assert sentence in text


def test_named_variables_exist() -> None:
    known = {environment_variable(spec.name) for spec in fields(Settings)} | {
        "GATEWAY_TEST_REQUIRE",
        "GATEWAY_TEST_EXAMPLES",
        "GATEWAY_TEST_SEED",
        "GATEWAY_URL",  # a client's
        "GATEWAY_TOKEN",
    }
    texts = [*(path.read_text() for path in DOCUMENTS), *(module.source for module in modules().values())]
    assert {name for text in texts for name in re.findall(r"\bGATEWAY_[A-Z_]+\b", text)} - {"GATEWAY_"} - known == set()


def test_nouns_of_the_schema_are_explained() -> None:
    explained = set(re.findall(r"\*\*(\w+)\*\*", (ROOT / "docs/glossary.md").read_text()))
    nouns = {*PREFIXES, "Machine", "Provider", "Capability"}
    assert nouns - explained == set()


@pytest.mark.parametrize("document", [*DOCUMENTS, *(ROOT / "docs/decisions").glob("*.md")], ids=lambda path: path.name)
def test_links_resolve(document: Path) -> None:
    missing = [link for link in links(document) if not (document.parent / link.split("#")[0]).exists()]
    assert missing == []


def test_examples_run(server: Served) -> None:
    """In order, on one gateway: the stream of the README follows the operation of its mutation."""
    for document in DOCUMENTS:
        for example in examples(document):
            run = _run_query if example.language == "graphql" else _run_stream
            run(server, example)


def test_example_configurations_are_valid(tmp_path: Path) -> None:
    """Secrets are replaced by a file of this test."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    lacking = set() if find_spec("libvirt") else {"libvirt"}  # its library has to be built first
    configured = []
    for document in DOCUMENTS:
        for language, text in fences(document):
            if language == "toml" and not any(f'driver = "{driver}"' in text for driver in lacking):
                here = re.sub(r'\{ (file|env) = "[^"]*" \}', f'{{ file = "{secret}" }}', text)
                configured += read_providers(Settings(providers=here))
    assert {provider.driver for provider in configured} == {*DRIVERS} - {SIMULATED} - lacking


def _run_query(server: Served, example: Example) -> None:
    shown = server.post(example.sent)
    assert _normal(shown) == _normal(json.loads(example.answer)), example.sent


def _run_stream(server: Served, example: Example) -> None:
    """Runs a curl command without needing curl."""
    url, headers, body = _curl(example.sent)
    with server.http.stream("POST", server.url + url.removeprefix(_ORIGIN), headers=headers, content=body) as answer:
        received = [line for line in within(answer.iter_lines()) if line not in ("", ":", "event: next", "data: ")]
    lines = [_event(line) for line in received]
    wanted = [_event(line) for line in example.answer.splitlines() if line != "…"]
    assert lines[-1] == wanted[-1]
    remaining = iter(lines)
    assert [line for line in wanted if line not in remaining] == []  # each is searched for after the previous one


def _curl(command: str) -> tuple[str, dict[str, str], str]:
    program, options, url, *words = shlex.split(command.replace("\\\n", ""))
    assert (program, options) == ("curl", "-sN")
    headers = dict(word.split(": ", 1) for option, word in pairwise(words) if option == "-H")
    return url, headers, words[words.index("-d") + 1]


def _event(line: str) -> Any:
    return _normal(json.loads(line.removeprefix("data: "))) if line.startswith("data: ") else line


def _normal(value: Any, name: str = "") -> Any:
    match value:
        case dict():
            return {key: _normal(inner, key) for key, inner in value.items() if key != "progressPercent"}
        case list():
            return [_normal(inner) for inner in value]
        case str() if name in _CURSORS:
            return "<cursor>"
        case "QUEUED" | "RUNNING":
            return "<unfinished>"
        case str():
            return _TIME.sub("<time>", value)
        case _:
            return value


# ---- commands


def test_the_import_of_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vms-0.json").write_text(json.dumps(collection(vm(11, snapshot(3)))))
    (command,) = re.findall(r"^    gateway (import .*)$", (ROOT / "docs/manageiq.md").read_text(), re.MULTILINE)
    words = [
        name for word in shlex.split(command) for name in ([*map(str, Path().glob(word))] if "*" in word else [word])
    ]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stdout) == (
        0,
        "machines: 1 created, 0 updated, 0 unchanged; snapshots: 1 created, 0 updated, 0 unchanged\n",
    )


def test_a_frontend_on_the_documented_port_is_accepted(databases: Databases) -> None:
    found = re.search("`(GATEWAY_CORS_ORIGINS)=(.*) make serve`", (ROOT / "docs/clients.md").read_text())
    assert found is not None
    name, value = found.groups()
    settings = Settings.from_environment({name: value, "GATEWAY_DATABASE_URL": databases.new("sqlite")})
    with served(settings) as gateway:
        for origin, allowed in ((value, value), ("http://localhost:5174", None)):
            answer = gateway.http.post("/graphql", json={"query": "{ __typename }"}, headers={"origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed
            assert answer.status_code == (200 if allowed else 403)


def test_make_serve_loads_the_demo_world() -> None:
    (recipe,) = re.findall(r"^serve:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "gateway serve --demo" in recipe


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs/graphiql.png").stat().st_size <= 150_000


def test_paths_that_the_documents_name_exist() -> None:
    text = (ROOT / "docs/contributing.md").read_text() + ARCHITECTURE
    named = re.findall(r"`((?:gateway|tests|docs)/[\w./]+)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert len(named) > 10


@pytest.mark.parametrize("path", re.findall(r"^    (gateway/\w+[./]\S*|tests/)", ARCHITECTURE, re.MULTILINE))
def test_the_layout_names_existing_paths(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_layout_names_every_package() -> None:
    packages = {file.parent.name for file in (ROOT / "gateway").glob("*/*.py")}
    assert packages == set(re.findall(r"^    gateway/(\w+)/", ARCHITECTURE, re.MULTILINE))
