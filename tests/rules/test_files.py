"""The repository contains nothing of the machine that it was written on."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.rules.markdown import ROOT

# Written so that they do not match themselves.
REGISTRIES = re.compile(r"registry\.(npmjs|yarnpkg)|pypi\.org|python[h]osted|[d]evpi|artifac[t]ory")
PLACES = re.compile(r"/(home|root|work|tmp|opt|Users)/")
GENERATED = re.compile(r"(^|/)(node_modules|static|dist|__pycache__|\.venv)/|\.(db|db-wal|db-shm|pyc|whl)$")
LARGEST = 500_000


def tracked() -> list[Path]:
    """Files that git tracks, or would track if they were added now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout")
    paths = [Path(name) for name in done.stdout.split("\0") if name]
    return [path for path in paths if (ROOT / path).is_file()]


def found(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}"
        for path in tracked()
        if path.suffix != ".png"
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_the_host_of_a_registry() -> None:
    assert found(REGISTRIES) == []


def test_no_file_contains_a_local_path() -> None:
    assert found(PLACES) == []


def test_no_build_output_is_tracked() -> None:
    assert [str(path) for path in tracked() if GENERATED.search(str(path))] == []


def test_files_are_not_huge() -> None:
    assert [str(path) for path in tracked() if (ROOT / path).stat().st_size > LARGEST] == []
