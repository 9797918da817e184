"""The vsphere driver on vcsim, govmomi's vCenter simulator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.drivers.subject import Subject
from tests.hypervisors import vcenter

PART = "vsphere"


def lacking() -> str | None:
    return vcenter.lacking()


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    with vcenter.vcenter(directory) as running:
        driver = running.driver()
        yield Subject(driver, await vcenter.named(driver, "on"), memory=True)
