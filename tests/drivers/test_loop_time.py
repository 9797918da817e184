"""Tests that drivers read many records off the event loop; `python -m tests.drivers.loop_time` prints the times."""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import pytest

from gateway.drivers.base import ReportedMachine, ReportedSnapshot, ReportedSnapshots
from tests.databases import required
from tests.drivers.loop_time.worlds import NAMES, LargeWorld, calls, large_module

_RECORDS = 60
_MAX_CONSTRUCTED = 10  # records that a call constructs on the event loop, whatever their number
_CONSTRUCTORS = {class_.__post_init__.__code__ for class_ in (ReportedMachine, ReportedSnapshot)}


async def constructed(world: LargeWorld) -> Counter[str]:
    """The number of records that are constructed in the thread of the event loop, by call."""
    machine = await world.driver.machine(world.machine)
    refs = [snapshot.ref for snapshot in (await world.driver.snapshots(world.machine)).snapshots]
    found, title = Counter[str](), ""

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in _CONSTRUCTORS:
            found[title] += 1

    for title, call in calls(world, machine.power_state, refs):
        found[title] = 0
        sys.setprofile(note)  # of this thread alone
        try:
            result = (await asyncio.gather(call(), return_exceptions=True))[0]
        finally:
            sys.setprofile(None)
        if title.startswith("list"):
            listed = result.snapshots if isinstance(result, ReportedSnapshots) else result
            assert isinstance(listed, Sequence)
            assert len(listed) == _RECORDS
    await world.driver.close()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_records_are_read_in_other_threads(name: str, tmp_path: Path) -> None:
    """A driver with many records constructs them in the threads of its calls, for a listing and for each operation."""
    module = large_module(name)
    if reason := module.lacking():
        (pytest.fail if required(module.PART) else pytest.skip)(reason)
    with module.world(tmp_path, _RECORDS, _RECORDS) as world:
        found = asyncio.run(constructed(world))
    assert {"list the machines", "list its snapshots", "create", "recover a create", "delete"} <= found.keys()
    assert {title: number for title, number in found.items() if number > _MAX_CONSTRUCTED} == {}
