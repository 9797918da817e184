"""A throw-away PostgreSQL server for tests, from the system's binaries. As root it drops to an unprivileged user."""

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


class PostgresServer:
    """A server on a free loopback port, with its own directory; durability is off because nothing needs to last."""

    def __init__(self, binaries: Path) -> None:
        self._directory = tempfile.mkdtemp(prefix="gateway-postgres-")
        run: dict[str, Any] = {
            "cwd": self._directory,
            "env": {"PATH": f"{binaries}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": self._directory},
        }
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = _unprivileged_user()
            os.chown(self._directory, user.pw_uid, user.pw_gid)
            run |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data = f"{self._directory}/data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "gateway", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            **run,
        )
        self.port = _free_port()
        self._log = Path(self._directory, "log")
        options = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=300")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(binaries / "postgres"), "-D", data, "-k", self._directory, "-h", "127.0.0.1", "-p", str(self.port)]
                + [part for option in options for part in ("-c", option)],
                stdout=log,
                stderr=log,
                **run,
            )
        self._wait()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://gateway@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        self._process.send_signal(signal.SIGQUIT)  # at once: there is nothing to keep
        self._process.wait(20)
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
