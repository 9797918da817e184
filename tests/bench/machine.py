"""The machine of the benchmark: its cores, resource use of processes, and its description."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.process_memory import process_tree

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


def cpu_seconds(pid: int) -> float:
    """CPU used by the process tree, in user and kernel mode, ended children included."""
    ticks = 0
    for member in process_tree(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS


def description() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, {memory:.0f} GiB, Linux {platform.release()}, CPython {platform.python_version()}"
