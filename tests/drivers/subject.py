"""The subject of the contract tests: a driver, and a machine of its provider."""

from dataclasses import dataclass

from gateway.drivers.base import CreateCommand, Driver
from gateway.models import MachineKind


@dataclass
class Subject:
    """A driver, and a machine without snapshots that only the test uses. It can be snapshotted with this `memory`."""

    driver: Driver
    machine: str
    kind: MachineKind = MachineKind.VM
    memory: bool = False
    descriptions: bool = True  # whether the provider stores descriptions of snapshots

    def create_command(self, name: str, description: str | None = None) -> CreateCommand:
        """A command that creates a snapshot of the machine."""
        return CreateCommand(self.machine, name, description, self.memory)

    def description(self, text: str) -> str | None:
        """The description that the provider stores."""
        return text if self.descriptions else None
