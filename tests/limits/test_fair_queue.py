"""The fair queue and the slots of the database: laws that hold for any order of callers."""

import asyncio
import threading
from collections import Counter, deque
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Throttled, Unavailable
from gateway.fair_queue import CLAIM, Claim, FairQueue, FairThread
from gateway.store.database import DatabaseLimits, Load
from gateway.store.fair_slots import FairSlots
from tests.waiting import at_most

CALLERS = st.sampled_from("abcde")


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def round_robin(callers: list[str]) -> list[str]:
    """The order in which callers that arrived in this order are served."""
    left = Counter(callers)
    turns, order = deque(dict.fromkeys(callers)), []
    while turns:
        caller = turns.popleft()
        order.append(caller)
        left[caller] -= 1
        if left[caller]:
            turns.append(caller)
    return order


def test_callers_share_time_and_not_only_turns() -> None:
    """A caller whose tasks take 50 ms gets one turn while another gets 50 of 1 ms."""

    async def story() -> None:
        clock = Clock()
        queue = FairQueue(clock)
        for _ in range(60):
            queue.add(Claim("slow"))
            queue.add(Claim("quick"))
        used: Counter[str] = Counter()
        for _ in range(60):
            caller = queue.pop()
            assert caller is not None
            seconds = 0.05 if caller == "slow" else 0.001
            clock.now += seconds
            queue.charge(caller, seconds)
            used[caller] += 1
        assert used == {"slow": 2, "quick": 58}
        clock.now += 60
        assert [queue.used(caller) < 1e-9 for caller in used] == [True, True]

    asyncio.run(story())


def test_the_estimate_of_a_quick_caller_is_not_that_of_a_slow_one() -> None:
    """After tasks of 50 ms of another caller, 40 that take 1 ms arrive at once. Each is served within its estimate."""

    async def story() -> None:
        clock = Clock()
        queue = FairQueue(clock)

        def serve() -> None:
            caller = queue.pop()
            assert caller is not None
            seconds = 0.05 if caller == "slow" else 0.001
            clock.now += seconds
            queue.charge(caller, seconds)

        for _ in range(20):
            queue.add(Claim("quick"))
            serve()
        for _ in range(120):
            queue.add(Claim("slow"))
        for _ in range(20):
            serve()
        assert queue.estimated_wait("slow") > 4
        began, last = clock.now, None
        for _ in range(40):
            estimate = queue.estimated_wait("quick")
            assert estimate < 0.2
            last = queue.add(Claim("quick"))
        for _ in at_most(100):
            if last is None or last.done():
                break
            serve()
        assert clock.now - began <= max(estimate, 0.1)

    asyncio.run(story())


def test_the_time_of_many_callers_is_kept_within_bounds() -> None:
    clock = Clock()
    queue = FairQueue(clock)
    for number in range(5_000):
        queue.charge(f"address {number}", 0.01)
    queue.charge("caller", 0.5)
    assert queue.used("caller") == 0.5
    assert sum(queue.used(f"address {number}") > 0 for number in range(5_000)) <= 1_000


@given(st.lists(st.tuples(CALLERS, st.booleans()), max_size=60))
def test_callers_take_turns_and_canceled_tasks_do_not(arrivals: list[tuple[str, bool]]) -> None:
    """Each arrival has a caller, and whether it is canceled before the first turn."""

    async def story() -> None:
        queue, added = FairQueue(), []
        for caller, canceled in arrivals:
            waiting = queue.add(Claim(caller))
            added.append((waiting, caller))
            if canceled:
                waiting.cancel()
                queue.remove(Claim(caller), waiting)
        expected = [caller for caller, canceled in arrivals if not canceled]
        assert len(queue) == len(expected)
        popped = [queue.pop() for _ in expected]
        # A caller whose only task was canceled arrives again with its next one.
        assert Counter(popped) == Counter(expected)
        if not any(canceled for _, canceled in arrivals):
            assert popped == round_robin(expected)
        assert all(waiting.done() for waiting, _ in added)
        assert (len(queue), queue.pop()) == (0, None)

    asyncio.run(story())


