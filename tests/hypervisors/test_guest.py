"""The guest's bytes are what its source says."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hypervisors.guest import SOURCE, sector


def test_the_code_is_the_assembled_source(tmp_path: Path) -> None:
    if not shutil.which("as") or not shutil.which("ld"):
        pytest.skip("the GNU binutils are not installed")
    (tmp_path / "boot.s").write_text(SOURCE)
    for command in (
        ["as", "--32", "-o", "boot.o", "boot.s"],
        ["ld", "-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00", "-e", "start", "-o", "boot", "boot.o"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "boot").read_bytes() == sector()
