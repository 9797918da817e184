"""An import's memory does not grow with its file."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.inventory.files import select
from tests.make_dump import write_dump

pytestmark = pytest.mark.thorough

PROGRAM = """
import resource, sys
from pathlib import Path
from gateway.inventory.imports.run import import_file
import_file(sys.argv[1], Path(sys.argv[2]), tenant="default")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_is_bounded(url: str, tmp_path: Path) -> None:
    """All snapshots are one machine's: nothing about it may be kept in memory either."""
    peaks = []
    for number, snapshots in enumerate((1_000, 30_000)):
        path = tmp_path / f"{snapshots}.json"
        with path.open("w", encoding="utf-8") as out:
            write_dump(out, 1, snapshots, snapshots)
        run = subprocess.run([sys.executable, "-c", PROGRAM, url, path], capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout) // 1_024)
        assert select(url, "SELECT count(*) FROM snapshot") == [(snapshots,)], number
    # The file has 17 MB, and its records as Python objects several times that; caches of fixed size may fill.
    assert peaks[1] - peaks[0] < 60, peaks
