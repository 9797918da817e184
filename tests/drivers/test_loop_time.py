"""Tests that drivers read many records off the event loop; `python -m tests.drivers.loop_time` prints the times."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from gateway.drivers.base import ReportedMachine, ReportedSnapshot
from tests.databases import required
from tests.drivers.loop_time.measuring import measured
from tests.drivers.loop_time.worlds import NAMES, LargeWorld, calls, large_module

_RECORDS = 60
_MAX_CONSTRUCTED = 10  # records in one callback of the event loop, whatever their number


class Constructed:
    """Counts the records that are constructed in the thread of the event loop, by call."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.call = ""
        self.counts: Counter[str] = Counter()

    def note(self) -> None:
        if threading.get_ident() == self.thread:
            self.counts[self.call] += 1


async def record(world: LargeWorld, constructed: Constructed) -> list[str]:
    titles = []
    machine = await world.driver.machine(world.machine)
    refs = [snapshot.ref for snapshot in (await world.driver.snapshots(world.machine)).snapshots]
    assert len(refs) == _RECORDS
    for title, call in calls(world, machine.power_state, refs):
        constructed.call = title
        _, result = await measured(call)
        titles.append(title)
        if title == "list the machines":
            assert isinstance(result, list)
            assert len(result) == _RECORDS
    await world.driver.close()
    return titles


@pytest.mark.parametrize("name", NAMES)
def test_records_are_read_in_other_threads(name: str, tmp_path: Path) -> None:
    """A driver with many records constructs them in the threads of its calls, for a listing and for each operation."""
    module = large_module(name)
    if reason := module.lacking():
        (pytest.fail if required(module.PART) else pytest.skip)(reason)
    constructed = Constructed()
    with (
        module.world(tmp_path, _RECORDS, _RECORDS) as world,
        noting(ReportedMachine, constructed),
        noting(ReportedSnapshot, constructed),
    ):
        titles = asyncio.run(record(world, constructed))
    assert {"list the machines", "list its snapshots", "create", "recover a create", "delete"} <= {*titles}
    assert {title: number for title, number in constructed.counts.items() if number > _MAX_CONSTRUCTED} == {}


@contextmanager
def noting(class_: Any, constructed: Constructed) -> Iterator[None]:
    """Notes each record of the class that is constructed."""
    check = class_.__post_init__

    def noted(self: object) -> None:
        constructed.note()
        check(self)

    with patch.object(class_, "__post_init__", noted):
        yield
