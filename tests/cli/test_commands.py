"""The commands that end by themselves: what they do, and the one line that says why they do not."""

import json
import os
import sqlite3
from pathlib import Path

import pytest

from tests.cli.programs import refusal, run
from tests.databases import Databases


@pytest.fixture
def url(databases: Databases) -> str:
    return databases.new("sqlite")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


def test_help_names_every_command() -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    commands = out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in commands] == ["import", "migrate", "refresh", "schema", "serve", "simulate"]


def test_version() -> None:
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    assert out.startswith("gateway, version ")


def test_schema_is_the_file(root: Path) -> None:
    assert run("schema") == (0, (root / "schema.graphql").read_text(), "")


def test_migrate_twice(path: Path) -> None:
    settings = {"database_url": f"sqlite:///{path}"}
    code, out, err = run("migrate", settings=settings)
    assert (code, err) == (0, "")
    assert out.endswith(", was at nothing\n")
    again = run("migrate", settings=settings)
    assert again == (0, out.replace(", was at nothing", ""), "")


# ---- what keeps a command from running


def test_a_directory_as_database(tmp_path: Path) -> None:
    message = refusal("migrate", "--database-url", f"sqlite:///{tmp_path}")
    assert message == f"the database {tmp_path} is a directory"


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "gateway.db"
    message = refusal("serve", "--demo", "--database-url", f"sqlite:///{missing}")
    assert message == (
        f"the database {missing} cannot be created: check that its directory exists and is writable"
    )  # fmt: skip
    assert not missing.parent.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o222])
def test_an_unreadable_database(url: str, mode: int) -> None:
    file = Path(url.removeprefix("sqlite:///"))
    file.chmod(mode)
    assert refusal("migrate", "--database-url", url) == (
        f"the database {file} cannot be read and written: check its permissions"
    )


@pytest.mark.parametrize("content", [b"not a database" * 1_000, b"SQLite format 3\0" + b"\xff" * 8_192])
@pytest.mark.parametrize("command", [["migrate"], ["serve", "--port", "0"]], ids=["migrate", "serve"])
def test_a_file_that_is_no_database(path: Path, content: bytes, command: list[str]) -> None:
    path.write_bytes(content)
    message = refusal(*command, "--database-url", f"sqlite:///{path}")
    assert message.startswith("the database cannot be used: ")
    assert path.read_bytes() == content


def test_a_database_of_a_newer_gateway(url: str) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for command in (["migrate"], ["serve", "--port", "0"], ["refresh"], ["simulate", "vm-11"]):
        message = refusal(*command, "--database-url", url)
        assert message == "the database was made by a newer gateway: install that version or newer"


@pytest.mark.xfail(strict=True, reason="store/migrate.py puts its tables into any database that has none of their names")
def test_a_database_of_something_else(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.commit()
    connection.close()
    message = refusal("migrate", "--database-url", f"sqlite:///{path}")
    assert message.startswith("the database ")
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
    connection.close()


def test_a_server_that_does_not_answer() -> None:
    message = refusal("migrate", "--database-url", "postgresql://nobody@127.0.0.1:1/nothing")
    assert message.startswith("the database cannot be used: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"database_url": "mysql://x/y"}, "GATEWAY_DATABASE_URL must be sqlite:///FILE or postgresql://USER@HOST/NAME"),
        ({"database_url": "gateway.db"}, "GATEWAY_DATABASE_URL must be sqlite:///FILE or postgresql://USER@HOST/NAME"),
        ({"database_url": "sqlite:///"}, "GATEWAY_DATABASE_URL must name a file, such as sqlite:///gateway.db"),
        ({"port": "http"}, "GATEWAY_PORT must be a whole number, not 'http'"),
        ({"port": "65536"}, "GATEWAY_PORT must be between 0 and 65535, not 65536"),
        ({"operation_lease": "soon"}, "GATEWAY_OPERATION_LEASE must be a number, not 'soon'"),
        ({"operation_lease": "0"}, "GATEWAY_OPERATION_LEASE must be greater than 0, not 0.0"),
        ({"log_level": "loud"}, "GATEWAY_LOG_LEVEL must be debug, info, warning or error, not 'loud'"),
        (
            {"host": "0.0.0.0"},
            "0.0.0.0 can be reached from other machines, and no identities are configured to say who may do what:"
            " listen on 127.0.0.1 or ::1",
        ),
        ({"host": "example.org"}, "GATEWAY_HOST must be an address such as 127.0.0.1, not 'example.org'"),
    ],
    ids=str,
)
def test_settings(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    assert refusal("serve", settings=settings, cwd=tmp_path) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--port", "x"], "Invalid value for '--port': 'x' is not a valid integer."),
        (["serve", "--nope"], "No such option '--nope'."),
        (["nope"], "No such command 'nope'."),
        (["import"], "Missing argument 'FILE'."),
        (["schema", "x"], "Got unexpected extra argument (x)"),
    ],
    ids=" ".join,
)
def test_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    command = arguments[0] if arguments[0] != "nope" else None
    hint = " ".join(filter(None, ["python -m gateway", command, "--help"]))
    assert refusal(*arguments, cwd=tmp_path) == f"{message} (see {hint})"


def test_import_of_a_bad_file(url: str, tmp_path: Path) -> None:
    machine = {"id": "1", "name": "a", "ems_ref": "vm-1", "snapshots": []}
    for name, content, message in (
        ("text", "hello", "text: is not JSON: "),
        ("broken", '{"resources": [', "broken: "),
        ("twice", json.dumps({"name": "vms", "resources": [machine, machine]}), "resources[1]"),
    ):
        (tmp_path / name).write_text(content)
        assert refusal("import", name, "--database-url", url, cwd=tmp_path).startswith(message)
    assert refusal("import", "missing", "--database-url", url, cwd=tmp_path) == "missing: no such file or directory"
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    assert connection.execute("SELECT * FROM machine").fetchall() == []
    connection.close()


def test_refresh_of_an_unknown_provider(url: str) -> None:
    message = "there is no provider 'nope' with a driver; there are: none"
    assert refusal("refresh", "nope", "--database-url", url) == message
    assert run("refresh", "--database-url", url) == (0, "", "")
