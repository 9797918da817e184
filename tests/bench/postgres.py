"""A PostgreSQL server whose data stays in the cache. Durable as by default, because writes are measured too."""

import os
import pwd
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.bench import machine
from tests.bench.processes import Failed, end, free_port
from tests.postgres import find_binaries

OPTIONS = ("shared_buffers=512MB", "max_wal_size=4GB", "max_connections=200", "listen_addresses=127.0.0.1")
_QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")  # only while loading


class Postgres:
    """Serves `directory`, which is created if it is missing. Leaving the block stops the server.

    `loading`: without durability, to fill it.
    """

    def __init__(self, directory: Path, *, cores: set[int], loading: bool = False) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise Failed("PostgreSQL is not installed: apt-get install postgresql, or --systems without it")
        self._run = _as_someone_else(directory)
        self._run["env"] = {"PATH": f"{binaries}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"}
        if not (directory / "PG_VERSION").exists():
            self._initialize(binaries, directory)
        (directory / "postmaster.pid").unlink(missing_ok=True)  # of a killed run; each run uses a new port
        self.port = free_port()
        self._log = directory / "bench.log"
        options = OPTIONS + (_QUICK if loading else ())
        command: list[str | Path] = [binaries / "postgres", "-D", directory, "-k", directory, "-p", str(self.port)]
        with machine.on(cores), self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command + [part for option in options for part in ("-c", option)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._run,
            )
        self.pid = self._process.pid

    def __enter__(self) -> "Postgres":
        deadline = time.monotonic() + 60  # after a kill it recovers first
        while time.monotonic() < deadline and self._process.poll() is None:
            if "ready to accept connections" in self._log.read_text():
                return self
            time.sleep(0.05)
        self.stop()
        raise Failed(f"PostgreSQL does not start:\n{self._log.read_text()}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"postgresql://gateway@127.0.0.1:{self.port}/postgres"

    def stop(self) -> None:
        end(self._process, signal.SIGINT)

    def _initialize(self, binaries: Path, directory: Path) -> None:
        directory.mkdir(parents=True)
        if "user" in self._run:
            os.chown(directory, self._run["user"], self._run["group"])
        subprocess.run(
            [binaries / "initdb", "-D", directory, "-U", "gateway", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            **self._run,
        )


def _as_someone_else(directory: Path) -> dict[str, Any]:
    """Another account, because PostgreSQL refuses to run as root. Raises Failed if it cannot access the directory."""
    if os.geteuid() != 0:
        return {"cwd": "/"}
    user = next((found for found in pwd.getpwall() if found.pw_name in ("postgres", "nobody")), None)
    if user is None:
        raise Failed("PostgreSQL must not run as root, and there is no user to run it as")
    for parent in directory.resolve().parents:
        if parent.exists() and not parent.stat().st_mode & 0o001:
            raise Failed(f"PostgreSQL cannot run as {user.pw_name} below {parent}: choose another place with --cache")
    return {"cwd": "/", "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
