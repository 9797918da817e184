"""A temporary PostgreSQL server for tests, from the installed binaries. Started as root, it runs as another user."""

import contextlib
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.waiting import until


def terminate_connections(administrator: psycopg.Connection[Any], database: str) -> None:
    """Terminates the present connections to a database, except this one, and waits until they have ended."""
    present = "FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    pids = [pid for (pid,) in administrator.execute(f"SELECT pid {present}".encode(), [database])]
    administrator.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [pids])
    remaining = f"SELECT 1 {present} AND pid = ANY(%s)".encode()
    until(lambda: not administrator.execute(remaining, [database, pids]).fetchall())


def find_binaries() -> Path | None:
    """The directory with the programs of the newest installed PostgreSQL, or None."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


class PostgresServer:
    """A server on a reserved loopback port, with its own directory. Durability is off, because the data is temporary.

    `options` are server settings, which override the defaults here. With `primary`, it starts as a standby of that one.
    """

    def __init__(self, binaries: Path, *options: str, primary: "PostgresServer | None" = None) -> None:
        self._binaries = binaries
        self._reserved = _reserve_port()
        self.port: int = self._reserved.getsockname()[1]
        self._directory = tempfile.mkdtemp(prefix="gateway-postgres-")
        self._run: dict[str, Any] = {
            "cwd": self._directory,
            "env": {"PATH": f"{binaries}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": self._directory},
        }
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = _unprivileged_user()
            os.chown(self._directory, user.pw_uid, user.pw_gid)
            self._run |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._data = f"{self._directory}/data"
        if primary is None:
            self._do("initdb", "-D", self._data, "-U", "gateway", "-A", "trust", "-E", "UTF8", "--no-sync")
        else:
            where = f"host=127.0.0.1 port={primary.port} user=gateway application_name=standby"
            self._do("pg_basebackup", "-D", self._data, "-d", where, "-R", "-c", "fast", "--no-sync")
        self._log = Path(self._directory, "log")
        self._options = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=300", *options)
        self.start()

    def start(self) -> None:
        """Starts the server, again after `kill` or `shut_down`, on the same port. Returns when it accepts clients."""
        where = ["-D", self._data, "-k", self._directory, "-h", "127.0.0.1", "-p", str(self.port)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), *where]
                + [part for option in self._options for part in ("-c", option)],
                stdout=log,
                stderr=log,
                **self._run,
            )
        self._wait()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://gateway@127.0.0.1:{self.port}/{database}"

    def shut_down(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stops the server; `start` starts it again. SIGINT closes connections with an error, SIGQUIT as in a crash."""
        self._process.send_signal(number)
        self._process.wait(20)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to every process of the server. SIGSTOP freezes it."""
        for pid in (self._process.pid, *self._children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Kills all processes of the server, as a power failure does, and waits for them; `start` starts it again."""
        if self._process.poll() is None:  # stopped first, so that it cannot fork a process that is missed
            self._process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        with contextlib.ExitStack() as stack:
            pidfds = [os.pidfd_open(pid) for pid in self._children()]
            for pidfd in pidfds:
                stack.callback(os.close, pidfd)
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._process.kill()
            self._process.wait(20)
            for pidfd in pidfds:
                select.select([pidfd], [], [], 20)

    def promote(self) -> None:
        """Promotes a standby to primary. Returns when it accepts writes."""
        self._do("pg_ctl", "promote", "-D", self._data)

    def stop(self) -> None:
        """Stops the server and deletes its directory."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # immediate shutdown, because the data is deleted
            self._process.wait(20)
        self._reserved.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _do(self, program: str, *arguments: str) -> None:
        subprocess.run([self._binaries / program, *arguments], check=True, stdout=subprocess.DEVNULL, **self._run)

    def _children(self) -> list[int]:
        pid = self._process.pid
        try:
            return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:  # the process has ended
            return []

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if "ready to accept" in self._log.read_text():
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text()}")


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL must not run as root, and there is no unprivileged user to run it.")


def _reserve_port() -> socket.socket:
    """A socket whose port the kernel gives to no other process, also while the server is down.

    The server can listen on it all the same, because both sockets have SO_REUSEADDR and this one does not listen.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved
