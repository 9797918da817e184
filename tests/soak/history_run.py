"""Runs gateways, clients and injected faults, waits until all operations have ended, and checks the history."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from tests.crash.world import TREE, Home
from tests.forked_gateway import Prepare
from tests.soak.clients import Clients
from tests.soak.fleet import FaultInjector, Fleet
from tests.soak.history import FINAL, History, Operation, Tree, violations
from tests.waiting import until_async

_TIMEOUT = 120.0  # seconds, for the clients to stop, for all operations to end, and for a refresh
_SUBSCRIBERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """The parameters of a run."""

    gateways: int
    clients: int
    machines: int
    seconds: float
    seed: int = 1
    prepare: Prepare | None = None
    only: str | None = None  # the only kind of fault to inject
    latency_ms: int = 20  # of the provider
    logs: Path | None = None


def run_history(home: Home, plan: RunPlan, print_line: Callable[[str], None]) -> tuple[History, list[str]]:
    """Returns the recorded history and its violations."""
    machines = [home.machine(plan.latency_ms) for _ in range(plan.machines)]
    fleet = Fleet(home, plan.gateways, prepare=plan.prepare, logs=plan.logs)
    try:
        history, clients, injector = asyncio.run(_run(home, fleet, machines, plan))
    finally:
        fleet.close()
    found = violations(history)
    acknowledged = sum(attempt.operations is not None for attempt in history.attempts)
    ends = {state: sum(operation.state == state for operation in history.operations) for state in sorted(FINAL)}
    print_line(f"{home.kind}: {plan.gateways} gateways, {plan.clients} clients, {plan.seconds:g} s, seed {plan.seed}")
    print_line(f"  faults: {_counts(injector.injected)}")
    print_line(
        f"  {len(history.attempts):,} requests, {acknowledged:,} answered; unknown: {_counts(clients.unknown_outcomes)}"
    )
    print_line(f"  {len(history.operations):,} operations: {_counts(ends)}; {len(history.reads):,} reads")
    print_line(f"  {sum(map(len, history.events.values())):,} events received; violations: {len(found)}")
    return history, found


async def _run(home: Home, fleet: Fleet, machines: list[int], plan: RunPlan) -> tuple[History, Clients, FaultInjector]:
    tree = Tree({name: parent for name, parent, _ in TREE}, next(name for name, _, current in TREE if current))
    history = History(before=dict.fromkeys(machines, tree))
    clients = Clients(fleet, machines, history, plan.seed)
    injector = FaultInjector(fleet, home, machines, plan.seed, plan.only)
    stop = asyncio.Event()
    listening = [asyncio.create_task(clients.subscribe(f"subscriber {n}")) for n in range(_SUBSCRIBERS)]
    await until_async(lambda: len(clients.subscribed) == _SUBSCRIBERS)  # before the first operation
    runs = [asyncio.create_task(clients.run(stop)) for _ in range(plan.clients)]
    injecting = asyncio.create_task(injector.run(stop))
    try:
        await asyncio.sleep(plan.seconds)
        stop.set()
        await asyncio.wait_for(asyncio.gather(injecting, *runs), _TIMEOUT)
        await _wait_for_ends(home, clients)
        await _refreshed(home)
        for machine in machines:
            history.gateway[machine] = await clients.read(machine)
    finally:
        for task in (*listening, *runs, injecting):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*listening, *runs, injecting, return_exceptions=True)
        await clients.close()
    _collect(home, history, machines)
    return history, clients, injector


async def _wait_for_ends(home: Home, clients: Clients) -> None:
    """Waits until all operations have ended and all subscribers have received the ends. A timeout is a violation."""
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        rows = home.rows("SELECT id, state FROM operation")
        if {state for _, state in rows} <= FINAL and clients.received_all({number for number, _ in rows}):
            return
        await asyncio.sleep(0.2)


async def _refreshed(home: Home) -> None:
    """Waits for another refresh of the provider, which shows the effects of operations whose outcome was unknown."""
    since = time.time()
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        ((observed,),) = home.rows("SELECT observed_at FROM provider WHERE name = 'sim'")
        if (_seconds(observed) or 0.0) > since:
            return
        await asyncio.sleep(0.2)


_OPERATIONS = (
    "SELECT o.id, o.kind, o.machine_id, o.snapshot_id, o.snapshot_name, o.state, o.error_code,"
    " o.created_at, o.started_at, o.finished_at, o.attempt, o.wish,"
    " (SELECT count(*) FROM log_ended WHERE what = CAST(o.id AS TEXT)),"
    " (SELECT count(*) FROM log_begun WHERE what = o.token),"
    " (SELECT count(*) FROM log_made WHERE what = o.token),"
    " EXISTS (SELECT 1 FROM simulated_task t WHERE t.token = o.token AND t.applied AND t.error IS NULL)"
    " FROM operation o WHERE o.kind <> 'REFRESH_MACHINE' ORDER BY o.id"
)


def _collect(home: Home, history: History, machines: list[int]) -> None:
    """Adds the final contents of the database and of the provider to the history."""
    for log in ("log_ended", "log_begun", "log_made"):
        home.rows(f"CREATE INDEX ix_{log} ON {log} (what)")
    for *row, created, started, finished, attempts, payload, ends, tasks, made, took_effect in home.rows(_OPERATIONS):
        times = [_seconds(moment) for moment in (created, started, finished)]
        description = orjson.loads(payload).get("description")
        values: list[Any] = [*row, *times, ends, tasks, made, bool(took_effect), attempts, description]
        history.operations.append(Operation(*values))
    for key, answer in home.rows("SELECT key, answer FROM idempotency_key"):
        numbers = (outcome["operation"] for outcome in orjson.loads(answer))
        history.keys[key] = tuple(number for number in numbers if number is not None)
    for machine in machines:
        picture = home.provider_picture(machine)
        current = next((name for name, _, is_current in picture if is_current), None)
        history.provider[machine] = Tree({name: parent for name, parent, _ in picture}, current)


def _seconds(moment: Any) -> float | None:
    if moment is None:
        return None
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    seconds: float = moment.timestamp()
    return seconds


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items())) or "none"
