"""What a fleet with an odd machine is, and what the gateway has to show of it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.drivers.base import Driver

SNAPSHOTS = ("first", "second")  # the names of the snapshots of each machine
NEW_SNAPSHOT = "third"


def machine_name(number: int) -> str:
    """The usual name of a machine."""
    return f"machine-{number:02}"


@dataclass(frozen=True, slots=True)
class Oddity:
    """What is shown of a machine that is odd in one respect, from then on and if it was listed before.

    `name` and `snapshots` are the names that are shown, with `{ref}` for the machine's ref; a name of None: as before.
    `reason` is a part of the provider's `problem`; None: there is no problem. `identified` is false if the entry does
    not show which machine it is: then the problem cannot name the machine. `gone_noticed` is false if any machine that
    is not listed may be that one: then none is marked as gone.
    """

    reason: str | None
    name: str | None = None
    snapshots: Sequence[str] = SNAPSHOTS
    identified: bool = True
    gone_noticed: bool = True


class Fleet(Protocol):
    """A provider with machines of two snapshots each, numbered from 0."""

    def ref(self, number: int) -> str:
        """The provider's identifier of a machine."""
        ...

    def driver(self, odd: Mapping[int, str], removed: int | None, extended: int | None) -> Driver:
        """A driver of the provider, in this state until the next call; the caller closes it.

        `odd` are the oddities by the number of the machine. The machine `removed` does not exist, and the machine
        `extended` has one more snapshot.
        """
        ...


class FleetModule(Protocol):
    """A module of `tests.drivers.odd`."""

    PART: str
    ODDITIES: Mapping[str, Oddity]

    def lacking(self) -> str | None: ...

    def fleet(self, directory: Path, size: int) -> AbstractContextManager[Fleet]: ...
