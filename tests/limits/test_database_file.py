"""The SQLite file contains hashes of tokens and the inventory: only the user that runs the gateway may read it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.store.migrate import migrate
from tests.serving import served


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The usual umask, with which new files are readable by all users."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def permissions(directory: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}


def test_the_file_and_its_companions_are_private(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/gateway.db"
    migrate(url)
    with served(Settings(database_url=url)) as gateway:
        assert gateway.ask("{ viewer { name } }") == {"viewer": {"name": "local"}}
        assert permissions(tmp_path) == {"gateway.db": 0o600, "gateway.db-wal": 0o600, "gateway.db-shm": 0o600}


def test_the_permissions_of_an_existing_file_are_kept(tmp_path: Path) -> None:
    """An operator may have given a group access, for backups."""
    file = tmp_path / "gateway.db"
    file.touch(0o640)
    migrate(f"sqlite:///{file}")
    assert permissions(tmp_path) == {"gateway.db": 0o640}


def test_a_link_to_a_file_that_does_not_exist_yet(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "gateway.db")
    migrate(f"sqlite:///{tmp_path}/link.db")
    assert stat.S_IMODE((tmp_path / "gateway.db").stat().st_mode) == 0o600
