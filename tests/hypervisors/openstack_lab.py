"""A driver and a server in a test double of OpenStack, for tests that call the driver synchronously."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest.mock import patch

from gateway.drivers.base import CreateCommand, DeleteCommand, ReportedSnapshot, Work
from gateway.drivers.openstack import api
from gateway.drivers.openstack.driver import OpenStackDriver
from tests.hypervisors.openstack_double import Cloud, cloud

T = TypeVar("T")


class Crash(Exception):
    """Stands for a crash of the gateway."""


async def crash(*_: object) -> None:
    raise Crash


@dataclass
class Lab:
    """`machine` is a running server without images."""

    cloud: Cloud
    driver: OpenStackDriver
    machine: str
    runner: asyncio.Runner

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def create_command(self, name: str = "before", description: str | None = None) -> CreateCommand:
        return CreateCommand(self.machine, name, description, False)

    def create(self, work: Work | None = None, **command: Any) -> ReportedSnapshot:
        return self.run(self.driver.create(work or Work("token"), self.create_command(**command)))

    def delete(self, snapshot_ref: str, work: Work | None = None) -> None:
        self.run(self.driver.delete(work or Work("d"), DeleteCommand(self.machine, snapshot_ref)))

    def recover(self, token: str = "token", task_ref: str | None = None) -> Any:
        """Recovers a create."""
        return self.run(self.driver.recover(Work(token, task_ref), self.create_command()))

    def recover_delete(self, snapshot_ref: str, task_ref: str | None = None) -> Any:
        return self.run(self.driver.recover(Work("d", task_ref), DeleteCommand(self.machine, snapshot_ref)))

    def snapshots(self, machine: str | None = None) -> list[ReportedSnapshot]:
        return [*self.run(self.driver.snapshots(machine or self.machine)).snapshots]

    def writes(self) -> list[str]:
        """The writing requests to Nova, Glance and Cinder since the last call of this, without ids."""
        writes = [" ".join(line.split("/")[:2]) for line in self.cloud.writes]
        self.cloud.writes.clear()
        return writes


@contextmanager
def openstack_lab(volumes: int = 0, **options: Any) -> Iterator[Lab]:
    """A lab with a new server, which runs from this number of volumes."""
    with patch.object(api, "POLL_INTERVAL", 0.001), cloud() as made, asyncio.Runner() as runner:
        driver = made.driver(**options)
        try:
            yield Lab(made, driver, made.boot(volumes=volumes), runner)
        finally:
            runner.run(driver.close())
