"""The openstack driver on a test double of OpenStack. The world `openstack_real` uses a real one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

from gateway.drivers.openstack import api
from gateway.models import MachineKind
from tests.drivers.subject import Subject
from tests.hypervisors.openstack_double import cloud

PART = "openstack"


def lacking() -> str | None:
    return None  # its requirements are dependencies of the tests


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    with patch.object(api, "POLL_INTERVAL", 0.001), cloud() as double:
        machine = double.boot()
        for state in ("stopped", "building"):
            double.boot(state, state)
        double.boot("foreign", id="foreign", tenant_id="theirs")
        yield Subject(double.driver(), machine, MachineKind.INSTANCE)
