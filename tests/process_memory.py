"""Memory and CPU time of processes, from Linux's /proc. The process that is measured needs no support for it."""

import os
import resource
from pathlib import Path


def process_tree(pid: int) -> list[int]:
    """The process and its descendants."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            try:
                waiting += map(int, task.read_text().split())
            except OSError:  # the process has ended
                continue
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory of the process tree, without shared mappings, which are the cached pages of SQLite's file."""
    total = 0
    for member in process_tree(pid):
        try:
            lines = Path(f"/proc/{member}/smaps").read_text().splitlines()
        except OSError:  # the process has ended
            continue
        private = True
        for line in lines:
            words = line.split()
            if not words[0].endswith(":"):  # first line of a mapping: addresses, permissions, offset, file
                private = words[1].endswith("p")
            elif words[0] == "Rss:" and private:
                total += int(words[1]) * 1_024
    return total


def anonymous_bytes(pid: int) -> int:
    """Resident memory of the process tree that no file backs. Cheaper to read than `resident_bytes`."""
    total = 0
    for member in process_tree(pid):
        try:
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
        except OSError:  # the process has ended
            continue
        total += sum(int(line.split()[1]) * 1_024 for line in lines if line.startswith("RssAnon:"))
    return total


def cpu_seconds(pid: int) -> float:
    """CPU time that the process tree has used so far, without children that have ended."""
    ticks = 0
    for member in process_tree(pid):
        try:
            text = Path(f"/proc/{member}/stat").read_text()
        except OSError:  # the process has ended
            continue
        user, system = text.rpartition(")")[2].split()[11:13]  # the name before may contain blanks
        ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_resident_bytes() -> int:
    """The most resident memory that this process has had since it started, shared mappings included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
