"""The crash table: one fault at one step of one operation, and what must be true afterwards."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from ctypes import c_int
from dataclasses import replace
from functools import partial
from multiprocessing.sharedctypes import RawValue
from typing import Any
from uuid import uuid4

import httpx2

from tests.crash.stepping import Stop, prepare, prepare_survivor
from tests.crash.world import RESTARTS, Home, Picture, home
from tests.databases import Databases
from tests.forked import CONTEXT, Forked
from tests.graphql.asking import CREATE, DELETE, REVERT

LEASE = 0.3
_PATIENCE = 40.0  # seconds after which something will not come true any more
_ENOUGH = 5  # trials of a row that went wrong: no need to see more

FAULTS = {
    "sqlite": ("gateway killed", "frozen"),
    "postgresql": (
        "gateway killed",
        "frozen",
        "database killed",
        "restart: fast",
        "restart: immediate",
        "cut",
        "answer lost",
    ),
}

_A, _B, _C, _D = ("a", None, False), ("b", "a", False), ("c", "b", True), ("d", "b", False)
# What is asked for, given a machine's number and its snapshots' ids; what is there afterwards; how many operations.
_Wish = Callable[[Home, int], tuple[str, dict[str, Any]]]
WISHES: dict[str, tuple[_Wish, Picture, int]] = {
    "create": (
        lambda _, machine: (CREATE, {"machineId": f"vm-{machine}", "name": "new"}),
        [_A, _B, ("c", "b", False), _D, ("new", "c", True)],
        1,
    ),
    "create, memory": (
        lambda _, machine: (CREATE, {"machineId": f"vm-{machine}", "name": "new", "memory": True}),
        [_A, _B, ("c", "b", False), _D, ("new", "c", True)],
        1,
    ),
    "revert": (
        lambda home, machine: (REVERT, {"snapshotId": home.snapshot(machine, "a")}),
        [("a", None, True), _B, ("c", "b", False), _D],
        1,
    ),
    "delete": (
        lambda home, machine: (DELETE, {"ids": [home.snapshot(machine, "b")]}),
        [_A, ("c", "a", True), ("d", "a", False)],
        1,
    ),
    "delete, subtree": (
        lambda home, machine: (DELETE, {"ids": [home.snapshot(machine, "b")], "withDescendants": True}),
        [("a", None, True)],
        3,
    ),
}


class Wrong(AssertionError):
    """Something that was promised is not so."""


class Table:
    """Trials on one home. `counts` says how often each cell of the table was tried."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.counts: Counter[tuple[str, str]] = Counter()
        self._may_claim = RawValue(c_int, 0)
        settings = replace(home.rows.settings, operation_lease=LEASE, write_timeout=0.5)
        self._victims = replace(settings, database_url=home.url)
        self._survivor = Forked(settings, partial(prepare_survivor, self._may_claim))
        self._threads = ThreadPoolExecutor(4)
        self._victim: Forked | None = None

    def close(self) -> None:
        for process in (self._survivor, self._victim):
            if process is not None:
                process.kill()
        self._threads.shutdown(cancel_futures=True)

    def trial(self, wish: str, fault: str, at: int) -> bool:
        """The fault at a step; whether the operation has so many. Raises Wrong."""
        victim = self._alive()
        trial = _Trial(self._home, wish)
        self._stop.arm(at)
        first = self._threads.submit(trial.ask, victim.url)
        step: str | None = None
        try:
            step = self._await_step(trial, first)
            trial.check([first.result()] if step is None else self._suffer(trial, victim, fault, first))
        except (AssertionError, httpx2.HTTPError) as error:
            victim.kill()
            self._victim = None
            raise Wrong(f"{self._home.kind}: {wish}, {fault} at step {at} ({step}): {error}") from error
        self.counts[wish, fault] += step is not None
        return step is not None

    def _alive(self) -> Forked:
        if self._victim is None:
            self._stop = Stop()
            self._pipe, there = CONTEXT.Pipe()
            self._victim = Forked(self._victims, partial(prepare, self._stop, there))
        return self._victim

    def _await_step(self, trial: "_Trial", first: "Future[Any]") -> str | None:
        """What the victim stops at; None when everything ended before."""
        for _ in patience("the step or the end"):
            if first.done() and trial.ended():
                self._stop.arm(0)
                return self._pipe.recv() if self._pipe.poll() else None
            if self._pipe.poll(0.005):
                step: str = self._pipe.recv()
                return step
        return None

    def _suffer(self, trial: "_Trial", victim: Forked, fault: str, first: "Future[Any]") -> list[Any]:
        """Every answer that anybody got, the last one to the same request with the same key at the end."""
        if fault == "gateway killed":
            victim.kill()
            self._victim = None
        elif fault == "frozen":
            return self._freeze(trial, victim, first)
        else:
            self._hurt_database(fault)
            self._pipe.send("go on")
            again = trial.insist(victim.url)
            trial.await_end()
            return [_answer(first), again, trial.insist(victim.url)]
        with self._claiming():
            again = trial.insist(self._survivor.url)
            trial.await_end()
        return [_answer(first), again, trial.insist(self._survivor.url)]

    def _freeze(self, trial: "_Trial", victim: Forked, first: "Future[Any]") -> list[Any]:
        """Nobody can take SQLite's lock from a process that is frozen with it: there the others wait, for once."""
        victim.signal(signal.SIGSTOP)
        self._pipe.send("go on")
        holds_the_lock = self._home.is_locked()
        with self._claiming():
            again = self._threads.submit(trial.insist, self._survivor.url)
            if holds_the_lock:
                time.sleep(2 * LEASE)
            else:
                again.result()
                trial.await_end()
            victim.signal(signal.SIGCONT)
            trial.await_end()
        return [_answer(first), again.result(), trial.insist(victim.url)]

    def _hurt_database(self, fault: str) -> None:
        server, relay = self._home.server, self._home.relay
        assert server is not None
        assert relay is not None
        match fault.split(": "):
            case ["cut"]:
                relay.cut()
            case ["answer lost"]:
                relay.swallow()
            case ["database killed"]:
                server.kill()
                server.start()
            case ["restart", manner]:
                server.stop_serving(RESTARTS[manner])
                server.start()

    @contextmanager
    def _claiming(self) -> Iterator[None]:
        self._may_claim.value = 1
        try:
            yield
        finally:
            self._may_claim.value = 0


