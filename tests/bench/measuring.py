"""The rounds: reads with all systems running, all but one frozen, A B A B per workload; writes one by one."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.bench import load, machine, world
from tests.bench.data import Database, Size
from tests.bench.load import Sample
from tests.bench.machine import Cores
from tests.bench.processes import Failed, Server
from tests.bench.systems import System
from tests.bench.workloads import (
    FIRST_MACHINE,
    WALK_MACHINES,
    WALK_SNAPSHOTS,
    Cursors,
    Workload,
    canonical,
    differences,
    machine_id,
)
from tests.process_memory import resident_bytes

PATH = "/graphql"
_COMPARED = 6  # requests per workload whose responses must be equal
_BURSTS = 20  # maximum duration of one measurement
_SETTLE = 60.0  # seconds for the first refresh of a gateway


@dataclass(slots=True)
class Figures:
    """One system under one workload: a sample per round, with CPU and memory."""

    rounds: list[Sample] = field(default_factory=list)
    cpu: float = 0.0
    database_cpu: float = 0.0
    resident: int = 0

    @property
    def all(self) -> Sample:
        total = Sample()
        for sample in self.rounds:
            total.add(sample)
        return total


Results = dict[tuple[str, str], Figures]  # by workload and system


@dataclass(frozen=True, slots=True)
class Plan:
    """Workloads and systems, duration and number of rounds."""

    systems: Sequence[System]
    workloads: Sequence[Workload]
    databases: Mapping[str, Database]  # by the name of the database in systems
    tokens: Mapping[str, str]  # sent with requests, by system
    postgres: Sequence[int]  # the processes
    cores: Cores
    logs: Path
    seconds: float
    rounds: int
    say: Callable[[str], None]

    def cpu_of_postgres(self) -> float:
        return sum(map(machine.cpu_seconds, self.postgres))

    def database(self, system: System) -> Database:
        return self.databases[system.database]


@dataclass(slots=True)
class _Up:
    """A running system."""

    system: System
    server: Server
    requests: dict[str, list[bytes]] = field(default_factory=dict)  # by workload

    def prepare(self, plan: Plan, workloads: Sequence[Workload], cursors: Cursors) -> None:
        for workload in workloads:
            bodies = workload.bodies(self.system.dialect, plan.database(self.system).size, cursors)
            token = plan.tokens[self.system.name]
            self.requests[workload.name] = [load.http(self.server.port, PATH, body, token) for body in bodies]

    def run(self, workload: Workload, seconds: float, requests: Sequence[bytes] | None = None) -> Sample:
        """Reads are repeated; writes are sent once each."""
        chosen = self.requests[workload.name] if requests is None else requests
        try:
            return load.run(
                self.server.port,
                chosen if workload.burst else itertools.cycle(chosen),
                workload.connections,
                seconds,
                workload.good,
            )
        except (Failed, OSError) as error:
            raise Failed(
                f"{self.system.title}, {workload.name}: {error or type(error).__name__}\n{self.server.tail()}"
            ) from None


def measure(plan: Plan) -> Results:
    """Runs all measurements. Raises Failed for responses that differ or are errors."""
    results: Results = {}
    reads = [workload for workload in plan.workloads if not workload.burst]
    writes = [workload for workload in plan.workloads if workload.burst]
    with ExitStack() as stack:
        control = {
            name: stack.enter_context(world.engine(database.url).connect()) for name, database in plan.databases.items()
        }
        for connection in control.values():
            world.undo_all(connection)  # leftovers of a killed run
        if reads:
            _measure_reads(plan, reads, control, results)
        if writes:
            for round_ in range(plan.rounds):
                for system in plan.systems:
                    _measure_writes(plan, system, writes, control[system.database], round_, results)
    return results


# ---- reads


def _measure_reads(
    plan: Plan, workloads: Sequence[Workload], control: dict[str, sa.Connection], results: Results
) -> None:
    with ExitStack() as stack:
        up = []
        for system in plan.systems:
            plan.say(f"Starting {system.title}")
            one = _Up(system, stack.enter_context(_started(plan, system, control[system.database])))
            one.prepare(plan, workloads, _cursors(one, plan.database(system).size, plan.tokens[system.name]))
            one.server.freeze()
            up.append(one)
        for workload in workloads:
            _compare(plan, workload, up)
        for workload in workloads:
            for round_ in range(plan.rounds):
                for one in up:
                    with _thawed(one.server):
                        one.run(workload, max(plan.seconds / 3, 0.3) if round_ else max(plan.seconds / 2, 0.6))
                        figures = results.setdefault((workload.name, one.system.name), Figures())
                        _measured(plan, one, figures, partial(one.run, workload, plan.seconds))
                        _tell(plan, workload, one.system, round_, figures)


@contextmanager
def _thawed(server: Server) -> Iterator[None]:
    server.thaw()
    try:
        yield
    finally:
        server.freeze()


@contextmanager
def _started(plan: Plan, system: System, control: sa.Connection) -> Iterator[Server]:
    """The system, listening; a gateway has completed its first refresh."""
    before = world.observed(control) if system.gateway else None
    world.make_refresh_due(control)
    with system.start(plan.database(system).url, plan.cores, plan.logs) as server:
        server.await_listening()
        deadline = time.monotonic() + _SETTLE
        while system.gateway and world.observed(control) == before:
            if time.monotonic() > deadline:
                raise Failed(f"{system.title} has not read its provider after {_SETTLE:g} seconds:\n{server.tail()}")
            time.sleep(0.1)
        yield server


def _cursors(one: _Up, size: Size, token: str) -> Cursors:
    """Pages to the positions where the workloads begin, as a client would."""
    dialect = one.system.dialect

    def walk(document: str, steps: Sequence[int], **fixed: str) -> list[str]:
        cursors: list[str] = []
        for step in steps:
            variables: dict[str, Any] = {**fixed, "after": cursors[-1] if cursors else None}
            if "$first" in document:
                variables["first"] = step
            body = json.dumps({"query": document, "variables": variables}).encode()
            data = json.loads(load.ask(one.server.port, PATH, body, token))["data"]
            cursors.append((data.get("vm") or data)["page"]["pageInfo"]["endCursor"])
        return cursors

    # The page after the first cursor is the second: the first contains the largest machine. The last are not imported.
    machines = walk(WALK_MACHINES[dialect], [50] * (size.machines // 50 - 1))
    thousands, steps = size.depth // 1_000, 20
    places = walk(WALK_SNAPSHOTS[dialect], [1_000] * thousands + [7] * steps, id=machine_id(dialect, FIRST_MACHINE))
    return Cursors(machines, places[thousands:], places[:thousands])


def _compare(plan: Plan, workload: Workload, up: Sequence[_Up]) -> None:
    """Raises Failed unless all systems with the same data return the same responses to the first few requests."""
    firsts: dict[Size, tuple[System, list[object]]] = {}
    for one in up:
        with _thawed(one.server):
            answers = [
                canonical(one.run(replace(workload, connections=1), 0.0, [request]).answer)
                for request in one.requests[workload.name][:_COMPARED]
            ]
        other, first = firsts.setdefault(plan.database(one.system).size, (one.system, answers))
        found = next(differences(first, answers), None)
        if found:
            raise Failed(f"{workload.name}: {other.title} and {one.system.title} differ: {found}")
    plan.say(f"{workload.name}: {len(up)} systems agree on {_COMPARED} requests")


# ---- writes


def _measure_writes(
    plan: Plan,
    system: System,
    workloads: Sequence[Workload],
    control: sa.Connection,
    round_: int,
    results: Results,
) -> None:
    with _started(plan, system, control) as server:
        one = _Up(system, server)
        one.prepare(plan, workloads, Cursors((), (), ()))
        if system.gateway:
            _hold(server, control, plan.tokens[system.name])
        for workload in workloads:
            _burst(one, workload, control, plan.seconds / 3)  # warm-up
            figures = results.setdefault((workload.name, system.name), Figures())
            _measured(plan, one, figures, partial(_bursts, plan, one, workload, control))
            _tell(plan, workload, system, round_, figures)
    world.undo_all(control)


def _bursts(plan: Plan, one: _Up, workload: Workload, control: sa.Connection) -> Sample:
    total = Sample()
    for _ in range(_BURSTS):
        total.add(_burst(one, workload, control, plan.seconds - total.seconds))
        if total.seconds >= plan.seconds:
            break
    return total


def _burst(one: _Up, workload: Workload, control: sa.Connection, seconds: float) -> Sample:
    """Sends as many writes as the queues hold, then undoes them. Raises Failed unless all of them were recorded."""
    sample = one.run(workload, seconds)
    expected = len(sample.latencies) * workload.rows
    created, deleted, operations = world.written(control)
    if operations != expected or created + deleted != expected:
        raise Failed(
            f"{one.system.title}, {workload.name}: {expected} were acknowledged, but there are {operations} operations"
            f" and {created + deleted} snapshots that wait"
        )
    world.undo(control)
    return sample


def _hold(server: Server, control: sa.Connection, token: str) -> None:
    """Gives the worker one operation that does not end, so that it claims none of the measured ones."""
    query = "mutation ($input: CreateSnapshotInput!) { createSnapshot(input: $input) { errors { message } } }"
    variables = {"input": {"machineId": machine_id("", world.HOLDER), "name": "holder"}}
    load.ask(server.port, PATH, json.dumps({"query": query, "variables": variables}).encode(), token)
    deadline = time.monotonic() + _SETTLE
    while not world.held(control):
        if time.monotonic() > deadline:
            raise Failed(f"the gateway's worker does nothing:\n{server.tail()}")
        time.sleep(0.05)


# ---- both


def _measured(plan: Plan, one: _Up, figures: Figures, work: Callable[[], Sample]) -> None:
    database = plan.database(one.system)
    cpu, database_cpu = machine.cpu_seconds(one.server.pid), plan.cpu_of_postgres()
    figures.rounds.append(work())
    figures.cpu += machine.cpu_seconds(one.server.pid) - cpu
    if database.is_postgresql:
        figures.database_cpu += plan.cpu_of_postgres() - database_cpu
    figures.resident = max(figures.resident, resident_bytes(one.server.pid))


def _tell(plan: Plan, workload: Workload, system: System, round_: int, figures: Figures) -> None:
    rate = figures.rounds[-1].rate
    plan.say(f"{workload.name:4} round {round_ + 1}  {system.title:38} {rate:9.1f} requests/s")
