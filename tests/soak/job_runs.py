"""Kills and freezes gateways on one PostgreSQL, and checks that each cluster job runs once at a time, and in time.

There are two sources. A trigger logs each change of a lease, which shows when jobs were claimed and when they could
have been. The runs themselves write records with their fences (`tests.soak.recorded_jobs`), which show what was done.
"""

import asyncio
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from gateway.config import Settings
from tests.crash.world import Home
from tests.forked_gateway import Prepare, restarted
from tests.soak.recorded_jobs import CREATE_RECORDS, PERIOD, record_jobs
from tests.waiting import PATIENCE, until

LEASE = 3.0  # seconds
ALLOWED = LEASE + 1.0  # seconds in which a job is claimed: within a lease, and a second for the machine
_STALLS = 8  # how often a claim, which has several steps, can be delayed by as much as a single query was at most
_WATCH_INTERVAL = 0.1  # seconds
_FAULTS = 2  # at the same time, so that at least two of four gateways work
_MACHINES = 20

_LOG_TABLE = (
    "CREATE TABLE job_lease_log (id BIGINT GENERATED ALWAYS AS IDENTITY, at TIMESTAMPTZ, name TEXT, owner TEXT,"
    " fence INT, lease_until TIMESTAMPTZ, next_run_at TIMESTAMPTZ)"
)
_LOG_FUNCTION = (
    "CREATE FUNCTION job_lease_log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO job_lease_log"
    " (at, name, owner, fence, lease_until, next_run_at) VALUES (clock_timestamp(), NEW.name, NEW.owner, NEW.fence,"
    " NEW.lease_until, NEW.next_run_at); RETURN NULL; END'"
)
_LOG_TRIGGER = (
    "CREATE TRIGGER job_lease_log AFTER INSERT OR UPDATE ON job_lease FOR EACH ROW EXECUTE FUNCTION job_lease_log()"
)


class LeaseChange(NamedTuple):
    """The row of a job after a change. Times are in seconds."""

    job: str
    at: float
    owner: str | None
    fence: int
    lease_until: float | None
    next_run_at: float


class RunRecord(NamedTuple):
    """What a run has written: `event` is "begin", "step" or "end"."""

    job: str
    fence: int
    pid: int
    event: str


@dataclass
class JobReport:
    """What became of a job. Times are in seconds."""

    job: str
    allowed: float = ALLOWED
    claims: int = 0
    ended: int = 0  # claims that were ended by their runs
    records: int = 0
    overlaps: int = 0  # claims of a job with a lease in force, and records of a run after those of a later one
    longest_gap: float = 0.0  # from the last change of a lease by its owner to the next claim
    period: float = PERIOD  # the longest pause that an end has asked for
    late: int = 0  # claims, and jobs that were not claimed, more than `allowed` after they could have been
    latest: float = 0.0  # the longest time from when a job could be claimed to when it was


def report_jobs(
    changes: Sequence[LeaseChange], records: Iterable[RunRecord], end: float, allowed: float = ALLOWED
) -> list[JobReport]:
    """A report of each job, from the changes in their order, the records in theirs, and the time when the run ended."""
    reports = {}
    for job, own in groupby(sorted(changes, key=lambda change: change.job), lambda change: change.job):
        reports[job] = JobReport(job, allowed)
        # A process that starts registers its jobs, which changes nothing.
        changed = [next(same) for _, same in groupby(own, lambda change: change._replace(at=0.0))]
        _check_leases(reports[job], changed, end)
    highest: dict[str, tuple[int, int]] = {}
    for record in records:
        report = reports[record.job]
        report.records += 1
        run = (record.fence, record.pid)
        before = highest.setdefault(record.job, run)
        if run[0] < before[0] or (run[0] == before[0] and run != before):
            report.overlaps += 1
        highest[record.job] = max(before, run)
    return list(reports.values())


def _check_leases(report: JobReport, changes: list[LeaseChange], end: float) -> None:
    for before, after in pairwise(changes):
        free_at = max(before.next_run_at, before.lease_until or 0.0)
        if after.fence > before.fence:
            report.claims += 1
            report.overlaps += before.lease_until is not None and after.at < before.lease_until
            report.longest_gap = max(report.longest_gap, after.at - before.at)
            _check_delay(report, after.at - free_at)
        elif before.owner is not None and after.owner is None:
            report.ended += 1
            report.period = max(report.period, after.next_run_at - after.at)
    last = changes[-1]
    _check_delay(report, end - max(last.next_run_at, last.lease_until or 0.0))


def _check_delay(report: JobReport, seconds: float) -> None:
    report.late += seconds > report.allowed
    report.latest = max(report.latest, seconds)


