"""Watches a gateway under attack: health checks, the metrics, memory and CPU time."""

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.process_memory import anonymous_bytes, cpu_seconds
from tests.soak.attacks.schedule import Schedule
from tests.soak.attacks.target import PROBE
from tests.soak.raw_client import RawConnection

_INTERVAL = 0.1  # seconds from the start of a probe to the start of the next one
_TIMEOUT = 10.0  # seconds of a probe
_MEMORY_INTERVAL = 0.05
_MAX_MEMORY = 4 << 30  # bytes at which the gateway is killed, to protect the host


@dataclass(slots=True)
class Probed:
    """Results of probing one path: the longest duration in seconds, and counts of failures by status or reason."""

    longest: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Watched:
    """What was seen from the beginning of the attack to the end of the schedule."""

    probes: dict[str, Probed]  # by path
    memory: int = 0  # the most memory without file mappings, in bytes
    cpu: float = 0.0  # seconds


async def watch(schedule: Schedule, urls: list[str], pid: int) -> Watched:
    """Probes the URLs and the process `pid`."""
    watched = Watched({url.rpartition("/")[2]: Probed() for url in urls})
    await asyncio.sleep(schedule.attack_begins - time.monotonic())
    cpu = cpu_seconds(pid)
    async with asyncio.TaskGroup() as group:
        group.create_task(_watch_memory(schedule, pid, watched))
        for url in urls:
            base, _, path = url.rpartition("/")
            group.create_task(_probe(schedule, base, path, watched.probes[path]))
    watched.cpu = cpu_seconds(pid) - cpu
    return watched


async def _probe(schedule: Schedule, base: str, path: str, probed: Probed) -> None:
    """Gets the path on a new connection, as balancers do."""
    while (started := time.monotonic()) < schedule.ends:
        connection = RawConnection(base, source=PROBE)
        try:
            async with asyncio.timeout(_TIMEOUT):
                status = (await connection.get(f"/{path}")).status
            failure = None if status == 200 else str(status)
        except TimeoutError:
            failure = "no answer"
        except (OSError, EOFError):
            failure = "connection lost"
        connection.close()
        duration = time.monotonic() - started
        probed.longest = max(probed.longest, duration)
        if failure is not None:
            probed.failures[failure] += 1
        await asyncio.sleep(_INTERVAL - duration)


async def _watch_memory(schedule: Schedule, pid: int, watched: Watched) -> None:
    while time.monotonic() < schedule.ends:
        watched.memory = max(watched.memory, anonymous_bytes(pid))
        if watched.memory > _MAX_MEMORY:
            os.kill(pid, signal.SIGKILL)
            return
        await asyncio.sleep(_MEMORY_INTERVAL)