class _Trial:
    """One request, about a machine of its own."""

    def __init__(self, home: Home, wish: str) -> None:
        self._home = home
        self._machine = home.machine()
        make, self._picture, self._count = WISHES[wish]
        self._mutation, wished = make(home, self._machine)
        self._input = wished | {"idempotencyKey": uuid4().hex}

    def ask(self, url: str) -> list[str]:
        """The ids of the operations that were accepted. Raises HTTPError when that cannot be known."""
        with httpx2.Client(base_url=url, timeout=_PATIENCE, trust_env=False) as http:
            answer = http.post("/graphql", json={"query": self._mutation, "variables": {"input": self._input}})
        body = answer.json()
        if "errors" in body:
            raise httpx2.ProtocolError(str(body["errors"]))
        (payload,) = body["data"].values()
        results = payload.get("results", [payload])
        refused = [error for result in (payload, *results) for error in result["errors"]]
        if refused:
            raise Wrong(f"refused: {refused}")
        return [result["operation"]["id"] for result in results]

    def insist(self, url: str) -> list[str]:
        """Asks until there is an answer: the key makes that safe."""
        last = "an answer"
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                return self.ask(url)
            except httpx2.HTTPError as error:
                last = repr(error)
                time.sleep(0.02)
        raise Wrong(f"nothing but {last}")

    def ended(self) -> bool:
        operations = self._home.operations(self._machine)
        return len(operations) >= self._count and all(state not in {"QUEUED", "RUNNING"} for _, state, *_ in operations)

    def await_end(self) -> None:
        for _ in patience("the end of the operation"):
            if self.ended():
                return
            time.sleep(0.005)

    def check(self, answers: list[list[str] | None]) -> None:
        """Acknowledged, there, once, and whole. Raises Wrong."""
        home, machine = self._home, self._machine
        operations = home.operations(machine)
        ids = sorted(f"operation-{number}" for number, *_ in operations)
        facts: list[tuple[str, Any, Any]] = [
            ("operations", len(ids), self._count),
            ("how they ended", {(state, error) for _, state, _, error in operations}, {("SUCCEEDED", None)}),
            ("the gateway's tree", home.picture(machine), self._picture),
            ("the provider's tree", home.provider_picture(machine), self._picture),
            ("the counter", home.counted(machine)[0], len(self._picture)),
        ]
        facts += [("an answer", sorted(answer), ids) for answer in answers if answer is not None]
        for number, _, token, _ in operations:
            facts.append((f"ends of operation-{number}", home.times("log_ended", number), 1))
            facts.append((f"tasks of operation-{number}", home.times("log_begun", token), 1))
            facts.append(
                (f"snapshots of operation-{number}", home.times("log_made", token), int("name" in self._input))
            )
        for what, found, expected in facts:
            if found != expected:
                raise Wrong(f"{what}: {found}, not {expected}")