class Members:
    """Gateways that are killed and frozen. Each is hit by one fault at a time."""

    def __init__(self, settings: Settings, number: int, prepare: Prepare, logs: Path | None) -> None:
        files = [None if logs is None else logs / f"gateway-{index}.log" for index in range(number)]
        self._arguments = [(settings, prepare, file) for file in files]
        self._gateways = [restarted(*arguments) for arguments in self._arguments]
        self._idle = set(range(number))
        self.faults: Counter[str] = Counter()

    async def inject(self, chance: random.Random, stop: asyncio.Event) -> None:
        """Kills or freezes one gateway after the other until `stop`."""
        while not stop.is_set():
            await asyncio.sleep(chance.uniform(0.2, 2.0))
            index = chance.choice(sorted(self._idle))
            self._idle.remove(index)
            fault = chance.choice(("kill", "freeze", "freeze"))
            self.faults[fault] += 1
            gateway = self._gateways[index]
            if fault == "kill":
                await asyncio.to_thread(gateway.kill)
                self._gateways[index] = await asyncio.to_thread(restarted, *self._arguments[index])
            else:
                gateway.signal(signal.SIGSTOP)
                await asyncio.sleep(LEASE * chance.uniform(0.2, 3.0))
                gateway.signal(signal.SIGCONT)
            self._idle.add(index)

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Sends a signal to the gateway whose process id is `pid`."""
        self.faults[number.name] += 1
        next(gateway for gateway in self._gateways if gateway.pid == pid).signal(number)

    def close(self) -> None:
        for gateway in self._gateways:
            gateway.kill()


class StallWatch:
    """Measures, while the block runs, how long a query that takes some milliseconds was delayed at most.

    A busy machine delays the gateways as well, which is not their fault.
    """

    def __init__(self, home: Home) -> None:
        self.longest = 0.0  # seconds
        self._home = home
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "StallWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(_WATCH_INTERVAL):
            self._home.rows("SELECT 1")
            now = time.monotonic()
            self.longest, before = max(self.longest, now - before - _WATCH_INTERVAL), now


Faults = Callable[[Members, Home], None]


def random_faults(seconds: float, seed: int) -> Faults:
    """Kills and freezes gateways at random times for `seconds`."""

    async def inject(members: Members) -> None:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for index in range(_FAULTS):
                group.create_task(members.inject(random.Random(f"{seed} {index}"), stop))
            await asyncio.sleep(seconds)
            stop.set()

    return lambda members, _home: asyncio.run(inject(members))


def freeze_owner(members: Members, home: Home) -> None:
    """Freezes the gateway that runs `soak:stream` until another one runs it, and returns when the first one writes.

    Only a gateway that ignores the loss of its lease writes then. One that was frozen within a transaction has lost its
    connection instead, so there are five attempts.
    """
    newest = "SELECT pid FROM job_record WHERE job = 'soak:stream' ORDER BY id DESC LIMIT 1"
    for _ in range(5):
        ((owner,),) = until(lambda: home.rows(newest))
        members.signal(owner, signal.SIGSTOP)
        _wait_for_other_rows(home, newest, [(owner,)], PATIENCE)
        written = f"SELECT count(*) FROM job_record WHERE job = 'soak:stream' AND pid = {owner}"
        before = home.rows(written)
        members.signal(owner, signal.SIGCONT)
        with suppress(AssertionError):
            _wait_for_other_rows(home, written, before, LEASE)
            return


def _wait_for_other_rows(home: Home, query: str, before: Sequence[Any], seconds: float) -> None:
    until(lambda: home.rows(query) != before, seconds)


def run_jobs(
    home: Home,
    inject: Faults,
    print_line: Callable[[str], None],
    *,
    gateways: int = 4,
    prepare: Prepare = record_jobs,
    logs: Path | None = None,
) -> list[JobReport]:
    """Runs gateways on the PostgreSQL of `home` while `inject` hits them. Returns a report of each job."""
    assert home.server is not None
    for _ in range(_MACHINES):
        home.machine()
    for sql in (CREATE_RECORDS, _LOG_TABLE, _LOG_FUNCTION, _LOG_TRIGGER):
        home.rows(sql)
    settings = replace(
        home.rows.settings,
        database_url=home.server.url("world"),
        operation_lease=LEASE,
        refresh_interval=5.0,
        # Bounds how long the transaction of a frozen process can keep others from claiming its job.
        write_timeout=LEASE / 2,
        drain_timeout=0.1,
    )
    members = Members(settings, gateways, prepare, logs)
    try:
        with StallWatch(home) as stalls:
            inject(members, home)
        ((end,),) = home.rows("SELECT extract(epoch FROM clock_timestamp())::float")
    finally:
        members.close()
    changes = home.rows(
        "SELECT name, extract(epoch FROM at)::float, owner, fence, extract(epoch FROM lease_until)::float,"
        " extract(epoch FROM next_run_at)::float FROM job_lease_log ORDER BY id"
    )
    records = home.rows("SELECT job, fence, pid, event FROM job_record ORDER BY id")
    allowed = ALLOWED + _STALLS * stalls.longest
    reports = report_jobs([LeaseChange(*row) for row in changes], [RunRecord(*row) for row in records], end, allowed)
    faults = ", ".join(f"{kind} {number}" for kind, number in sorted(members.faults.items()))
    print_line(
        f"{gateways} gateways, lease {LEASE:g} s; faults: {faults}; longest stall of the machine {stalls.longest:.2f} s"
    )
    for line in _table(reports):
        print_line(f"  {line}")
    return reports


def _table(reports: Iterable[JobReport]) -> Iterator[str]:
    yield (
        f"{'job':<16}{'claims':>8}{'ended':>8}{'records':>9}{'overlaps':>10}{'longest gap':>13}{'limit':>8}"
        f"{'too late':>12}{'latest':>9}"
    )
    for report in reports:
        yield (
            f"{report.job:<16}{report.claims:>8}{report.ended:>8}{report.records:>9}{report.overlaps:>10}"
            f"{report.longest_gap:>11.2f} s{report.period + report.allowed:>6.0f} s"
            f"{report.late:>12}{report.latest:>7.2f} s"
        )


def failures(reports: Iterable[JobReport]) -> list[str]:
    """What must not have happened."""
    found = []
    for report in reports:
        if report.overlaps:
            found.append(f"{report.job}: {report.overlaps} runs overlap")
        if report.late:
            found.append(f"{report.job}: {report.late} times not claimed within {report.allowed:.3g} s")
        if report.longest_gap > report.period + report.allowed:
            found.append(
                f"{report.job}: a gap of {report.longest_gap:.2f} s, longer than its period and {report.allowed:.3g} s"
            )
        if not report.claims:
            found.append(f"{report.job}: never claimed")
    return found
