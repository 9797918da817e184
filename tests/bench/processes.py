"""Child processes: started on a core, frozen and thawed, and always ended by their process id."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.bench import machine

_PATIENCE = 60.0  # seconds until a server must listen


class Failed(Exception):
    """The benchmark cannot continue; the message is printed."""


class Server:
    """A running server with its own port. Leaving the block ends it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.name = name
        self.port = port
        self.pid = process.pid
        self._process = process
        self._log = log
        self._frozen = False

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def await_listening(self) -> None:
        """Raises Failed if it does not listen in time."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise Failed(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise Failed(f"{self.name} does not listen after {_PATIENCE:g} seconds:\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def freeze(self) -> None:
        """Stops it and its children (SIGSTOP). Only for idle servers without locks."""
        self._frozen = True
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self.pid, number)  # it is the leader of its process group

    def stop(self) -> None:
        self.thaw()
        end(self._process)


def start(
    name: str,
    command: Sequence[str | Path],
    port: int,
    *,
    cores: set[int],
    log: Path,
    environment: Mapping[str, str],
    directory: Path,
) -> Server:
    """Starts a server; it may not listen yet."""
    with machine.on(cores), log.open("wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**_PLAIN, **environment},
            cwd=directory,
            start_new_session=True,  # Ctrl-C reaches only the benchmark, which ends them in order
        )
    return Server(name, process, port, log)


# The environment of the benchmark must not change the behavior of a server.
_PLAIN = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def end(process: subprocess.Popen[Any], how: signal.Signals = signal.SIGTERM) -> None:
    """Sends SIGTERM, waits, and then sends SIGKILL."""
    if process.poll() is not None:
        return
    process.send_signal(how)
    try:
        process.wait(8)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(8)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
