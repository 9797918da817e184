"""The bounded queue of a WebSocket, and the bytes that it reports as waiting."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gateway.graphql.transports.websocket.send_queue import QueueFull, SendQueue

SIZES = st.sampled_from([1, 1_000, 65_536, 65_537, 200_000])


@given(steps=st.lists(st.one_of(SIZES, st.none()), max_size=40))
def test_messages_are_held_until_they_are_written(steps: list[int | None]) -> None:
    """A number puts a message of that size, None takes one. What waits behind another message, or is large, is held
    until the next message is taken, by when it has been written.
    """
    held: list[int] = []
    queue = SendQueue(5, 500_000, held.append)
    waiting: list[tuple[int, int]] = []  # the size and the held bytes of each message
    written = 0  # held bytes of the message that was taken last

    async def run() -> None:
        nonlocal written
        for size in steps:
            if size is None:
                message = await queue.take(0)
                taken = waiting.pop(0) if waiting else None
                assert (None if message is None else len(message)) == (None if taken is None else taken[0])
                written = 0 if taken is None else taken[1]
                continue
            total = sum(one for one, _ in waiting)
            try:
                queue.put(b"x" * size)
            except QueueFull:
                assert len(waiting) == 5 or total + size > 500_000
            else:
                waiting.append((size, size if waiting or size > 65_536 else 0))
            assert sum(held) == sum(one for _, one in waiting) + written
        queue.close()

    asyncio.run(run())
    assert sum(held) == 0
