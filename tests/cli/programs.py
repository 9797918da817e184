"""The gateway as a program: run to its end, or started and spoken to until it is stopped."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

GATEWAY = [sys.executable, "-m", "gateway"]


def environment(**settings: Any) -> dict[str, str]:
    """This process's, without any setting of the gateway but `settings`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    given = {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    return {**kept, "PYTHONWARNINGS": "error", "COLUMNS": "100", **given}


def run(*arguments: str, settings: dict[str, Any] | None = None, **options: Any) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the gateway, run to its end."""
    done = subprocess.run(
        [*GATEWAY, *arguments], env=environment(**settings or {}), capture_output=True, text=True, timeout=60, **options
    )
    return done.returncode, done.stdout, done.stderr


def refusal(*arguments: str, settings: dict[str, Any] | None = None, **options: Any) -> str:
    """The one line that the gateway says on standard error before it ends with 2; it says nothing else."""
    code, out, err = run(*arguments, settings=settings, **options)
    assert (code, out) == (2, ""), err
    assert err.startswith("gateway: ")
    assert err.count("\n") == 1, err
    return err.removeprefix("gateway: ").removesuffix("\n")


class Program:
    """A gateway that serves in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.http = httpx2.Client(base_url=url, timeout=30, trust_env=False)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer that has no errors."""
        body = self.http.post("/graphql", json={"query": query, "variables": variables}).json()
        assert "errors" not in body, body["errors"]
        data: dict[str, Any] = body["data"]
        return data

    def stop(self, number: signal.Signals) -> tuple[int, str, str]:
        """Sends a signal, waits, and tells how it ended: its exit code and what it still said."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def kill(self) -> None:
        """SIGKILL: nothing is cleared up."""
        self.process.kill()
        self.process.communicate(timeout=30)


@contextmanager
def serving(*arguments: str, **settings: Any) -> Iterator[Program]:
    """Serves on a free port, which is read from what it prints; killed at the end unless it has ended."""
    process = subprocess.Popen(
        [*GATEWAY, "serve", "--port", "0", *arguments],
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"The snapshot gateway listens on (http://\S+:\d+)\n", line)
        if match is None:
            process.kill()
            raise AssertionError(f"{line}{process.communicate()}")
        program = Program(process, match[1])
        with program.http:
            yield program
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
