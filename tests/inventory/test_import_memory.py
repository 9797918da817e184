"""The memory of an import does not grow with the file."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.inventory.files import select
from tests.make_dump import write_dump

pytestmark = pytest.mark.thorough

PROGRAM = """
import sys
from pathlib import Path
from gateway.inventory.imports.importer import import_files
from tests.process_memory import peak_resident_bytes
import_files(sys.argv[1], [Path(sys.argv[2])], tenant="default")
print(peak_resident_bytes())
"""


def test_import_memory_is_bounded(url: str, tmp_path: Path) -> None:
    """All snapshots belong to one machine, so memory must not grow with the size of a machine either."""
    peaks = []
    for number, snapshots in enumerate((1_000, 30_000)):
        path = tmp_path / f"{snapshots}.json"
        with path.open("w", encoding="utf-8") as out:
            write_dump(out, 1, snapshots, snapshots)
        run = subprocess.run([sys.executable, "-c", PROGRAM, url, path], capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout) >> 20)
        assert select(url, "SELECT count(*) FROM snapshot") == [(snapshots,)], number
    # The larger file has 17 MB, and its records would take several times that as Python objects. The limit allows for
    # caches of fixed size that fill up.
    assert peaks[1] - peaks[0] < 60, peaks
