"""Which operations are claimed first: callers have equal numbers of running operations."""

import random
from collections import Counter

import pytest

from gateway.access.caller import Caller
from gateway.models import OperationState
from gateway.operations.claims import Claim
from gateway.store.database import Transaction
from tests.databases import KINDS, Databases
from tests.operations.world import World, play

ARRIVALS = "aaaaaaaaabaaacbbaacaaa"  # the callers of operations, each on a machine of its own
CALLERS = {"a": Caller("ann", "default"), "b": Caller("bob", "default"), "c": Caller("ann", "other")}


def expected_claims(waiting: dict[int, str], running: Counter[str], slots: int) -> list[int]:
    """The operations to claim next. `waiting` are callers by operation, the oldest first."""
    turns, places = {}, running.copy()
    for operation, caller in waiting.items():
        places[caller] += 1
        turns[operation] = places[caller]
    return sorted(waiting, key=lambda operation: (turns[operation], operation))[:slots]


@pytest.mark.parametrize("kind", KINDS)
def test_callers_take_turns(databases: Databases, kind: str) -> None:
    """A caller is a name in a tenant. Running operations count in whichever process they run."""
    chance = random.Random(1)

    async def nothing(_transaction: Transaction) -> None:
        pass

    async def story(world: World) -> None:
        waiting: dict[int, str] = {}
        for number, caller in enumerate(ARRIVALS):
            machine = await world.machine(f"m{number}", tenant=CALLERS[caller].tenant)
            waiting[(await world.create(machine, caller=CALLERS[caller])).operation_id] = caller
        running, claimed = Counter[str](), dict[Claim, str]()
        for step in range(40):
            for claim in list(claimed) if step % 3 == 2 else []:
                if chance.random() < 0.5:
                    await claim.end(OperationState.FAILED, nothing)
                    running[claimed.pop(claim)] -= 1
            expected = expected_claims(waiting, running, slots=chance.randint(1, 4))
            claims = await world.claim(f"worker {step % 2}", len(expected) or 1)
            assert [claim.row.id for claim in claims] == sorted(expected)
            for claim in claims:
                caller = waiting.pop(claim.row.id)
                claimed[claim] = caller
                running[caller] += 1
        assert waiting == {}

    play(databases.new(kind), story)


@pytest.mark.parametrize("kind", KINDS)
def test_operations_that_wait_for_a_retry_do_not_delay_others_of_their_caller(databases: Databases, kind: str) -> None:
    """They hold no slot. Nor does an operation whose worker has let its lease expire: it is claimed in its turn."""

    async def story(world: World) -> None:
        machines = [await world.machine(f"m{number}") for number in range(6)]
        for machine in machines[:3]:
            await world.create(machine, caller=CALLERS["a"])
        first, second, third = await world.claim("worker")
        await first.reschedule(600, "waits")
        await second.reschedule(600, "waits")
        other = [(await world.create(machine, caller=CALLERS["b"])).operation_id for machine in machines[3:5]]
        last = (await world.create(machines[5], caller=CALLERS["a"])).operation_id
        await world.execute("UPDATE operation SET lease_until = created_at WHERE id = 3")
        order = [(await world.claim("worker", 1))[0].row.id for _ in range(4)]
        assert order == [third.row.id, other[0], other[1], last]

    play(databases.new(kind), story)
