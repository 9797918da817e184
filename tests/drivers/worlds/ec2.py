"""Instances of a cloud that moto plays."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.models import MachineKind
from tests.drivers.subject import Subject
from tests.hypervisors import ec2

PART = "ec2"


def lacking() -> str | None:
    return None  # what it needs comes with the tests


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    with ec2.cloud() as cloud:
        machine, stopped, gone = cloud.launch(), cloud.launch("stopped"), cloud.launch("gone")
        cloud.aws.stop_instances(InstanceIds=[stopped])
        cloud.aws.terminate_instances(InstanceIds=[gone])
        yield Subject(cloud.driver(), machine, MachineKind.INSTANCE)
