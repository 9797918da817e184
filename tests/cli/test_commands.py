"""Commands other than `serve`: their results and their error messages, each of one line."""

import json
import os
import re
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.config import RANGES, Settings, unknown_variables
from tests.cli.programs import error_message, refusal, run, spawned
from tests.databases import Databases

A_URL = "an http:// or https:// URL such as https://gateway.example.org, without query and fragment"
_MACHINE = {"id": "1", "name": "a", "ems_ref": "vm-1", "snapshots": []}


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
    assert [line.split()[0] for line in commands] == [
        *("import", "migrate", "provider", "refresh", "schema", "serve", "simulate", "token")
    ]


@pytest.mark.parametrize("group", [(), ("provider",), ("token",)])
def test_help_shows_whole_summaries(group: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a narrow terminal."""
    for columns in ("40", "60", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        listed = run(*group, "--help")[1].partition("Commands:\n")[2]
        assert "..." not in listed
        summaries = re.split(r"^  (?=\w)", listed, flags=re.MULTILINE)[1:]
        assert [summary.rstrip()[-1] for summary in summaries] == ["."] * len(summaries)


def test_version() -> None:
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    assert out.startswith("gateway, version ")


def test_schema_prints_the_file_in_the_repository(root: Path) -> None:
    assert run("schema") == (0, (root / "schema.graphql").read_text(), "")


def test_migrate_twice(path: Path) -> None:
    url = f"sqlite:///{path}"
    code, out, err = run("migrate", database_url=url)
    assert (code, err) == (0, "")
    assert out.endswith(" (was empty).\n")
    again = run("migrate", "--database-url", url)
    assert again == (0, out.replace(" (was empty)", ""), "")


# ---- errors


def test_a_directory_as_database(tmp_path: Path) -> None:
    message = refusal("migrate", "--database-url", f"sqlite:///{tmp_path}")
    assert message == f"The database file '{tmp_path}' is a directory."


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "gateway.db"
    message = refusal("serve", "--demo", "--database-url", f"sqlite:///{missing}")
    assert message == (
        f"The database file '{missing}' cannot be created. Check that its directory exists and is writable."
    )  # fmt: skip
    assert not missing.parent.exists()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Drops root privileges while the block runs, because file permissions do not apply to root."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65_534, 65_534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that unprivileged users may enter, which pytest's own do not allow."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o222])
def test_an_unreadable_database(url: str, open_directory: Path, mode: int) -> None:
    file = open_directory / "gateway.db"
    shutil.copy(url.removeprefix("sqlite:///"), file)
    file.chmod(mode)
    with unprivileged():
        message = refusal("migrate", "--database-url", f"sqlite:///{file}")
    assert message == f"The database file '{file}' cannot be read and written. Check its permissions."


def test_a_database_that_cannot_be_created(open_directory: Path) -> None:
    file = open_directory / "gateway.db"
    open_directory.chmod(0o555)
    with unprivileged():
        message = refusal("migrate", "--database-url", f"sqlite:///{file}")
    assert message == f"The database file '{file}' cannot be created. Check that its directory exists and is writable."


def test_a_directory_that_may_not_be_entered(open_directory: Path) -> None:
    open_directory.chmod(0o000)
    with unprivileged():
        message = refusal("migrate", "--database-url", f"sqlite:///{open_directory}/gateway.db")
    assert message.startswith(f"The database file '{open_directory}/gateway.db' cannot be ")
    open_directory.chmod(0o700)


@pytest.mark.parametrize("content", [b"not a database" * 1_000, b"SQLite format 3\0" + b"\xff" * 8_192])
@pytest.mark.parametrize("command", [["migrate"], ["serve", "--port", "0"]], ids=["migrate", "serve"])
def test_a_file_that_is_not_a_database(path: Path, content: bytes, command: list[str]) -> None:
    path.write_bytes(content)
    message = refusal(*command, "--database-url", f"sqlite:///{path}")
    assert message.startswith("The database cannot be used: ")
    assert path.read_bytes() == content


def test_a_database_of_a_newer_gateway(url: str) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for command in (["migrate"], ["serve", "--port", "0"], ["refresh"], ["simulate", "vm-11"]):
        message = refusal(*command, "--database-url", url)
        assert (
            message
            == "The database was migrated by a newer version of the gateway. Install that version or a newer one."
        )


def test_a_database_of_another_program(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.commit()
    connection.close()
    message = refusal("migrate", "--database-url", f"sqlite:///{path}")
    assert message.startswith("The database ")
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
    connection.close()


def test_a_server_that_does_not_answer() -> None:
    message = refusal("migrate", "--database-url", "postgresql://user@127.0.0.1:1/missing")
    assert message.startswith("The database cannot be used: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"database_url": "mysql://x/y"},
            "GATEWAY_DATABASE_URL must be sqlite:///FILE or postgresql://USER@HOST/NAME.",
        ),
        ({"database_url": "gateway.db"}, "GATEWAY_DATABASE_URL must be sqlite:///FILE or postgresql://USER@HOST/NAME."),
        ({"database_url": "sqlite:///"}, "GATEWAY_DATABASE_URL must name a file, such as sqlite:///gateway.db."),
        ({"port": "http"}, "GATEWAY_PORT must be a whole number, not 'http'."),
        ({"port": "65536"}, "GATEWAY_PORT must be between 0 and 65535, not 65536."),
        ({"operation_lease": "soon"}, "GATEWAY_OPERATION_LEASE must be a number, not 'soon'."),
        ({"operation_lease": "0"}, "GATEWAY_OPERATION_LEASE must be greater than 0, not 0.0."),
        ({"operation_lease": "nan"}, "GATEWAY_OPERATION_LEASE must be greater than 0, not nan."),
        ({"read_timeout": "inf"}, "GATEWAY_READ_TIMEOUT must be greater than 0, not inf."),
        ({"introspection": "maybe"}, "GATEWAY_INTROSPECTION must be true or false, not 'maybe'."),
        (
            {"documents_only": "1"},
            "GATEWAY_DOCUMENTS_ONLY requires GATEWAY_DOCUMENTS_FILES, because no other document would be served.",
        ),
        ({"log_level": "loud"}, "GATEWAY_LOG_LEVEL must be debug, info, warning or error, not 'loud'."),
        ({"port": "-1"}, "GATEWAY_PORT must be between 0 and 65535, not -1."),
        ({"operation_lease": "0.0001"}, "GATEWAY_OPERATION_LEASE must be between 0.1 and 3600, not 0.0001."),
        ({"read_timeout": "0.0004"}, "GATEWAY_READ_TIMEOUT must be between 0.1 and 3153600000, not 0.0004."),
        (
            {"keep_operations": "1e12"},
            "GATEWAY_KEEP_OPERATIONS must be between 60 and 3153600000, not 1000000000000.0.",
        ),
        ({"jwt_leeway": "1e9"}, "GATEWAY_JWT_LEEWAY must be between 0.001 and 3600, not 1000000000.0."),
        ({"max_body_bytes": "1"}, "GATEWAY_MAX_BODY_BYTES must be between 1024 and 1073741824, not 1."),
        ({"workers": "1000000"}, "GATEWAY_WORKERS must be between 1 and 1000, not 1000000."),
        ({"stop_delay": "nan"}, "GATEWAY_STOP_DELAY must be between 0 and 3600, not nan."),
        ({"tenant": ""}, "GATEWAY_TENANT must be 1 to 255 printable characters."),
        ({"tenant": "a" * 256}, "GATEWAY_TENANT must be 1 to 255 printable characters."),
        ({"jwt_default_tenant": "a\tb"}, "GATEWAY_JWT_DEFAULT_TENANT must be 1 to 255 printable characters."),
        ({"jwt_roles_claim": ""}, "GATEWAY_JWT_ROLES_CLAIM must name a claim."),
        (
            {"public_url": "https://user:secret@gateway.example.org"},
            "GATEWAY_PUBLIC_URL must not contain credentials: links in responses begin with it.",
        ),
        *(
            (
                {name: url},
                f"GATEWAY_{name.upper()} must be {A_URL}, not {url!r}.",
            )
            for name in ("public_url", "traces_endpoint")
            for url in (
                "javascript:alert(1)",
                "javascript://gateway.example.org/%0aalert(1)",
                "gateway.example.org",
                "//gateway.example.org",
                "https://",
                "https:///path",
                "https://gateway example.org",
                "https://gateway.example.org?x=1",
                "https://gateway.example.org/#top",
                "https://gateway.example.org:port",
                "https://gateway.example.org:99999",
                "https://[::1",
                "https://gätewäy.example.org",
            )
        ),
        ({"host": "example.org"}, "GATEWAY_HOST must be an IP address such as 127.0.0.1, not 'example.org'."),
    ],
    ids=str,
)
def test_invalid_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal("serve", **settings) == message
    assert list(tmp_path.iterdir()) == []


def test_the_settings_with_a_range_exist_and_have_their_default_in_it() -> None:
    Settings().validate()
    assert {*RANGES} - {spec.name for spec in fields(Settings)} == set()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "https://gateway.example.org/below/", "http://[::1]:80", ""])
def test_valid_urls(url: str) -> None:
    Settings(public_url=url, traces_endpoint=url).validate()


def test_unknown_variables_are_named_with_the_nearest_setting() -> None:
    environment = {
        "GATEWAY_PROT": "1",
        "GATEWAY_DATABSE_URL": "sqlite:///other.db",
        "GATEWAY_xyzzy": "",
        "GATEWAY_PVE_PASSWORD": "secret",
        **dict.fromkeys(("GATEWAY_PORT", "GATEWAY_URL", "GATEWAY_TOKEN", "GATEWAY_TEST_SEED", "PORT", "GATEWAY"), "1"),
    }
    assert unknown_variables({"GATEWAY_PVE_PASSWORD"}, environment) == {
        "GATEWAY_DATABSE_URL": "GATEWAY_DATABASE_URL",
        "GATEWAY_PROT": "GATEWAY_PORT",
        "GATEWAY_xyzzy": None,
    }


def test_unknown_variables_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Except those that the configuration of a provider refers to."""
    providers = 'pve = { driver = "proxmox", password = { env = "GATEWAY_PVE_PASSWORD" } }'
    secrets = {"databse_url": "sqlite:///other.db", "pve_password": "hunter2"}
    url = f"sqlite:///{tmp_path}/gateway.db"
    assert run("migrate", database_url=url, providers=providers, **secrets)[0] == 0
    message = "Unknown environment variable was ignored name=GATEWAY_DATABSE_URL nearest=GATEWAY_DATABASE_URL"
    assert [record.getMessage() for record in caplog.records if record.name == "gateway.__main__"] == [message]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--port", "x"], "Invalid value for '--port': 'x' is not a valid integer."),
        (["serve", "--nope"], "No such option '--nope'."),
        (["nope"], "No such command 'nope'."),
        (["import"], "Missing argument 'FILE...'."),
        (["schema", "x"], "Got unexpected extra argument (x)"),
    ],
    ids=" ".join,
)
def test_invalid_arguments(arguments: list[str], message: str) -> None:
    command = "gateway" if arguments[0] == "nope" else f"gateway {arguments[0]}"
    assert refusal(*arguments) == f"{message} (see {command} --help)"


