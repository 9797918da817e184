"""Runs the gateway as a program: commands to their end, and servers while a block runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from gateway.__main__ import main
from tests.serving import http_client

GATEWAY = [sys.executable, "-m", "gateway"]


def environment(**settings: Any) -> dict[str, str]:
    """The environment of this process, with `settings` as the only settings of the gateway."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    given = {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    return {**inherited, "PYTHONWARNINGS": "error", "COLUMNS": "100", **given}


def spawned(*arguments: str) -> tuple[int, str, str]:
    """Runs a command in a process of its own. Returns its exit code, standard output and standard error."""
    done = subprocess.run(
        [*GATEWAY, *arguments], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


def run(*arguments: str, **settings: Any) -> tuple[int, str, str]:
    """The same within this process, which is much faster. Exceptions that the command does not catch are raised."""
    given = {name: None for name in os.environ if name.startswith("GATEWAY_")} | {
        f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()
    }
    result = CliRunner(env=given).invoke(main, arguments, prog_name="gateway")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refusal(*arguments: str, **settings: Any) -> str:
    """The error message of a command that exits with code 2. It must print this one line and nothing else."""
    code, out, err = run(*arguments, **settings)
    assert (code, out) == (2, ""), err
    return error_message(err)


def error_message(err: str) -> str:
    """The message of the only line of standard error, without the prefix `gateway: `."""
    assert err.startswith("gateway: ")
    assert err.count("\n") == 1, err
    return err.removeprefix("gateway: ").removesuffix("\n")


class Program:
    """A gateway that serves in a process of its own. `greeting` is the banner that it has printed."""

    def __init__(self, process: subprocess.Popen[str], greeting: str) -> None:
        self.process = process
        self.greeting = greeting
        self.url = greeting.split()[5]
        self.http = http_client(self.url)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a response, which must have no errors."""
        body = self.http.post("/graphql", json={"query": query, "variables": variables}).json()
        assert "errors" not in body, body["errors"]
        data: dict[str, Any] = body["data"]
        return data

    def stop(self, number: signal.Signals) -> tuple[int, str, str]:
        """Sends a signal and waits. Returns the exit code and the remaining standard output and standard error."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def kill(self) -> None:
        """Sends SIGKILL, so that the process cannot clean up."""
        self.process.kill()
        self.process.communicate(timeout=30)


@contextmanager
def serving(
    *arguments: str, checkout: Path | None = None, log: Path | None = None, **settings: Any
) -> Iterator[Program]:
    """Serves on a free port, which is read from the banner, while the block runs. Kills the process at the end.

    `checkout`: the code to run, if not this checkout's. `log`: file for standard error. Without it, a gateway that logs
    more than fits into a pipe blocks.
    """
    with ExitStack() as stack:
        process = subprocess.Popen(
            [*GATEWAY, "serve", "--port", "0", *arguments],
            cwd=checkout,
            env=environment(**settings) | ({} if checkout is None else {"PYTHONPATH": str(checkout)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if log is None else stack.enter_context(log.open("ab")),
            text=True,
        )
    try:
        assert process.stdout is not None
        greeting = "".join(_until(process.stdout, "Ctrl-C"))
        if not greeting.startswith("The snapshot gateway listens on http"):
            process.kill()
            raise AssertionError(f"{greeting}{process.communicate()}")
        program = Program(process, greeting)
        with program.http:
            yield program
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)  # its worker processes hold the pipes


def _until(lines: Iterable[str], word: str) -> Iterator[str]:
    for line in lines:
        yield line
        if word in line:
            return
