"""The checker of histories, short runs of gateways that are killed, frozen and disconnected, and seeded bugs.

`make soak` runs for ten minutes with four gateways on PostgreSQL.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.crash.world import home
from tests.databases import Databases
from tests.soak import seeded_bugs
from tests.soak.history import Attempt, History, Node, Operation, Read, Tree, violations
from tests.soak.history_run import RunPlan, run_history

CREATED = Operation(1, "CREATE_SNAPSHOT", 1, 10, "k1", "SUCCEEDED", None, 1.0, 1.1, 2.0, 1, 1, 1, took_effect=True)
REVERTED = Operation(2, "REVERT_VM_SNAPSHOT", 1, 9, "a", "SUCCEEDED", None, 3.0, 3.1, 4.0, 1, 1, 0, took_effect=True)
DELETED = Operation(3, "DELETE_SNAPSHOT", 1, 10, "k1", "SUCCEEDED", None, 5.0, 5.1, 6.0, 1, 1, 0, took_effect=True)
A = Node("a", "READY", current=True, parent=None, has_provider_ref=True)
NEW = Node("k1", "READY", current=True, parent=9, has_provider_ref=True)


def valid_history() -> History:
    """A machine with the snapshot `a`: a create, a revert to `a`, and the delete of the created snapshot."""
    return History(
        attempts=[
            Attempt("k1", "create", 1, 0.9, 1.2, (1,)),
            Attempt("k2", "revert", 1, 2.8, 3.2, None),
            Attempt("k2", "revert", 1, 3.3, 3.4, (2,)),
            Attempt("k3", "delete", 1, 4.9, 5.2, (3,)),
        ],
        reads=[
            Read(1, 2.2, 2.3, {9: replace(A, current=False), 10: NEW}, 2),
            Read(1, 4.2, 4.3, {9: A, 10: replace(NEW, current=False)}, 2),
            Read(1, 6.2, 6.3, {9: A}, 1),
        ],
        events={"s": [(n, state) for n in (1, 2, 3) for state in ("QUEUED", "RUNNING", "RUNNING", "SUCCEEDED")]},
        operations=[CREATED, REVERTED, DELETED],
        keys={"k1": (1,), "k2": (2,), "k3": (3,)},
        before={1: Tree({"a": None}, "a")},
        gateway={1: Read(1, 7.0, 7.1, {9: A}, 1)},
        provider={1: Tree({"a": None}, "a")},
    )


def test_valid_history() -> None:
    assert violations(valid_history()) == []


def test_delete_with_unknown_outcome() -> None:
    """The next refresh removes the row of the deleted snapshot."""
    history = valid_history()
    history.operations[2] = replace(DELETED, state="FAILED", error="OUTCOME_UNKNOWN")
    history.events["s"][-1] = (3, "FAILED")
    assert violations(history) == []


UPDATED = replace(REVERTED, id=4, kind="UPDATE_SNAPSHOT", took_effect=False, dispatches=0, description="new")


def updated_history(description: str | None, *updates: Operation) -> History:
    """The valid history with updates of the snapshot `a`, and its final description."""
    history = valid_history()
    for number, update in enumerate(updates, 4):
        history.operations.append(replace(update, id=number, created=7.0, started=number * 2.0, finished=number * 2.1))
        history.events["s"].append((number, update.state))
        history.keys[f"u{number}"] = (number,)
    history.gateway[1] = replace(history.gateway[1], nodes={9: replace(A, description=description)})
    return history


def test_last_update_is_found() -> None:
    later = replace(UPDATED, description="later")
    lost = "snapshot-9 has the description {}, not {}"
    assert violations(updated_history("new", UPDATED)) == []
    assert violations(updated_history("later", UPDATED, later)) == []
    assert violations(updated_history(None, UPDATED)) == [lost.format(None, "new")]
    assert violations(updated_history("new", UPDATED, later)) == [lost.format("new", "later")]
    assert violations(updated_history("new", replace(UPDATED, attempts=2), later)) == []
    unknown = replace(later, state="FAILED", error="OUTCOME_UNKNOWN")
    for description in ("new", "later"):
        assert violations(updated_history(description, UPDATED, unknown)) == []
    failed = replace(later, state="FAILED", error="PROVIDER_FAILED")
    assert violations(updated_history("later", UPDATED, failed)) == [lost.format("later", "new")]


def _operation(index: int, **changes: object) -> Callable[[History], None]:
    def corrupt(history: History) -> None:
        history.operations[index] = replace(history.operations[index], **changes)  # type: ignore[arg-type]

    return corrupt


def _remove_operation(history: History) -> None:
    del history.operations[1]


def _answer_with_another_operation(history: History) -> None:
    history.attempts.append(Attempt("k1", "create", 1, 6.0, 6.1, (3,)))


def _reappear(history: History) -> None:
    history.reads.append(replace(history.reads[1], started=7.0, ended=7.1))


def _hide_snapshot(history: History) -> None:
    history.reads[0] = replace(history.reads[0], nodes={9: A}, total=1)


def _miscount(history: History) -> None:
    history.reads[0] = replace(history.reads[0], total=3)


def _two_current(history: History) -> None:
    history.reads[0] = replace(history.reads[0], nodes={9: A, 10: NEW})


def _orphan(history: History) -> None:
    history.reads[0] = replace(history.reads[0], nodes={9: A, 10: replace(NEW, current=False, parent=8)})


def _miss_the_end(history: History) -> None:
    history.events["s"].pop()


def _repeat_an_earlier_state(history: History) -> None:
    history.events["s"].append((3, "RUNNING"))


def _keep_on_the_provider(history: History) -> None:
    history.provider[1] = Tree({"a": None, "k1": "a"}, "a")


def _keep_in_the_gateway(history: History) -> None:
    history.gateway[1] = replace(history.gateway[1], nodes={9: A, 10: replace(NEW, current=False)}, total=2)


def _clear_current(history: History) -> None:
    history.gateway[1] = replace(history.gateway[1], nodes={9: replace(A, current=False)})


CORRUPTED: list[tuple[Callable[[History], None], str]] = [
    (_remove_operation, "operation-2 is missing"),
    (_answer_with_another_operation, "key k1 was answered (3,), but (1,) is stored"),
    (_operation(2, name="k9", kind="CREATE_SNAPSHOT", created_snapshots=1), "the gateway has"),
    (_operation(0, state="RUNNING"), "has not ended"),
    (_operation(0, end_writes=2), "ended 2 times"),
    (_operation(0, dispatches=2), "was executed 2 times by the provider"),
    (_operation(0, created_snapshots=2), "was executed 2 times by the provider"),
    (_operation(0, created_snapshots=0), "created 0 snapshots"),
    (_operation(2, state="FAILED", error="PROVIDER_FAILED"), "took effect"),
    (_operation(2, started=3.5), "operation-3 started before"),
    (_operation(0, finished=3.05), "operation-2 is a revert that was accepted on a busy machine"),
    (_operation(0, kind="DELETE_SNAPSHOT", created_snapshots=0, name="a"), "instead of"),
    (_reappear, "snapshot-10 disappeared and reappeared"),
    (_hide_snapshot, "snapshot-10 was acknowledged, but is missing"),
    (_miscount, "3 counted, 2 listed"),
    (_two_current, "several snapshots are current"),
    (_orphan, "snapshot-10: its parent is missing"),
    (_miss_the_end, "s received operation-3 as RUNNING, but it is SUCCEEDED"),
    (_repeat_an_earlier_state, "s received operation-3 going from SUCCEEDED to RUNNING"),
    (_keep_on_the_provider, "the provider has {'k1': 'a'}"),
    (_keep_in_the_gateway, "the gateway has {'k1': 'a'}"),
    (_clear_current, "on None instead of"),
]


@pytest.mark.parametrize("number", range(len(CORRUPTED)))
def test_invalid_history(number: int) -> None:
    corrupt, message = CORRUPTED[number]
    history = valid_history()
    corrupt(history)
    assert any(message in violation for violation in violations(history)), violations(history)


def test_response_before_the_request_of_an_earlier_operation() -> None:
    history = valid_history()
    history.attempts += [Attempt("k4", "create", 1, 0.1, 0.2, (4,))]
    history.keys["k4"] = (4,)
    assert "operation-1 was requested after the response to an operation with a larger number" in violations(history)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "plan"),
    [
        ("postgresql", RunPlan(gateways=4, clients=32, machines=8, seconds=20)),
        ("sqlite", RunPlan(gateways=2, clients=8, machines=4, seconds=10)),
    ],
)
def test_short_run(kind: str, plan: RunPlan, databases: Databases) -> None:
    with home(kind, databases) as place:
        history, found = run_history(place, plan, print)
    assert found == []
    assert any(operation.state == "SUCCEEDED" for operation in history.operations)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("bug", "only", "latency", "message"),
    [
        (seeded_bugs.forget_keys, "slow", 20, "has no key"),
        (seeded_bugs.revert_at_any_time, "slow", 20, "accepted on a busy machine"),
        (seeded_bugs.drop_the_fence, "freeze", 1_500, "ended 2 times"),
    ],
)
def test_seeded_bug_is_found(
    bug: Callable[[], None], only: str, latency: int, message: str, databases: Databases
) -> None:
    """In one of five runs at the latest: whether a run shows the bug depends on where the faults hit."""
    found: list[str] = []
    for seed in range(1, 6):
        plan = RunPlan(
            gateways=3, clients=16, machines=6, seconds=15, seed=seed, prepare=bug, only=only, latency_ms=latency
        )
        with home("postgresql", databases) as place:
            _, found = run_history(place, plan, print)
        if any(message in violation for violation in found):
            return
    raise AssertionError(found)
