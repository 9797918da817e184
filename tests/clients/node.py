"""Runs programs of the npm project in this folder, with the Node that `make setup` found or installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import required

HERE = Path(__file__).parent
TIMEOUT = 60.0  # seconds after which a program is considered hung

# `make setup` installs Node next to Python if the system has no suitable version.
_PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
_NODE = shutil.which("node", path=_PATH)


def check_installed() -> None:
    """Skips the test if `make clients` was not run, or fails it if `GATEWAY_TEST_REQUIRE` contains `clients`."""
    for installed, missing in (
        (_NODE, "Node"),
        ((HERE / "node_modules/.package-lock.json").exists(), "the npm project"),
    ):
        if not installed:
            (pytest.fail if required("clients") else pytest.skip)(f"{missing} is not installed: make clients")


def run(program: str, *arguments: str, folder: str = ".", **environment: str) -> str:
    """Runs a file of `folder` or an installed command, and returns its output. Fails the test if the program fails."""
    assert _NODE is not None
    script = HERE / folder / program if program.endswith(".js") else HERE / "node_modules/.bin" / program
    options = ["--test-reporter=spec", "--test-force-exit"] if program.endswith(".js") else []
    command = [_NODE, *options, str(script), *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=HERE / folder,
            env={**os.environ, "PATH": _PATH, "NO_COLOR": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout
        pytest.fail(f"{program} did not end within {TIMEOUT:g} s:\n{output}", pytrace=False)
    print(done.stdout)
    if done.returncode:
        pytest.fail(f"{program} exited with status {done.returncode}:\n{done.stdout}", pytrace=False)
    return done.stdout


def passed_tests(output: str) -> list[str]:
    """The names of the passed tests in the output of Node's test runner."""
    return [line.removeprefix("✔ ").rpartition(" (")[0] for line in output.splitlines() if line.startswith("✔ ")]
