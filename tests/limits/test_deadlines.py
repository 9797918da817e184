"""Time limits and disconnected clients cancel a task, once, and leave it usable. Cancellation from elsewhere wins."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.deadlines import Deadline
from gateway.http.body import ClientDisconnected
from gateway.http.client_disconnect import DisconnectWatcher

Run = Callable[[Awaitable[Any]], Awaitable[Any]]


async def _disconnected() -> dict[str, str]:
    return {"type": "http.disconnect"}


def _deadline() -> tuple[Run, type[Exception]]:
    return Deadline(0.01).run, TimeoutError


def _watcher() -> tuple[Run, type[Exception]]:
    watcher = DisconnectWatcher()
    return lambda work: watcher.run(work, _disconnected), ClientDisconnected


WATCHDOGS = pytest.mark.parametrize("make", [_deadline, _watcher], ids=["deadline", "disconnect"])


async def _endless() -> None:
    await asyncio.Event().wait()


async def _one() -> int:
    return 1


@WATCHDOGS
def test_endless_work_is_canceled_and_the_task_goes_on(make: Callable[[], tuple[Run, type[Exception]]]) -> None:
    async def main() -> None:
        run, error = make()
        task: Any = asyncio.current_task()
        for _ in range(2):
            with pytest.raises(error):
                await run(_endless())
            assert task.cancelling() == 0
        # A pending cancellation would make this raise CancelledError instead.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await _endless()
        assert await run(_one()) == 1

    asyncio.run(main())


@WATCHDOGS
def test_cancellation_from_elsewhere_is_not_replaced(make: Callable[[], tuple[Run, type[Exception]]]) -> None:
    async def main() -> None:
        run, _ = make()
        task = asyncio.create_task(_awaiting(run(_endless())))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())


@WATCHDOGS
def test_cancellation_by_both_is_that_from_elsewhere(make: Callable[[], tuple[Run, type[Exception]]]) -> None:
    async def main() -> None:
        run, _ = make()

        async def cancel_again() -> None:
            try:
                await _endless()
            except asyncio.CancelledError:
                task.cancel()  # before the watchdog has replaced its own cancellation
                raise

        task = asyncio.create_task(_awaiting(run(cancel_again())))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_nested_watchdogs_cancel_only_their_own_work() -> None:
    async def main() -> None:
        outer, error = _watcher()
        inner = Deadline(60)
        with pytest.raises(error):
            await outer(inner.run(_endless()))
        outer, inner = Deadline(60).run, Deadline(0.01)

        async def work() -> str:
            with pytest.raises(TimeoutError):
                await inner.run(_endless())
            return "later"

        assert await outer(work()) == "later"

    asyncio.run(main())


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
