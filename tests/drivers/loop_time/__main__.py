"""Prints how long the drivers hold the event loop. Exits with 1 if a callback takes more than 50 ms.

Usage: python -m tests.drivers.loop_time [--driver NAME] [--machines NUMBER] [--snapshots NUMBER]

"loop ms" is the CPU time of the longest callback. "pause ms" is the longest real time for which the event loop did not
run, the shortest of the attempts: it includes threads that hold the interpreter, and whatever else the machine does.
"""

import argparse
import asyncio
import gc
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.app import SWITCH_INTERVAL
from tests.drivers.loop_time.measuring import Held, TimedEventLoop, measured
from tests.drivers.loop_time.worlds import NAMES, LargeWorld, calls, large_module

_MAX = 0.05  # seconds
_ATTEMPTS = 3  # of calls that change nothing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", choices=NAMES, help="measure this driver alone")
    parser.add_argument("--machines", type=int, default=2_000, help="machines of the provider")
    parser.add_argument("--snapshots", type=int, default=2_000, help="snapshots of one machine, in a chain")
    parser.add_argument("--reads", action="store_true", help="make the calls alone that change nothing")
    given = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL)
    worst = 0.0
    print(f"{'driver':<10} {'call':<36} {'loop ms':>7} {'pause ms':>8} {'s':>6}  result")
    for name in [given.driver] if given.driver else NAMES:
        module = large_module(name)
        if reason := module.lacking():
            print(f"{name:<10} cannot run here: {reason}")
            continue
        with (
            tempfile.TemporaryDirectory() as place,
            module.world(Path(place), given.machines, given.snapshots) as world,
        ):
            gc.collect()
            gc.freeze()  # as the server does when it has started
            with asyncio.Runner(loop_factory=TimedEventLoop) as runner:
                worst = max(worst, runner.run(_measure(name, world, given.reads)))
    return int(worst > _MAX)


async def _measure(name: str, world: LargeWorld, reads: bool) -> float:
    """Prints a line per call. Returns the time of the longest callback, in seconds."""
    worst = 0.0
    try:
        machine = await world.driver.machine(world.machine)
        refs = [snapshot.ref for snapshot in (await world.driver.snapshots(world.machine)).snapshots]
        for title, call in calls(world, machine.power_state, refs):
            is_read = title.startswith(("list", "read"))
            if reads and not is_read:
                continue
            held, seconds, result = await _attempt(call, _ATTEMPTS if is_read or title.startswith("recover") else 1)
            worst = max(worst, held.longest)
            times = f"{held.longest * 1_000:7.1f} {held.pause * 1_000:8.1f} {seconds:6.2f}"
            print(f"{name:<10} {title:<36} {times}  {_describe(result)}", flush=True)
    finally:
        await world.driver.close()
    return worst


async def _attempt(call: Callable[[], Awaitable[object]], attempts: int) -> tuple[Held, float, object]:
    loop, found = asyncio.get_running_loop(), []
    for _ in range(attempts):
        started = loop.time()
        held, result = await measured(call)
        found.append((held, loop.time() - started, result))
    best = min(held.pause for held, _, _ in found)
    held, seconds, result = max(found, key=lambda each: each[0].longest)
    return Held(held.longest, best, held.callbacks), seconds, result


def _describe(result: object) -> str:
    if isinstance(result, list | tuple):
        return f"{len(result):,} machines"
    if (snapshots := getattr(result, "snapshots", None)) is not None:
        return f"{len(snapshots):,} snapshots"
    return f"{type(result).__name__}: {result}"[:90]


if __name__ == "__main__":
    sys.exit(main())