@given(requests=st.lists(CALLERS, min_size=20, max_size=40), streams=st.lists(CALLERS, min_size=1, max_size=5))
def test_streams_are_served_at_every_fifth_turn(requests: list[str], streams: list[str]) -> None:
    async def story() -> None:
        queue = FairQueue()
        waiting = [queue.add(Claim(caller, stream=True)) for caller in streams]
        for caller in requests:
            queue.add(Claim(caller))
        served = []
        for _ in range(len(requests) + len(streams)):
            before = sum(one.done() for one in waiting)
            queue.pop()
            served.append(sum(one.done() for one in waiting) > before)
        last_request = len(served) - 1 - served[::-1].index(False)
        assert [place % 5 == 4 for place in range(last_request)][: 5 * len(streams)] == served[:last_request][
            : 5 * len(streams)
        ]

    asyncio.run(story())


@given(arrivals=st.lists(CALLERS, min_size=40, max_size=120), newcomer=st.sampled_from("abcdef"))
def test_the_estimated_wait_is_an_upper_bound(arrivals: list[str], newcomer: str) -> None:
    """With one task per second, a new task waits at most the estimate, and not at all if that is 0."""

    async def story() -> None:
        clock = Clock()
        queue = FairQueue(clock)
        for caller in ["a", *arrivals]:
            queue.add(Claim(caller))
        clock.now += 1
        queue.pop()
        estimate = queue.estimated_wait(newcomer)
        waiting = queue.add(Claim(newcomer))
        waited = 0
        while not waiting.done():
            clock.now += 1
            queue.pop()
            waited += 1
        assert waited - 1 <= (estimate or 32)

    asyncio.run(story())


def test_the_caller_with_the_most_work_is_rejected_first_and_an_empty_queue_forgets() -> None:
    async def story() -> None:
        clock = Clock()
        queue = FairQueue(clock)
        for _ in range(41):
            queue.add(Claim("busy"))
        clock.now += 0.1
        queue.pop()
        assert queue.estimated_wait("busy") == pytest.approx(40 * 0.1)
        assert queue.estimated_wait("other") == 0
        clock.now += 60  # nothing is popped, and nothing but rejections happens
        assert queue.estimated_wait("busy") == pytest.approx(60)
        while queue.pop():
            clock.now += 1
        for _ in range(40):
            queue.add(Claim("busy"))
        assert queue.estimated_wait("busy") == 0

    asyncio.run(story())


# ---- slots


def limits(**changes: float) -> DatabaseLimits:
    given = {"acquire_timeout": 60.0, "max_waiting": 1_000, "longest_wait": inf, **changes}
    return DatabaseLimits(
        read_connections=1,
        write_connections=1,
        read_timeout=1.0,
        write_timeout=1.0,
        acquire_timeout=given["acquire_timeout"],
        max_waiting=int(given["max_waiting"]),
        longest_wait=given["longest_wait"],
    )


