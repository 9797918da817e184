"""The wheel: its contents, and that it works without a checkout."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

from gateway.store.migrate import revisions
from gateway.web.graphiql import STATIC
from tests.rules.modules import ROOT, modules


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(directory), versions=["standard"])
    return Path(built)


def test_contents_of_the_wheel(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
        about = {Path(name).name for name in archive.namelist() if ".dist-info/" in name}
    code = {module.place for module in modules().values()}
    page = {str(path.relative_to(ROOT)) for path in STATIC.rglob("*") if path.is_file()}
    assert names == code | page | {"gateway/store/migrations/script.py.mako"}
    assert {"LICENSE", "METADATA", "entry_points.txt"} <= about
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "# Snapshot gateway" in metadata


@pytest.mark.thorough  # the contents are tested by default
def test_it_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """From an unpacked copy, in an empty folder, with the libraries of this environment."""
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "lib")
    empty = tmp_path / "empty"
    empty.mkdir()
    program = "import gateway.__main__ as it; print(it.__file__); it.main(['migrate'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=empty,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "lib")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        str(tmp_path / "lib/gateway/__main__.py"),
        f"The database is at revision {revisions()[-1]} (was empty).",
    ], done.stderr
    assert [path.name for path in empty.iterdir()] == ["gateway.db"]
