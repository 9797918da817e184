"""The openstack driver on a real OpenStack, if `make openstack-test` has started one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.drivers.openstack.driver import Options, make
from gateway.drivers.options import Secret
from gateway.models import MachineKind
from tests.drivers.subject import Subject
from tests.openstack.cloud import URL, delete_server, make_server

PART = "openstack_real"


def lacking() -> str | None:
    return None if URL else "No real OpenStack is running. Start it with: make openstack-test"


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    options = Options(address=URL, user="admin", password=Secret("pw"), project="admin", region="RegionOne")
    ref = make_server("machine", directory)
    try:
        yield Subject(make("cloud", options, 4), ref, MachineKind.INSTANCE)
    finally:
        delete_server(ref)