class World:
    """Callers of `size` shared slots and a reserved one. None is the gateway itself."""

    def __init__(self, size: int, **changes: float) -> None:
        self.size = size
        self.slots = FairSlots(size, limits(**changes), reserved=1, shared=True)
        self.held: list[Claim | None] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def acquire(self, caller: str | None) -> "asyncio.Task[None]":
        """Starts to acquire a slot. The task is done if it has one."""

        async def hold() -> None:
            CLAIM.set(None if caller is None else Claim(caller))
            self.held.append(await self.slots.acquire())

        task = asyncio.create_task(hold())
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def release(self, place: int) -> None:
        self.slots.release(self.held.pop(place % len(self.held)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def check(self) -> None:
        by_caller = Counter(claim.caller for claim in self.held if claim is not None)
        own = self.held.count(None)
        waiting = len(self.tasks) - sum(task.done() for task in self.tasks)
        assert self.slots.load == Load(len(self.held), waiting)
        assert sum(by_caller.values()) <= self.size
        assert len(self.held) <= self.size + 1
        assert max(by_caller.values(), default=0) <= (self.size + 1) // 2
        free = self.size + 1 - len(self.held)
        assert own or free, "no slot is reserved"


@given(size=st.integers(1, 6), steps=st.lists(st.sampled_from(["a", "b", "c", "d", None]) | st.integers(0, 9)))
def test_no_caller_holds_more_slots_than_half(size: int, steps: list[str | int | None]) -> None:
    """A step is a caller that acquires a slot, or the place of a slot that is released."""

    async def story() -> None:
        world = World(size)
        for step in steps:
            if isinstance(step, int):
                if world.held:
                    await world.release(step)
            else:
                holds = any(claim is not None and claim.caller == step for claim in world.held)
                free = world.size + 1 - len(world.held) - (None not in world.held)
                task = await world.acquire(step)
                assert task.done() or holds or free <= 0, "a caller without a slot waits although one is free"
            world.check()
        for _ in range(2 * len(steps)):
            if world.held:
                await world.release(0)
        assert all(task.done() for task in world.tasks)
        assert world.slots.load == Load(0, 0)

    asyncio.run(story())


def test_a_caller_beyond_its_share_is_refused() -> None:
    """When its part of the queue is full, and when it has waited too long. Streams wait without limit."""

    async def story() -> None:
        world = World(4, max_waiting=4, acquire_timeout=0.5)  # what is not awaited happens within it
        waiting = [await world.acquire("busy") for _ in range(4)]
        assert [task.done() for task in waiting] == [True, True, False, False]
        message = "Your requests use your share of the database: 2 are running and 2 are waiting. Retry when some have"
        with pytest.raises(Throttled, match=message) as refused:
            await (await world.acquire("busy"))
        assert refused.value.retry_after == 1

        async def stream() -> None:
            CLAIM.set(Claim("busy", stream=True))
            world.held.append(await world.slots.acquire())

        streams = [asyncio.create_task(stream()) for _ in range(20)]
        assert (await world.acquire("other")).done()
        assert (await world.acquire(None)).done()
        for task in waiting[2:]:
            with pytest.raises(Throttled):
                await task
        assert not any(task.done() for task in streams)
        while not all(task.done() for task in streams):
            await world.release(0)

    asyncio.run(story())


def test_without_a_free_slot_the_database_is_busy() -> None:
    async def story() -> None:
        slots = FairSlots(2, limits(acquire_timeout=0.01, max_waiting=1))
        CLAIM.set(Claim("one"))
        held = [await slots.acquire() for _ in range(2)]
        waiting = asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match=r"^The database queue is full: 1 requests are waiting already\.$"):
            await slots.acquire()
        with pytest.raises(Unavailable, match=r"^All database connections are busy\.$"):
            await waiting
        for claim in held:
            slots.release(claim)
        assert slots.load == Load(0, 0)

    asyncio.run(story())


@given(st.lists(st.tuples(CALLERS, st.booleans()), min_size=1, max_size=20))
def test_a_thread_works_for_one_caller_after_the_other(arrivals: list[tuple[str, bool]]) -> None:
    """The first piece of work blocks until all others wait, some of which are canceled then."""
    begun: list[str] = []
    release = threading.Event()

    async def story() -> None:
        thread = FairThread()
        first = asyncio.create_task(thread.run(release.wait))
        await asyncio.sleep(0)

        async def work(caller: str) -> str:
            CLAIM.set(Claim(caller))
            await thread.run(lambda: begun.append(caller))
            return caller

        tasks = [(asyncio.create_task(work(caller)), canceled) for caller, canceled in arrivals]
        await asyncio.sleep(0)
        for task, canceled in tasks:
            if canceled:
                task.cancel()
        release.set()
        done = await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
        assert await first
        expected = [caller for caller, canceled in arrivals if not canceled]
        assert [result for result in done if not isinstance(result, BaseException)] == expected
        assert Counter(begun) == Counter(expected)
        if len(expected) == len(arrivals):
            assert begun == round_robin(expected)
        assert await thread.run(lambda: "free")

    asyncio.run(story())


def test_a_thread_is_busy_until_canceled_work_ends() -> None:
    """The error of work whose task was canceled is dropped, and the next task gets its turn."""
    release, order = threading.Event(), list[str]()

    def fail() -> None:
        release.wait()
        order.append("first")
        raise ValueError("dropped")

    async def story() -> None:
        thread = FairThread()
        canceled = asyncio.create_task(thread.run(fail))
        await asyncio.sleep(0)
        canceled.cancel()
        await asyncio.gather(canceled, return_exceptions=True)
        following = asyncio.create_task(thread.run(lambda: order.append("second")))
        await asyncio.sleep(0)
        release.set()
        await following
        with pytest.raises(ValueError, match="reported"):
            await thread.run(lambda: raise_error(ValueError("reported")))

    asyncio.run(story())
    assert order == ["first", "second"]


def raise_error(error: Exception) -> None:
    raise error
