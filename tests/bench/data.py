"""The data: created by `tests/make_dump.py` and `gateway import`, and reused until the code that creates it changes."""

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from gateway.store import migrate
from tests import make_dump
from tests.bench import world
from tests.bench.machine import Cores
from tests.bench.postgres import Postgres
from tests.bench.processes import Failed

ROOT = Path(__file__).absolute().parents[2]
_FUNCTIONS = Path(__file__).with_name("node") / "functions.sql"


@dataclass(frozen=True, slots=True)
class Size:
    """Amount of data. The first machine has the most snapshots."""

    machines: int
    snapshots: int
    big: int

    @property
    def depth(self) -> int:
        """Offset of W3 in the machine with the most snapshots."""
        return self.big * 9 // 10

    def __str__(self) -> str:
        return f"{self.machines:,} machines, {self.snapshots:,} snapshots, {self.big:,} of them of one machine"


FULL = Size(1_200, 1_000_000, 100_000)
QUICK = Size(1_200, 100_000, 10_000)
SMALL = Size(100, 10_000, 1_000)  # the smaller data set that `--growth` compares with


class Database(NamedTuple):
    """Location and contents of a database."""

    url: str
    size: Size

    @property
    def is_postgresql(self) -> bool:
        return self.url.startswith("postgresql")

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return Path(self.url.removeprefix("sqlite:///"))


class Data:
    """The databases of one size, in a folder of their own."""

    def __init__(self, cache: Path, size: Size, say: Callable[[str], None]) -> None:
        self.size = size
        self._say = say
        self._folder = cache / f"{size.machines}-{size.snapshots}-{size.big}"
        self.sqlite = self._folder / "sqlite" / "gateway.db"
        self.postgres = self._folder / "postgres"

    @property
    def sqlite_url(self) -> str:
        return f"sqlite:///{self.sqlite}"

    def prepare(self, kinds: set[str], cores: Cores) -> None:
        """Creates the databases of these kinds if they are missing or of another schema."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if "sqlite" in kinds and self._stale("sqlite"):
            self.sqlite.parent.mkdir()
            self._fill(self.sqlite_url)
            self._stamp("sqlite").write_text(_fingerprint())
        if "postgresql" in kinds and self._stale("postgres"):
            with Postgres(self.postgres, cores=cores.load, loading=True) as server:
                self._fill(server.url)
                _finish_postgresql(server.url)
            self._stamp("postgres").write_text(_fingerprint())

    def _stamp(self, kind: str) -> Path:
        return self._folder / f"{kind}.stamp"

    def _stale(self, kind: str) -> bool:
        """Whether the database must be created. An outdated one is removed."""
        stamp = self._stamp(kind)
        if stamp.exists() and stamp.read_text() == _fingerprint():
            return False
        stamp.unlink(missing_ok=True)
        shutil.rmtree(self._folder / kind, ignore_errors=True)
        return True

    def _fill(self, url: str) -> None:
        begun = time.monotonic()
        kind = url.partition(":")[0]
        self._say(f"Making the data for {kind}: {self.size}")
        command: list[str | Path] = [sys.executable, "-m", "gateway", "import", self._dump(), "--database-url", url]
        imported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
        if imported.returncode:
            raise Failed(f"the import ended with {imported.returncode}:\n{imported.stderr[-2_000:]}")
        world.add(url)
        self._say(f"Made the data for {kind} in {time.monotonic() - begun:.0f} s")

    def _dump(self) -> Path:
        dump = self._folder / "dump.json"
        stamp = self._stamp("dump")
        if not (stamp.exists() and stamp.read_text() == _fingerprint()):
            with dump.open("w", encoding="utf-8") as out:
                make_dump.write_dump(out, self.size.machines, self.size.snapshots, self.size.big)
            stamp.write_text(_fingerprint())
        return dump


def _finish_postgresql(url: str) -> None:
    """VACUUM and ANALYZE, as autovacuum would do later, and the functions that PostGraphile's mutations call."""
    with world.engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(_FUNCTIONS.read_text().replace("%", "%%"))
        connection.execute(sa.text("VACUUM (ANALYZE, FREEZE)"))
        connection.execute(sa.text("CHECKPOINT"))


def _fingerprint() -> str:
    """A hash of everything that determines the data."""
    digest = hashlib.sha256()
    migrations = Path(migrate.__file__).parent / "migrations"
    for file in (*sorted(migrations.rglob("*.py")), Path(make_dump.__file__), Path(world.__file__), _FUNCTIONS):
        digest.update(file.read_bytes())
    return digest.hexdigest()
