"""The ec2 driver on moto."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.models import MachineKind
from tests.drivers.subject import Subject
from tests.hypervisors import ec2

PART = "ec2"


def lacking() -> str | None:
    return None  # its requirements are dependencies of the tests


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    with ec2.cloud() as cloud:
        machine, stopped, gone = cloud.launch(), cloud.launch("stopped"), cloud.launch("gone")
        cloud.aws.stop_instances(InstanceIds=[stopped])
        cloud.aws.terminate_instances(InstanceIds=[gone])
        yield Subject(cloud.driver(), machine, MachineKind.INSTANCE)
