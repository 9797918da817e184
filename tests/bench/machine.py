"""The machine of the benchmark: its cores, resource use of processes, and its description."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Cores:
    """One core for the server that is measured, another for the load and PostgreSQL."""

    server: set[int]
    load: set[int]

    @classmethod
    def find(cls) -> "Cores":
        """With a single core both share it, and the figures are not meaningful."""
        usable = sorted(os.sched_getaffinity(0))
        return cls({usable[0]}, {usable[1 % len(usable)]})


@contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """Processes started within the block run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            try:
                waiting += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def cpu_seconds(pid: int) -> float:
    """CPU used by the process tree, in user and kernel mode, ended children included."""
    ticks = 0
    for member in tree(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS


def resident_bytes(pid: int, database: Path) -> int:
    """Resident memory of the process tree, without mapped pages of the database file, which are cache."""
    total, cache = 0, str(database.resolve())
    for member in tree(pid):
        try:
            mappings = Path(f"/proc/{member}/smaps").read_text().splitlines()
        except OSError:
            continue
        counts = True
        for line in mappings:
            words = line.split()
            if not words[0].endswith(":"):  # first line of a mapping
                counts = words[-1] != cache
            elif words[0] == "Rss:" and counts:
                total += int(words[1]) * 1_024
    return total


def description() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, {memory:.0f} GiB, Linux {platform.release()}, CPython {platform.python_version()}"
