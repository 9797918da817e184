"""A driver on an instance of its own, for tests that call the driver synchronously."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.drivers.base import CreateCommand, DeleteCommand, ReportedSnapshot, Work
from gateway.drivers.ec2.driver import Ec2Driver
from tests.hypervisors.ec2 import Cloud, cloud

T = TypeVar("T")


@dataclass
class Lab:
    """`machine` is a running instance without images."""

    cloud: Cloud
    driver: Ec2Driver
    machine: str
    runner: asyncio.Runner

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def create_command(self, name: str = "before", description: str | None = None) -> CreateCommand:
        return CreateCommand(self.machine, name, description, False)

    def create(self, name: str = "before", token: str = "token", description: str | None = None) -> ReportedSnapshot:
        return self.run(self.driver.create(Work(token), self.create_command(name, description)))

    def delete(self, snapshot_ref: str, work: Work | None = None) -> None:
        self.run(self.driver.delete(work or Work("d"), DeleteCommand(self.machine, snapshot_ref)))

    def recover(self, token: str = "token", task_ref: str | None = None) -> Any:
        """Recovers a create."""
        return self.run(self.driver.recover(Work(token, task_ref), self.create_command()))

    def recover_delete(self, snapshot_ref: str, task_ref: str | None = None) -> Any:
        return self.run(self.driver.recover(Work("d", task_ref), DeleteCommand(self.machine, snapshot_ref)))

    def snapshots(self) -> list[ReportedSnapshot]:
        return [*self.run(self.driver.snapshots(self.machine)).snapshots]

    def tags(self, kind: str, ref: str) -> dict[str, str]:
        """The tags of an image or of an EBS snapshot, as another client sees them."""
        found = (
            self.cloud.aws.describe_images(ImageIds=[ref])["Images"]
            if kind == "image"
            else self.cloud.aws.describe_snapshots(SnapshotIds=[ref])["Snapshots"]
        )
        return {tag["Key"]: tag["Value"] for tag in found[0]["Tags"]}


@contextmanager
def ec2_lab(**options: Any) -> Iterator[Lab]:
    """A lab with a new instance in an empty cloud."""
    with cloud() as made, asyncio.Runner() as runner:
        driver = made.driver(**options)
        try:
            yield Lab(made, driver, made.launch(), runner)
        finally:
            runner.run(driver.close())
