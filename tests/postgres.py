"""A throw-away PostgreSQL server for tests, from the system's binaries. As root it drops to an unprivileged user."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any


def find_binaries() -> Path | None:
    """The newest installed PostgreSQL's programs, or None."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


_QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
# What is acknowledged survives the end of every process, though not of the machine.
_PROCESSES_MAY_DIE = ("fsync=off", "full_page_writes=off", "synchronous_commit=on")


class PostgresServer:
    """A server on a free loopback port, with its own directory. `lasting`: what is committed survives `kill`."""

    def __init__(self, binaries: Path, *, lasting: bool = False) -> None:
        self._directory = tempfile.mkdtemp(prefix="gateway-postgres-")
        self._run: dict[str, Any] = {
            "cwd": self._directory,
            "env": {"PATH": f"{binaries}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": self._directory},
        }
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = _unprivileged_user()
            os.chown(self._directory, user.pw_uid, user.pw_gid)
            self._run |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._binaries = binaries
        self._data = f"{self._directory}/data"
        subprocess.run(
            [binaries / "initdb", "-D", self._data, "-U", "gateway", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            **self._run,
        )
        self.port = _free_port()
        self._log = Path(self._directory, "log")
        self._options = (*(_PROCESSES_MAY_DIE if lasting else _QUICK), "max_connections=300")
        self.start()

    def start(self) -> None:
        """On the port and the data that it had before."""
        command = [str(self._binaries / "postgres"), "-D", self._data, "-k", self._directory, "-h", "127.0.0.1"]
        options = [part for option in self._options for part in ("-c", option)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "-p", str(self.port), *options], stdout=log, stderr=log, **self._run
            )
        self._wait()

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """`port`: of something that stands in front of it."""
        return f"postgresql://gateway@127.0.0.1:{port or self.port}/{database}"

    def end(self, number: signal.Signals) -> None:
        """SIGINT ends transactions and leaves at once ("fast"), SIGQUIT just leaves ("immediate")."""
        self._process.send_signal(number)
        self._process.wait(20)

    def kill(self) -> None:
        """SIGKILL to the postmaster and to every process of its: nobody has time for anything."""
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for pid in (parent, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(20)

    def stop(self) -> None:
        if self._process.poll() is None:
            self.end(signal.SIGQUIT)  # at once: there is nothing to keep
        shutil.rmtree(self._directory, ignore_errors=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if "ready to accept connections" in self._log.read_text():
                return
            time.sleep(0.02)
        raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text()}")


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL must not run as root, and there is no user to run it as")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
