"""The crash table: injects one fault at one step of one command, and checks the result."""

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
from tests.forked_gateway import CONTEXT, ForkedGateway
from tests.graphql.client import CREATE, DELETE, REVERT

LEASE = 0.3
_TIMEOUT = 40.0  # seconds to wait before a trial fails
_MAX_FAILURES = 5  # failed trials after which a row is given up

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
# Of each command: its mutation and input for a machine, the expected snapshots, and the number of operations.
_Arguments = Callable[[Home, int], tuple[str, dict[str, Any]]]
COMMANDS: dict[str, tuple[_Arguments, Picture, int]] = {
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


class TrialFailure(AssertionError):
    """A guarantee did not hold in a trial."""


class Table:
    """Runs trials on one home. `counts` is the number of trials per cell of the table."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.counts: Counter[tuple[str, str]] = Counter()
        self._may_claim = RawValue(c_int, 0)
        settings = replace(home.rows.settings, operation_lease=LEASE, write_timeout=0.5)
        self._victims = replace(settings, database_url=home.url)
        self._survivor = ForkedGateway(settings, partial(prepare_survivor, self._may_claim))
        self._threads = ThreadPoolExecutor(4)
        self._victim: ForkedGateway | None = None

    def close(self) -> None:
        for process in (self._survivor, self._victim):
            if process is not None:
                process.kill()
        self._threads.shutdown(cancel_futures=True)

    def trial(self, command: str, fault: str, at: int) -> bool:
        """Injects the fault at step `at`. Returns whether the command has that many steps. Raises TrialFailure."""
        victim = self._alive()
        trial = _Trial(self._home, command)
        self._stop.arm(at)
        first = self._threads.submit(trial.ask, victim.url)
        step: str | None = None
        try:
            step = self._await_step(trial, first)
            trial.check([first.result()] if step is None else self._apply_fault(trial, victim, fault, first))
        except (AssertionError, httpx2.HTTPError) as error:
            victim.kill()
            self._victim = None
            raise TrialFailure(f"{self._home.kind}: {command}, {fault} at step {at} ({step}): {error}") from error
        self.counts[command, fault] += step is not None
        return step is not None

    def _alive(self) -> ForkedGateway:
        if self._victim is None:
            self._stop = Stop()
            self._pipe, there = CONTEXT.Pipe()
            self._victim = ForkedGateway(self._victims, partial(prepare, self._stop, there))
        return self._victim

    def _await_step(self, trial: "_Trial", first: "Future[Any]") -> str | None:
        """The label of the step at which the victim stops; None if everything ended before."""
        for _ in attempts("reaching the step or the end"):
            if first.done() and trial.ended():
                self._stop.arm(0)
                return self._pipe.recv() if self._pipe.poll() else None
            if self._pipe.poll(0.005):
                step: str = self._pipe.recv()
                return step
        return None

    def _apply_fault(self, trial: "_Trial", victim: ForkedGateway, fault: str, first: "Future[Any]") -> list[Any]:
        """Injects the fault. Returns all responses; the last one is that to a final repetition with the same key."""
        if fault == "gateway killed":
            victim.kill()
            self._victim = None
        elif fault == "frozen":
            return self._freeze(trial, victim, first)
        else:
            self._break_database(fault)
            self._pipe.send("continue")
            again = trial.ask_until_answered(victim.url)
            trial.await_end()
            return [_answer(first), again, trial.ask_until_answered(victim.url)]
        with self._claiming():
            again = trial.ask_until_answered(self._survivor.url)
            trial.await_end()
        return [_answer(first), again, trial.ask_until_answered(self._survivor.url)]

    def _freeze(self, trial: "_Trial", victim: ForkedGateway, first: "Future[Any]") -> list[Any]:
        """Stops the victim with SIGSTOP. If it holds SQLite's write lock, the other process waits until SIGCONT."""
        victim.signal(signal.SIGSTOP)
        self._pipe.send("continue")
        holds_the_lock = self._home.is_locked()
        with self._claiming():
            again = self._threads.submit(trial.ask_until_answered, self._survivor.url)
            if holds_the_lock:
                time.sleep(2 * LEASE)
            else:
                again.result()
                trial.await_end()
            victim.signal(signal.SIGCONT)
            trial.await_end()
        return [_answer(first), again.result(), trial.ask_until_answered(victim.url)]

    def _break_database(self, fault: str) -> None:
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
                server.shut_down(RESTARTS[manner])
                server.start()

    @contextmanager
    def _claiming(self) -> Iterator[None]:
        self._may_claim.value = 1
        try:
            yield
        finally:
            self._may_claim.value = 0


class _Trial:
    """One request for a machine of its own."""

    def __init__(self, home: Home, command: str) -> None:
        self._home = home
        self._machine = home.machine()
        make, self._picture, self._count = COMMANDS[command]
        self._mutation, arguments = make(home, self._machine)
        self._input = arguments | {"idempotencyKey": uuid4().hex}

    def ask(self, url: str) -> list[str]:
        """Sends the request. Returns the ids of the accepted operations. Raises HTTPError if they are unknown."""
        with httpx2.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as http:
            answer = http.post("/graphql", json={"query": self._mutation, "variables": {"input": self._input}})
        body = answer.json()
        if "errors" in body:
            raise httpx2.ProtocolError(str(body["errors"]))
        (payload,) = body["data"].values()
        results = payload.get("results", [payload])
        refused = [error for result in (payload, *results) for error in result["errors"]]
        if refused:
            raise TrialFailure(f"refused: {refused}")
        return [result["operation"]["id"] for result in results]

    def ask_until_answered(self, url: str) -> list[str]:
        """Repeats the request until there is a response. The idempotency key makes that safe."""
        last = "no attempt"
        deadline = time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline:
            try:
                return self.ask(url)
            except httpx2.HTTPError as error:
                last = repr(error)
                time.sleep(0.02)
        raise TrialFailure(f"no response; the last error was {last}")

    def ended(self) -> bool:
        operations = self._home.operations(self._machine)
        return len(operations) >= self._count and all(state not in {"QUEUED", "RUNNING"} for _, state, *_ in operations)

    def await_end(self) -> None:
        for _ in attempts("the end of the operation"):
            if self.ended():
                return
            time.sleep(0.005)

    def check(self, answers: list[list[str] | None]) -> None:
        """Checks that the operations exist and ended once, and that the trees are complete. Raises TrialFailure."""
        home, machine = self._home, self._machine
        operations = home.operations(machine)
        ids = sorted(f"operation-{number}" for number, *_ in operations)
        facts: list[tuple[str, Any, Any]] = [
            ("operations", len(ids), self._count),
            ("states and errors", {(state, error) for _, state, _, error in operations}, {("SUCCEEDED", None)}),
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
                raise TrialFailure(f"{what}: {found}, not {expected}")


def _answer(asked: "Future[Any]") -> Any:
    """The response; None if the connection of the client, or that of the gateway to the database, was lost."""
    try:
        return asked.result(_TIMEOUT)
    except httpx2.HTTPError:
        return None


def attempts(what: str) -> Iterator[None]:
    """Yields until the timeout, then raises TrialFailure."""
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        yield
    raise TrialFailure(f"timeout while waiting for {what}")


def run_row(
    kind: str, fault: str, databases: Databases, stride: int = 1, commands: Iterable[str] = tuple(COMMANDS)
) -> dict[tuple[str, str], int]:
    """Runs one row: the fault at every `stride`-th step of the commands. Returns the number of trials per cell.

    Raises TrialFailure.
    """
    offset = (list(FAULTS[kind]).index(fault) * 3) % stride  # so that rows try different steps
    failures: list[str] = []
    with home(kind, databases) as place, closing(Table(place)) as table:
        for command in commands:
            at, more = 1 + offset, True
            while more:
                try:
                    more = table.trial(command, fault, at)
                except TrialFailure as error:
                    failures.append(str(error))
                    more = len(failures) < _MAX_FAILURES
                at += stride
        if failures:
            raise TrialFailure("\n".join(failures))
        return dict(table.counts)


def run_table(databases: Databases, report: Callable[[str], None], stride: int = 1, lanes: int = 4) -> None:
    """Runs the whole table and reports each row. Rows run concurrently, because most of a trial is waiting.

    Raises TrialFailure.
    """
    rows = [(kind, fault) for kind, faults in FAULTS.items() for fault in faults]
    databases.new("sqlite")  # makes what the others are copied from
    width = max(len(fault) for _, fault in rows)
    report(f"{'database':11} {'fault':{width}} " + " ".join(f"{command:>15}" for command in COMMANDS))
    tried, failures = 0, []
    with ThreadPoolExecutor(lanes) as threads:
        cells = [threads.submit(run_row, kind, fault, databases, stride) for kind, fault in rows]
        for (kind, fault), cell in zip(rows, cells, strict=True):
            try:
                counts = cell.result()
            except TrialFailure as error:
                failures.append(str(error))
                continue
            tried += sum(counts.values())
            report(
                f"{kind:11} {fault:{width}} "
                + " ".join(f"{counts.get((command, fault), 0):15}" for command in COMMANDS)
            )
    if failures:
        raise TrialFailure("\n".join(failures))
    report(f"{tried:,} trials: no operation lost, none run twice, all trees complete")