def _answer(asked: "Future[Any]") -> Any:
    """What a request was answered, or None: its connection, or the gateway's to the database, was lost."""
    try:
        return asked.result(_PATIENCE)
    except httpx2.HTTPError:
        return None


def patience(what: str) -> Iterator[None]:
    """Tries, until it has been too long."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        yield
    raise Wrong(f"{what} did not come")


def fill(
    kind: str, fault: str, databases: Databases, stride: int = 1, wishes: Iterable[str] = tuple(WISHES)
) -> dict[tuple[str, str], int]:
    """One row of the table: a fault at every `stride`-th step of the wishes; how many were tried. Raises Wrong."""
    offset = (list(FAULTS[kind]).index(fault) * 3) % stride  # so that rows try different steps
    wrong: list[str] = []
    with home(kind, databases) as place, closing(Table(place)) as table:
        for wish in wishes:
            at, more = 1 + offset, True
            while more:
                try:
                    more = table.trial(wish, fault, at)
                except Wrong as error:
                    wrong.append(str(error))
                    more = len(wrong) < _ENOUGH
                at += stride
        if wrong:
            raise Wrong("\n".join(wrong))
        return dict(table.counts)


def fill_all(databases: Databases, say: Callable[[str], None], stride: int = 1, lanes: int = 4) -> None:
    """The whole table, shown row by row. Some at the same time: most of a trial is waiting. Raises Wrong."""
    rows = [(kind, fault) for kind, faults in FAULTS.items() for fault in faults]
    databases.new("sqlite")  # makes what the others are copied from
    width = max(len(fault) for _, fault in rows)
    say(f"{'database':11} {'fault':{width}} " + " ".join(f"{wish:>15}" for wish in WISHES))
    tried, wrong = 0, []
    with ThreadPoolExecutor(lanes) as threads:
        cells = [threads.submit(fill, kind, fault, databases, stride) for kind, fault in rows]
        for (kind, fault), cell in zip(rows, cells, strict=True):
            try:
                counts = cell.result()
            except Wrong as error:
                wrong.append(str(error))
                continue
            tried += sum(counts.values())
            say(f"{kind:11} {fault:{width}} " + " ".join(f"{counts.get((wish, fault), 0):15}" for wish in WISHES))
    if wrong:
        raise Wrong("\n".join(wrong))
    say(f"{tried:,} trials, nothing lost, nothing twice, trees whole")
