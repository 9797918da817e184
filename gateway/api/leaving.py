"""Ends a read whose client has left, so that its SQL does not go on for nobody."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from gateway.api.body import ClientGone

T = TypeVar("T")

_MOMENT = 0.1  # seconds that a read may take without anybody looking whether its client is there


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of `work`, which must change nothing. Raises ClientGone when the client leaves before."""
    watch = _Watch(receive)
    timer = asyncio.get_running_loop().call_later(_MOMENT, watch.begin)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.gone:
            raise ClientGone from None
        raise
    finally:
        timer.cancel()
        watch.end()


class _Watch:
    __slots__ = ("_looking", "_receive", "_task", "gone")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task = asyncio.current_task()
        self._looking: asyncio.Task[None] | None = None
        self.gone = False

    def begin(self) -> None:
        self._looking = asyncio.create_task(self._look())

    def end(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        assert self._task is not None
        self._task.cancel()
