"""The simulated driver on a database of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.drivers.simulator.driver import SimulatedDriver
from gateway.drivers.simulator.world import SimulatedWorld
from gateway.models import MachineKind, PowerState
from gateway.store.database_url import open_database
from gateway.store.migrate import migrate
from tests.drivers.subject import Subject

PART = "simulated"


def lacking() -> str | None:
    return None


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    url = f"sqlite:///{directory}/gateway.db"
    migrate(url)
    database = open_database(url, read_connections=2, write_connections=1, read_timeout=10)
    simulated = SimulatedWorld(database)
    for ref, kind, power in (
        ("vm", MachineKind.VM, PowerState.ON),
        ("off", MachineKind.VM, PowerState.OFF),
        ("instance", MachineKind.INSTANCE, PowerState.ON),
    ):
        await simulated.put_machine(ref, provider="p", kind=kind, name=ref, power_state=power, latency_ms=5)
    await simulated.put_machine("foreign", provider="q", kind=MachineKind.VM, name="foreign")
    try:
        yield Subject(SimulatedDriver("p", simulated), "vm")
    finally:
        await database.close()
