"""A double of OpenStack, which answers as the real one did; that one is the world `openstack_real`."""

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
    return None  # what it needs comes with the tests


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    with patch.object(api, "LOOK", 0.001), cloud() as double:
        machine = double.boot()
        for state in ("stopped", "building"):
            double.boot(state, state)
        double.boot("foreign", id="foreign", tenant_id="theirs")
        yield Subject(double.driver(), machine, MachineKind.INSTANCE)
