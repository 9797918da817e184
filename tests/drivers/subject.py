"""What the contract is tried on: a driver, and a machine that it has."""

from dataclasses import dataclass

from gateway.drivers.base import CreateCommand, Driver
from gateway.models import MachineKind


@dataclass
class Subject:
    """`machine` has no snapshots, and can have some made with `memory`; nothing else happens to it meanwhile."""

    driver: Driver
    machine: str
    kind: MachineKind = MachineKind.VM
    memory: bool = False
    descriptions: bool = True  # whether its snapshots have any

    def wish(self, name: str, description: str | None = None) -> CreateCommand:
        """To make a snapshot of the machine."""
        return CreateCommand(self.machine, name, description, self.memory)

    def description(self, text: str) -> str | None:
        """What becomes of a description on the provider."""
        return text if self.descriptions else None
