"""What an import left out or changed: odd records cost themselves, and the import reports them."""

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from gateway.errors import StartupError
from gateway.printable_text import printable

MAX_LISTED = 100  # problems that are listed; the others are counted, so that memory stays bounded


class ImportRefused(StartupError):
    """The files cannot be imported; nothing was written. `position` is a place in a file, such as `resources[17]`."""

    def __init__(self, position: str, reason: str) -> None:
        super().__init__(printable(f"{position}: {reason}" if position else reason))
        self.position = position
        self.reason = reason


class Consequence(Enum):
    """What a problem costs. The value is the sentence that ends its message."""

    MACHINE = "The machine was left out."
    SNAPSHOT = "The snapshot was left out."
    PARENT = "The snapshot was imported without a parent."
    CURRENT = "The snapshot was imported as not current."
    INCOMPLETE = "Machines and snapshots that are missing from the files were not changed."


class Problem(NamedTuple):
    """One problem. `position` is the file and the place in it, such as `vms.json: resources[17].snapshots[3]`."""

    position: str
    reason: str
    consequence: Consequence

    def __str__(self) -> str:
        return printable(f"{self.position}: {self.reason} {self.consequence.value}")


class Problems:
    """The problems of an import: the first MAX_LISTED of them, and the numbers of all."""

    def __init__(self) -> None:
        self.listed: list[Problem] = []
        self.snapshots_of_machines = 0  # snapshots that were left out with their machines, which no problem counts
        self._counts: Counter[Consequence] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, position: str, reason: str, consequence: Consequence) -> None:
        """Adds one problem."""
        self.add_all([(position, reason)], consequence, 1)

    def add_all(self, found: Sequence[tuple[str, str]], consequence: Consequence, count: int) -> None:
        """Adds `count` problems, of which `found` has the positions and reasons of the first."""
        self._counts[consequence] += count
        room = MAX_LISTED - len(self.listed)
        self.listed += [Problem(position, reason, consequence) for position, reason in found[:room]]

    @property
    def left_out(self) -> tuple[int, int]:
        """The numbers of machines and of snapshots that were left out."""
        snapshots = self._counts[Consequence.SNAPSHOT] + self.snapshots_of_machines
        return self._counts[Consequence.MACHINE], snapshots

    def refusal(self) -> ImportRefused:
        """The error of an import that left out all machines: the first of their problems."""
        machines = [problem for problem in self.listed if problem.consequence is Consequence.MACHINE]
        first = (machines or self.listed)[0]
        return ImportRefused(first.position, first.reason)

    def lines(self) -> list[str]:
        """The messages of the listed problems, and the number of the others."""
        others = len(self) - len(self.listed)
        return [*map(str, self.listed), *([f"{others:,} more problems are not listed."] if others else [])]
