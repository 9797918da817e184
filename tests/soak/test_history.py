"""Histories of gateways that are killed, frozen and cut off, checked against the model; and mistakes, which it finds.

`make soak` plays for ten minutes with four gateways on PostgreSQL; here are the checker itself and short forms.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.crash.world import home
from tests.databases import Databases
from tests.soak import mistakes
from tests.soak.history import Attempt, History, Node, Operation, Read, Tree, violations
from tests.soak.running import Plan, play

CREATED = Operation(1, "CREATE_SNAPSHOT", 1, 10, "k1", "SUCCEEDED", None, 1.0, 1.1, 2.0, 1, 1, 1, happened=True)
REVERTED = Operation(2, "REVERT_VM_SNAPSHOT", 1, 9, "a", "SUCCEEDED", None, 3.0, 3.1, 4.0, 1, 1, 0, happened=True)
DELETED = Operation(3, "DELETE_SNAPSHOT", 1, 10, "k1", "SUCCEEDED", None, 5.0, 5.1, 6.0, 1, 1, 0, happened=True)
A = Node("a", "READY", current=True, parent=None, made=True)
NEW = Node("k1", "READY", current=True, parent=9, made=True)


def good() -> History:
    """A machine with `a`: a create, a revert to `a`, a delete of what was created."""
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
        seen={"s": [(n, state) for n in (1, 2, 3) for state in ("QUEUED", "RUNNING", "RUNNING", "SUCCEEDED")]},
        operations=[CREATED, REVERTED, DELETED],
        keys={"k1": (1,), "k2": (2,), "k3": (3,)},
        before={1: Tree({"a": None}, "a")},
        gateway={1: Read(1, 7.0, 7.1, {9: A}, 1)},
        provider={1: Tree({"a": None}, "a")},
    )


def test_a_history_that_can_be() -> None:
    assert violations(good()) == []


def test_a_delete_that_nobody_knew_of() -> None:
    """The next refresh takes out what is gone."""
    history = good()
    history.operations[2] = replace(DELETED, state="FAILED", error="OUTCOME_UNKNOWN")
    history.seen["s"][-1] = (3, "FAILED")
    assert violations(history) == []


def _operation(index: int, **changes: object) -> Callable[[History], None]:
    def spoil(history: History) -> None:
        history.operations[index] = replace(history.operations[index], **changes)  # type: ignore[arg-type]

    return spoil


def _lose(history: History) -> None:
    del history.operations[1]


def _answer_another(history: History) -> None:
    history.attempts.append(Attempt("k1", "create", 1, 6.0, 6.1, (3,)))


def _come_back(history: History) -> None:
    history.reads.append(replace(history.reads[1], begun=7.0, ended=7.1))


def _hide(history: History) -> None:
    history.reads[0] = replace(history.reads[0], nodes={9: A}, total=1)


def _miscount(history: History) -> None:
    history.reads[0] = replace(history.reads[0], total=3)


def _two_current(history: History) -> None:
    history.reads[0] = replace(history.reads[0], nodes={9: A, 10: NEW})


def _orphan(history: History) -> None:
    history.reads[0] = replace(history.reads[0], nodes={9: A, 10: replace(NEW, current=False, parent=8)})


def _miss_an_end(history: History) -> None:
    history.seen["s"].pop()


def _go_back(history: History) -> None:
    history.seen["s"].append((3, "RUNNING"))


def _keep_on_the_provider(history: History) -> None:
    history.provider[1] = Tree({"a": None, "k1": "a"}, "a")


def _keep_in_the_gateway(history: History) -> None:
    history.gateway[1] = replace(history.gateway[1], nodes={9: A, 10: replace(NEW, current=False)}, total=2)


def _run_on(history: History) -> None:
    history.gateway[1] = replace(history.gateway[1], nodes={9: replace(A, current=False)})


SPOILED: list[tuple[Callable[[History], None], str]] = [
    (_lose, "operation-2 is gone"),
    (_answer_another, "key k1 was answered (3,), and is kept as (1,)"),
    (_operation(2, name="k9", kind="CREATE_SNAPSHOT", made=1), "the gateway has"),
    (_operation(0, state="RUNNING"), "has not ended"),
    (_operation(0, ends=2), "ended 2 times"),
    (_operation(0, begun=2), "was done 2 times on the provider"),
    (_operation(0, made=2), "was done 2 times on the provider"),
    (_operation(0, made=0), "made 0 snapshots"),
    (_operation(2, state="FAILED", error="PROVIDER_FAILED"), "happened"),
    (_operation(2, started=3.5), "operation-3 began before"),
    (_operation(0, finished=3.05), "operation-2 is a revert that was accepted on a busy machine"),
    (_operation(0, kind="DELETE_SNAPSHOT", made=0, name="a"), "instead of"),
    (_come_back, "snapshot-10 was gone and came back"),
    (_hide, "snapshot-10 was acknowledged, and not there"),
    (_miscount, "3 counted, 2 listed"),
    (_two_current, "several are current"),
    (_orphan, "snapshot-10: its parent was not there"),
    (_miss_an_end, "s saw operation-3 as RUNNING, and it is SUCCEEDED"),
    (_go_back, "s saw operation-3 go from SUCCEEDED to RUNNING"),
    (_keep_on_the_provider, "the provider has {'k1': 'a'}"),
    (_keep_in_the_gateway, "the gateway has {'k1': 'a'}"),
    (_run_on, "on None instead of"),
]


@pytest.mark.parametrize("number", range(len(SPOILED)))
def test_a_history_that_cannot_be(number: int) -> None:
    spoil, words = SPOILED[number]
    history = good()
    spoil(history)
    assert any(words in violation for violation in violations(history)), violations(history)


def test_an_answer_before_the_question() -> None:
    history = good()
    history.attempts += [Attempt("k4", "create", 1, 0.1, 0.2, (4,))]
    history.keys["k4"] = (4,)
    assert "operation-1 was asked for after one that comes later was answered" in violations(history)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "plan"),
    [
        ("postgresql", Plan(gateways=4, clients=32, machines=8, seconds=20)),
        ("sqlite", Plan(gateways=2, clients=8, machines=4, seconds=10)),
    ],
)
def test_a_short_one(kind: str, plan: Plan, databases: Databases) -> None:
    with home(kind, databases) as place:
        history, found = play(place, plan, print)
    assert found == []
    assert sum(operation.state == "SUCCEEDED" for operation in history.operations) > 20


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("mistake", "only", "latency", "words"),
    [
        (mistakes.forget_keys, "slow", 20, "of no key"),
        (mistakes.revert_at_any_time, "slow", 20, "accepted on a busy machine"),
        (mistakes.drop_the_fence, "freeze", 1_500, "ended 2 times"),
    ],
)
def test_a_mistake_is_found(
    mistake: Callable[[], None], only: str, latency: int, words: str, databases: Databases
) -> None:
    plan = Plan(gateways=3, clients=16, machines=6, seconds=15, prepare=mistake, only=only, latency_ms=latency)
    with home("postgresql", databases) as place:
        _, found = play(place, plan, print)
    assert any(words in violation for violation in found), found
