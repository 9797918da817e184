"""The guest's machine code matches its assembly source."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hypervisors.guest import SOURCE, sector


def test_code_matches_source(tmp_path: Path) -> None:
    if not shutil.which("as") or not shutil.which("ld"):
        pytest.skip("The GNU binutils are not installed.")
    (tmp_path / "boot.s").write_text(SOURCE)
    for argv in (
        ["as", "--32", "-o", "boot.o", "boot.s"],
        ["ld", "-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00", "-e", "start", "-o", "boot", "boot.o"],
    ):
        subprocess.run(argv, cwd=tmp_path, check=True)
    assert (tmp_path / "boot").read_bytes() == sector()
