"""Programs of the npm project in this folder: run with the Node that `make setup` found, and heard to their end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import required

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds after which a program will not end any more

# `make setup` puts Node beside Python where the system has none that fits.
_PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
_NODE = shutil.which("node", path=_PATH)


def check_installed() -> None:
    """Skips the test where `make clients` was not run, unless it is required."""
    for there, missing in ((_NODE, "Node"), ((HERE / "node_modules/.package-lock.json").exists(), "the npm project")):
        if not there:
            (pytest.fail if required("clients") else pytest.skip)(f"{missing} is not installed: make clients")


def run(program: str, *arguments: str, folder: str = ".", **environment: str) -> str:
    """What a program prints: a file of `folder`, or a command of the installed packages. Fails the test if it does."""
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
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        heard = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout
        pytest.fail(f"{program} did not end in {PATIENCE:g} seconds:\n{heard}", pytrace=False)
    print(done.stdout)
    if done.returncode:
        pytest.fail(f"{program} ended with {done.returncode}:\n{done.stdout}", pytrace=False)
    return done.stdout


def passed(output: str) -> list[str]:
    """The names of the tests that passed, as Node's own runner prints them."""
    return [line.removeprefix("✔ ").rpartition(" (")[0] for line in output.splitlines() if line.startswith("✔ ")]
