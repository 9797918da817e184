"""A run: gateways, clients, misfortune; then quiet; then everything that is known, for the checker."""

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
from tests.forked import Prepare
from tests.soak.clients import Clients
from tests.soak.fleet import Fleet, Misfortune
from tests.soak.history import FINAL, History, Operation, Tree, violations

_PATIENCE = 120.0  # seconds after which quiet will not come any more
_SUBSCRIBERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How large and how long."""

    gateways: int
    clients: int
    machines: int
    seconds: float
    seed: int = 1
    prepare: Prepare | None = None
    only: str | None = None  # the one kind of misfortune
    latency_ms: int = 20  # of the provider
    logs: Path | None = None


def play(home: Home, plan: Plan, say: Callable[[str], None]) -> tuple[History, list[str]]:
    """What happened, and what of it cannot be."""
    machines = [home.machine(plan.latency_ms) for _ in range(plan.machines)]
    fleet = Fleet(home, plan.gateways, prepare=plan.prepare, logs=plan.logs)
    try:
        history, clients, misfortune = asyncio.run(_play(home, fleet, machines, plan))
    finally:
        fleet.close()
    found = violations(history)
    acknowledged = sum(attempt.operations is not None for attempt in history.attempts)
    ends = {state: sum(operation.state == state for operation in history.operations) for state in sorted(FINAL)}
    say(f"{home.kind}: {plan.gateways} gateways, {plan.clients} clients, {plan.seconds:g} s, seed {plan.seed}")
    say(f"  misfortune: {_counts(misfortune.done)}")
    say(f"  {len(history.attempts):,} requests, {acknowledged:,} answered; unknown: {_counts(clients.unclear)}")
    say(f"  {len(history.operations):,} operations: {_counts(ends)}; {len(history.reads):,} reads")
    say(f"  {sum(map(len, history.seen.values())):,} changes told; violations: {len(found)}")
    return history, found


async def _play(home: Home, fleet: Fleet, machines: list[int], plan: Plan) -> tuple[History, Clients, Misfortune]:
    tree = Tree({name: parent for name, parent, _ in TREE}, next(name for name, _, current in TREE if current))
    history = History(before=dict.fromkeys(machines, tree))
    clients = Clients(fleet, machines, history, plan.seed)
    misfortune = Misfortune(fleet, home, machines, plan.seed, plan.only)
    stop = asyncio.Event()
    listening = [asyncio.create_task(clients.subscribe(f"subscriber {n}")) for n in range(_SUBSCRIBERS)]
    await asyncio.sleep(0.5)  # what they have not subscribed to yet they need not see
    lives = [asyncio.create_task(clients.live(stop)) for _ in range(plan.clients)]
    harm = asyncio.create_task(misfortune.strike(stop))
    try:
        await asyncio.sleep(plan.seconds)
        stop.set()
        await asyncio.wait_for(asyncio.gather(harm, *lives), _PATIENCE)
        await _quiet(home, clients)
        await _refreshed(home)
        for machine in machines:
            history.gateway[machine] = await clients.read(machine)
    finally:
        for task in (*listening, *lives, harm):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*listening, *lives, harm, return_exceptions=True)
        await clients.close()
    _look(home, history, machines)
    return history, clients, misfortune


async def _quiet(home: Home, clients: Clients) -> None:
    """Until every operation has ended, and every subscriber has been told. What does not come is a violation."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        rows = home.rows("SELECT id, state FROM operation")
        if {state for _, state in rows} <= FINAL and clients.heard_all({number for number, _ in rows}):
            return
        await asyncio.sleep(0.2)


async def _refreshed(home: Home) -> None:
    """Until the provider has been read again: what an outcome that was unknown has done is known then."""
    since = time.time()
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        ((observed,),) = home.rows("SELECT observed_at FROM provider WHERE name = 'sim'")
        if (_seconds(observed) or 0.0) > since:
            return
        await asyncio.sleep(0.2)


_OPERATIONS = (
    "SELECT o.id, o.kind, o.machine_id, o.snapshot_id, o.snapshot_name, o.state, o.error_code,"
    " o.created_at, o.started_at, o.finished_at,"
    " (SELECT count(*) FROM log_ended WHERE what = CAST(o.id AS TEXT)),"
    " (SELECT count(*) FROM log_begun WHERE what = o.token),"
    " (SELECT count(*) FROM log_made WHERE what = o.token),"
    " EXISTS (SELECT 1 FROM simulated_task t WHERE t.token = o.token AND t.applied AND t.error IS NULL)"
    " FROM operation o WHERE o.kind <> 'REFRESH_MACHINE' ORDER BY o.id"
)


def _look(home: Home, history: History, machines: list[int]) -> None:
    """What the database and the provider hold."""
    for log in ("log_ended", "log_begun", "log_made"):
        home.rows(f"CREATE INDEX ix_{log} ON {log} (what)")
    for *row, created, started, finished, ends, begun, made, happened in home.rows(_OPERATIONS):
        times = [_seconds(moment) for moment in (created, started, finished)]
        known: list[Any] = [*row, *times, ends, begun, made, bool(happened)]
        history.operations.append(Operation(*known))
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
