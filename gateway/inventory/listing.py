"""Prepares what a provider reports for the merge into the inventory, whatever that is.

A driver reads odd fields as far as it can (`gateway.drivers.base`). What is left is odd about several records together,
such as two with one ref, or got past the driver. It costs the record at most, and has a `problem` for people.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice

from gateway.drivers.base import UNKNOWN_TIME, ReportedMachine, ReportedSnapshot, ReportedSnapshots
from gateway.errors import ProviderUnavailable
from gateway.models import PowerState

MAX_TEXT = 64 * 2**20  # bytes of all texts in one listing, in UTF-8

_MAX_QUOTED = 100  # characters of an identifier in a message
_MAX_SHOWN = 3  # problems in one text
_SNAPSHOT_TEXTS = ("ref", "parent_ref", "token", "name", "description")
_MACHINE_TEXTS = ("ref", "uid", "name", "description", "host", "flavor", "availability_zone", "snapshot_blocker")


@dataclass(slots=True)
class SnapshotListing:
    """The snapshots of one machine by ref, parents before children. None is its own ancestor."""

    snapshots: dict[str, ReportedSnapshot] = field(default_factory=dict)
    current_ref: str | None = None
    # Whether a snapshot that is not listed is missing. Otherwise it may be an entry that has no valid ref.
    complete: bool = True
    problem: str | None = None


@dataclass(slots=True)
class MachineListing:
    """The machines of a provider by ref, and what is odd about some of them, also by ref."""

    machines: dict[str, ReportedMachine] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    without_ref: list[str] = field(default_factory=list)  # the reason for each entry that has no valid ref


def arrange_machines(reported: Sequence[ReportedMachine], max_text: int = MAX_TEXT) -> MachineListing:
    """The machines of a provider. Of several with one ref the first is used. Linear.

    Raises ProviderUnavailable when the listing has more than `max_text` bytes of text.
    """
    _check_size(reported, _MACHINE_TEXTS, max_text)
    listing = MachineListing()
    for given in reported:
        if not given.ref:
            listing.without_ref.append(given.unreadable or "A machine has no identifier.")
            continue
        machine, oddity = _checked_machine(given)
        known = listing.machines.setdefault(machine.ref, machine)
        if known != machine:
            oddity = "It is listed more than once, with different data."
        if problem := " ".join(filter(None, (known.problem, oddity))):
            listing.problems[machine.ref] = problem
    return listing


def arrange_snapshots(reported: ReportedSnapshots, max_text: int = MAX_TEXT) -> SnapshotListing:
    """The snapshots of a machine. Linear, also for a chain. Raises ProviderUnavailable as `arrange_machines` does.

    Of several with one ref the first is used. A parent that is not listed remains the parent, because the inventory may
    have it. Of snapshots that are each other's ancestors, one loses its parent.
    """
    _check_size(reported.snapshots, _SNAPSHOT_TEXTS, max_text)
    problems = [reported.problem] if reported.problem else []
    given: dict[str, ReportedSnapshot] = {}
    for each in reported.snapshots:
        snapshot, oddity = _checked_snapshot(each)
        if given.setdefault(snapshot.ref, snapshot) != snapshot:
            oddity = "It is listed more than once, with different data."
        if oddity:
            problems.append(f"Snapshot {quoted(snapshot.ref)}: {oddity}")
    listing = SnapshotListing(current_ref=reported.current_ref, complete=not reported.omitted)
    cyclic = [found for ref in given if (found := _place(ref, given, listing.snapshots)) is not None]
    problems += [f"Snapshot {quoted(ref)}: It is listed as its own ancestor." for ref in cyclic]
    problems += [
        f"Snapshot {quoted(ref)}: Its parent {quoted(snapshot.parent_ref)} is not listed."
        for ref, snapshot in listing.snapshots.items()
        if snapshot.parent_ref is not None and snapshot.parent_ref not in given
    ]
    listing.problem = shown(problems, len(problems)) or None
    return listing


def _place(ref: str, given: Mapping[str, ReportedSnapshot], placed: dict[str, ReportedSnapshot]) -> str | None:
    """Adds a snapshot to `placed`, after its ancestors. Returns the ref of one that was its own ancestor, if any."""
    path: dict[str, ReportedSnapshot] = {}
    cyclic = None
    step: str | None = ref
    while step is not None and step in given and step not in placed:
        path[step] = snapshot = given[step]
        if snapshot.parent_ref in path:
            cyclic, path[step] = step, replace(snapshot, parent_ref=None)
        step = path[step].parent_ref
    for each in reversed(path):
        placed[each] = path[each]
    return cyclic


def shown(problems: Iterable[str], number: int) -> str:
    """The first few of a number of problems as one text, and the number of the others."""
    more = number - _MAX_SHOWN
    return " ".join([*islice(problems, _MAX_SHOWN), *([f"And {more:,} more."] if more > 0 else [])])


def quoted(text: str) -> str:
    """A name or identifier in a text for people: its first 100 characters, with escapes for control characters."""
    return repr(text[:_MAX_QUOTED])


# ---- single records


def _checked_machine(machine: ReportedMachine) -> tuple[ReportedMachine, str | None]:
    """The machine with what can be stored of it, and what cannot, as text for people."""
    name: object = machine.name
    power_state: object = machine.power_state
    created_at = None if machine.created_at is None else _in_utc(machine.created_at)
    odd = {
        "name": not isinstance(name, str),
        "power state": not isinstance(power_state, PowerState),
        "creation time": created_at is None and machine.created_at is not None,
    }
    if created_at is machine.created_at and not any(odd.values()):
        return machine, None
    checked = replace(
        machine,
        name=name if isinstance(name, str) else machine.ref,
        power_state=power_state if isinstance(power_state, PowerState) else PowerState.UNKNOWN,
        created_at=created_at,
    )
    return checked, _not_storable(odd)


def _checked_snapshot(snapshot: ReportedSnapshot) -> tuple[ReportedSnapshot, str | None]:
    """The snapshot with what can be stored of it, and what cannot, as text for people."""
    name: object = snapshot.name
    memory: object = snapshot.memory
    ready: object = snapshot.ready
    created_at = _in_utc(snapshot.created_at)
    odd = {
        "name": not isinstance(name, str),
        "memory flag": not isinstance(memory, bool),
        "state": not isinstance(ready, bool),
        "creation time": created_at is None,
    }
    if created_at is snapshot.created_at and not any(odd.values()):
        return snapshot, None
    checked = replace(
        snapshot,
        name=name if isinstance(name, str) else snapshot.ref,
        memory=memory is True,
        ready=ready is not False,
        created_at=created_at or UNKNOWN_TIME,
    )
    return checked, _not_storable(odd)


def _not_storable(odd: Mapping[str, bool]) -> str | None:
    labels = [label for label, is_odd in odd.items() if is_odd]
    return f"The {' and the '.join(labels)} cannot be stored." if labels else None


def _in_utc(moment: object) -> datetime | None:
    """The time in UTC, as which one without an offset is read. None if it is none, or out of range in UTC."""
    if not isinstance(moment, datetime):
        return None
    if moment.tzinfo is UTC:
        return moment
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        return None


def _check_size(records: Iterable[ReportedMachine | ReportedSnapshot], fields: Sequence[str], max_text: int) -> None:
    """Raises ProviderUnavailable when the texts of the records are too long together."""
    size = 0
    for record in records:
        for name in fields:
            text = getattr(record, name)
            size += len(text.encode()) if isinstance(text, str) else 0
    if size > max_text:
        raise ProviderUnavailable(f"The provider's listing has {size:,} bytes of text; at most {max_text:,} are read.")