@pytest.mark.thorough  # starts a process
def test_the_exit_code_and_error_of_a_process(tmp_path: Path) -> None:
    code, out, err = spawned("serve", "--database-url", f"sqlite:///{tmp_path}")
    assert (code, out) == (2, "")
    assert error_message(err) == f"The database file '{tmp_path}' is a directory."


@pytest.mark.parametrize("name", ["", "a\nb", "\udcff", "a" * 256])
def test_names_that_the_database_cannot_hold(url: str, name: str) -> None:
    database = ("--database-url", url)
    message = "must be 1 to 255 printable characters."
    assert refusal("import", "dump.json", "--provider", name, *database) == f"--provider {message}"
    assert refusal("import", "dump.json", "--tenant", name, *database) == f"GATEWAY_TENANT {message}"
    assert refusal("token", "create", name, "--role", "viewer", *database) == f"The name of a token {message}"
    assert refusal("token", "revoke", name, *database) == f"The name of a token {message}"


def test_import_of_an_invalid_file(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "valid").write_text(json.dumps({"name": "vms", "resources": [_MACHINE]}))
    for name, content, message in (
        ("text", "hello", "text: The file is not valid JSON: "),
        ("broken", '{"resources": [', "broken: "),
        ("references", json.dumps({"name": "vms", "resources": [{"href": "http://localhost/api/vms/1"}]}),
         "references: resources[0]: The machine has no attributes. "),
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
        assert refusal("import", name, "--database-url", url).startswith(message)
        assert refusal("import", "valid", name, "--database-url", url).startswith(message)
    assert refusal("import", "valid", "missing", "--database-url", url) == (
        "missing: The file cannot be opened: No such file or directory."
    )
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    assert connection.execute("SELECT * FROM machine").fetchall() == []
    connection.close()


def test_import_with_problems(url: str, tmp_path: Path) -> None:
    pages = [
        {"name": "vms", "count": 3, "resources": [_MACHINE, _MACHINE | {"id": "x"}]},
        {"name": "instances", "count": 1, "resources": [_MACHINE | {"id": "2", "ems_ref": "vm-2"}]},
    ]
    files = [tmp_path / "vms", tmp_path / "instances"]
    for file, page in zip(files, pages, strict=True):
        file.write_text(json.dumps(page))
    code, out, err = run("import", *map(str, files), "--database-url", url)
    assert code == 3
    assert out == (
        "machines: 2 created, 0 updated, 0 unchanged, 1 left out; snapshots: 0 created, 0 updated, 0 unchanged\n"
    )
    assert err.splitlines()[1:] == [
        (
            "gateway: vms: resources[1]: Attribute 'id' must be a whole number from 1 to 4000000000000000000,"
            ' not "x". The machine was left out.'
        ),
        (
            "gateway: vms: The files contain 2 of the 3 machines of the collection. Request its other pages too,"
            " with limit and offset. Machines and snapshots that are missing from the files were not changed."
        ),
    ]
    code, out, err = run("import", str(files[1]), "--database-url", url)
    assert (code, out) == (
        0,
        "machines: 0 created, 0 updated, 1 unchanged; snapshots: 0 created, 0 updated, 0 unchanged\n",
    )
    assert err == "merging  1 machines, 0 snapshots\n"


def test_import_of_a_pipe(url: str, tmp_path: Path) -> None:
    """A file that has no size and no position, such as that of `<(curl …)`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=[json.dumps({"name": "vms", "resources": [_MACHINE]})])
    writer.start()
    code, out, _err = run("import", str(pipe), "--database-url", url)
    writer.join(10)
    assert (code, out.partition(",")[0]) == (0, "machines: 1 created")


def test_refresh_of_an_unknown_provider(url: str) -> None:
    message = "Provider 'nope' does not exist or has no driver. Providers with a driver: none."
    assert refusal("refresh", "nope", "--database-url", url) == message
    assert run("refresh", "--database-url", url) == (0, "", "")
