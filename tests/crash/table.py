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
from typing import Any, NamedTuple
from uuid import uuid4

import httpx2

from tests.crash.stepping import Stop, prepare, prepare_survivor
from tests.crash.world import RESTARTS, Home, Picture, home
from tests.databases import Databases
from tests.forked_gateway import CONTEXT, ForkedGateway
from tests.graphql.client import CREATE, DELETE, REVERT, UPDATE
from tests.waiting import at_most

LEASE = 0.3
_TIMEOUT = 40.0  # seconds to wait before a trial fails
_MAX_FAILURES = 5  # failed trials after which a row is given up
_MAX_TRIALS = 1_000  # of a command in a row; commands have fewer steps

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
_Arguments = Callable[[Home, int], tuple[str, dict[str, Any]]]


class Command(NamedTuple):
    """A mutation, its input for a machine, and the expected result. The counts are per operation."""

    arguments: _Arguments
    picture: Picture
    operations: int = 1
    tasks: int = 1  # of the provider
    created: int = 0  # snapshots
    described: str | None = None  # the snapshot that has the description "new"


COMMANDS = {
    "create": Command(
        lambda _, machine: (CREATE, {"machineId": f"vm-{machine}", "name": "new"}),
        [_A, _B, ("c", "b", False), _D, ("new", "c", True)],
        created=1,
    ),
    "create, memory": Command(
        lambda _, machine: (CREATE, {"machineId": f"vm-{machine}", "name": "new", "memory": True}),
        [_A, _B, ("c", "b", False), _D, ("new", "c", True)],
        created=1,
    ),
    "revert": Command(
        lambda home, machine: (REVERT, {"snapshotId": home.snapshot(machine, "a")}),
        [("a", None, True), _B, ("c", "b", False), _D],
    ),
    "delete": Command(
        lambda home, machine: (DELETE, {"ids": [home.snapshot(machine, "b")]}),
        [_A, ("c", "a", True), ("d", "a", False)],
    ),
    "delete, subtree": Command(
        lambda home, machine: (DELETE, {"ids": [home.snapshot(machine, "b")], "withDescendants": True}),
        [("a", None, True)],
        operations=3,
    ),
    # An update is not a task, and may be sent to the provider twice, because the second time changes nothing.
    "update": Command(
        lambda home, machine: (
            UPDATE,
            {"snapshotId": home.snapshot(machine, "b"), "name": "bb", "description": "new"},
        ),
        [_A, ("bb", "a", False), ("c", "bb", True), ("d", "bb", False)],
        tasks=0,
        described="bb",
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
        step: str | None = None
        try:
            first, step = self._await_step(trial, victim)
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

    def _await_step(self, trial: "_Trial", victim: ForkedGateway) -> tuple["Future[Any]", str | None]:
        """Sends the request. Returns its response, and the label of the step at which the victim stops.

        The label is None if everything ended before. A request that the victim could not serve, because the host is
        too busy for its short timeouts, is repeated.
        """
        first = self._threads.submit(trial.ask, victim.url)
        for _ in attempts("reaching the step or the end"):
            if self._pipe.poll(0.005):
                return first, self._pipe.recv()
            if not first.done():
                continue
            if isinstance(first.exception(), httpx2.HTTPError):
                first = self._threads.submit(trial.ask, victim.url)
            elif first.result() and trial.ended():
                self._stop.arm(0)
                return first, self._pipe.recv() if self._pipe.poll() else None
        return first, None

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
        self._expected = COMMANDS[command]
        self._mutation, arguments = self._expected.arguments(home, self._machine)
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
        return len(operations) >= self._expected.operations and all(
            state not in {"QUEUED", "RUNNING"} for _, state, *_ in operations
        )

    def await_end(self) -> None:
        for _ in attempts("the end of the operation"):
            if self.ended():
                return
            time.sleep(0.005)

    def check(self, answers: list[list[str] | None]) -> None:
        """Checks that the operations exist and ended once, and that the trees are complete. Raises TrialFailure."""
        home, machine, wanted = self._home, self._machine, self._expected
        described = [] if wanted.described is None else [wanted.described]
        operations = home.operations(machine)
        ids = sorted(f"operation-{number}" for number, *_ in operations)
        facts: list[tuple[str, Any, Any]] = [
            ("operations", len(ids), wanted.operations),
            ("states and errors", {(state, error) for _, state, _, error in operations}, {("SUCCEEDED", None)}),
            ("the gateway's tree", home.picture(machine), wanted.picture),
            ("the provider's tree", home.provider_picture(machine), wanted.picture),
            ("the described snapshots", home.described(machine), (described, described)),
            ("the counter", home.counted(machine)[0], len(wanted.picture)),
        ]
        facts += [("an answer", sorted(answer), ids) for answer in answers if answer is not None]
        for number, _, token, _ in operations:
            facts.append((f"ends of operation-{number}", home.times("log_ended", number), 1))
            facts.append((f"tasks of operation-{number}", home.times("log_begun", token), wanted.tasks))
            facts.append((f"snapshots of operation-{number}", home.times("log_made", token), wanted.created))
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
            for trial in at_most(_MAX_TRIALS):
                try:
                    if not table.trial(command, fault, 1 + offset + (trial - 1) * stride):
                        break
                except TrialFailure as error:
                    failures.append(str(error))
                    if len(failures) >= _MAX_FAILURES:
                        break
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
    report(f"{tried:,} trials: no operation lost, none took effect twice, all trees complete")
