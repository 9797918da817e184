"""The gateway under attack: an inventory, users with tokens, and the process of a checkout that serves them."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests import make_dump
from tests.cli.programs import GATEWAY, Program, environment, serving
from tests.crash.rows import Rows
from tests.databases import Databases
from tests.limits.test_tls import write_certificate, write_key

HERE = Path(__file__).parents[3]

ATTACKER, VICTIM, PROBE = "127.0.0.3", "127.0.0.2", "127.0.0.4"  # the addresses of the clients

_MACHINES = 1_000
_FIRST_IMPORTED = 100_000  # see `make_dump`; the number of the machine with the most snapshots
_MAX_BIG = 10_000  # its snapshots: as many as a regular expression may search
_LATENCY_MS = 20  # of the simulated machines on which victims create snapshots
_COLLEAGUES = 16  # tokens, of which the victims use a new one every second
_USERS = {"administrator": "admin", "attacker": "viewer", "writer": "operator", "victim": "operator"}
_CREATE_TOKENS = """
import sys
from gateway.__main__ import main
for user in sys.argv[1:]:
    name, _, role = user.partition(":")
    main(["token", "create", name, "--role", role], standalone_mode=False)
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway that serves, as its clients know it. Each process under test gets a copy."""

    url: str
    tokens: Mapping[str, str]  # by user
    colleagues: tuple[str, ...]  # tokens that the process has not seen yet
    big_machine: int  # the number of the machine with the most snapshots

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0


@dataclass(frozen=True, slots=True)
class ProviderEndpoint:
    """A socket that listens for the Proxmox VE driver, with the files of its certificate and key."""

    listening: socket.socket
    certificate: Path
    key: Path

    @classmethod
    def open(cls, directory: Path) -> "ProviderEndpoint":
        """An endpoint whose files are in `directory`. Its connections wait until a server accepts them."""
        certificate, key = directory / "provider.pem", directory / "provider.key"
        write_certificate(certificate, write_key(key))
        return cls(socket.create_server(("127.0.0.1", 0)), certificate, key)

    def settings(self) -> dict[str, str]:
        """The settings of a gateway with this provider."""
        address = f"https://localhost:{self.listening.getsockname()[1]}"
        password = f'{{file = "{self.certificate}"}}'
        options = f'user = "root@pam", password = {password}, ca_file = "{self.certificate}", timeout = 60'
        return {"providers": f'endless = {{driver = "proxmox", address = "{address}", {options}}}'}


class World:
    """A database of `kind` with the demo world and an imported inventory, written and served by the code of `checkout`.

    Making it takes about 15 s for 100,000 snapshots.
    """

    def __init__(self, databases: Databases, kind: str, checkout: Path, dump: Path) -> None:
        self.kind = kind
        self.checkout = checkout
        self._url = databases.without_tables(kind)
        self._log = dump.with_name("gateway.log")
        with self._serving("--demo"):  # the demo world is only loaded into an empty database
            pass
        self._run([*GATEWAY, "import", str(dump)])
        rows = Rows(self._url)
        rows(f"UPDATE simulated_machine SET latency_ms = {_LATENCY_MS}")
        rows("ANALYZE")
        colleagues = {f"colleague-{number}": "viewer" for number in range(_COLLEAGUES)}
        users = _USERS | colleagues
        command = [sys.executable, "-c", _CREATE_TOKENS, *(f"{user}:{role}" for user, role in users.items())]
        self._tokens = dict(zip(users, self._run(command).split(), strict=True))

    @contextmanager
    def serving(self, settings: Mapping[str, str]) -> Iterator[tuple[Program, Target]]:
        """Runs a gateway with default settings, and these in addition, while the block runs."""
        with self._serving(**settings) as program:
            users = {user: self._tokens[user] for user in _USERS}
            colleagues = tuple(token for user, token in self._tokens.items() if user not in users)
            yield program, Target(program.url, users, colleagues, _FIRST_IMPORTED)

    def _serving(self, *arguments: str, **settings: str) -> AbstractContextManager[Program]:
        return serving(*arguments, checkout=self.checkout, log=self._log, database_url=self._url, **settings)

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.checkout,
            env=environment(database_url=self._url) | {"PYTHONPATH": str(self.checkout)},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2_000:]
        return done.stdout


def write_dump(file: Path, snapshots: int) -> None:
    """Writes the inventory that `World` imports."""
    with file.open("w", encoding="utf-8") as out:
        make_dump.write_dump(out, _MACHINES, snapshots, min(_MAX_BIG, snapshots // 10))
