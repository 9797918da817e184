"""The driver port: the contract between the gateway and the systems that run machines.

A driver imports this module, `errors` and the enums of `models`. It reports the provider's state and executes
commands; it decides nothing and stores nothing. It never returns an empty list in place of an error.

Errors: a failure that the driver cannot classify is ProviderUnavailable before the command was sent to the provider
(nothing has changed), and OutcomeUnknown afterwards (it may or may not have changed something).

Retries: the caller, `operations.execution`, follows these rules after a crash or an unknown outcome:

* `create` is called again only after `recover` has found no snapshot with the operation's token.
* `delete` may be called again. It raises ProviderMissing when the snapshot does not exist.
* `revert` is not called again after it raised OutcomeUnknown.
* `update` may be called again, and has no recovery.

Odd data. A provider's response may have any content, and one odd record costs neither its neighbors nor the rest of
itself. So a driver does not construct `ReportedMachine` and `ReportedSnapshot`, but calls `report_machine` and
`report_snapshot` with a function per field. A field whose function fails, or returns what the field cannot hold, gets
its default, and the record's `problem` states the reason. A driver thus cannot forget to handle a field. Only a
ProviderError passes: it says that the provider failed, and nothing about the entry.

    report_machine(ref, MachineKind.VM, name=lambda: entry["name"], power_state=lambda: _POWER_STATES[entry["status"]])

An entry without a valid ref is reported too, as a machine that is `unreadable`, or in `ReportedSnapshots.omitted`.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import ClassVar, Protocol, TypedDict, TypeGuard, TypeVar, Unpack, assert_never

from gateway.errors import OutcomeUnknown, ProviderError, ProviderRefused, ProviderUnavailable
from gateway.models import MachineKind, PowerState, SnapshotAction

T = TypeVar("T")
R = TypeVar("R")

_UNSUPPORTED = "The driver of the machine's provider does not support this action."

MAX_LISTED = 50_000  # machines or snapshots in one listing, and its pages; a vCenter has at most 45,000 machines
_MAX_REF_LENGTH, _MAX_NAME_LENGTH, _MAX_DESCRIPTION_LENGTH = 1_024, 1_024, 8_192  # characters
_MAX_INDEXED_BYTES = 2_000  # in UTF-8; PostgreSQL refuses a row of an index above 2,704 bytes
_MAX_SIZE = 2**63 - 1  # bytes; the largest number that the databases store
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")  # no database stores them
_MAX_QUOTED = 100  # characters of an odd value in a message

UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)  # the time of a snapshot whose time could not be read
_LATEST_TIME = datetime(9000, 1, 1, tzinfo=UTC)  # a length of time can be added to earlier ones


def count_listed(total: int, page: Sized) -> int:
    """Adds a page of a listing to the total, an empty page as one. Raises ProviderUnavailable above `MAX_LISTED`.

    Without it, a provider whose pages have no end would fill the memory.
    """
    total += max(1, len(page))
    if total > MAX_LISTED:
        raise ProviderUnavailable(f"The provider lists more than {MAX_LISTED:,} machines or snapshots.")
    return total


class OddValue(ValueError):
    """A value in a provider's response that cannot be used. The text completes "The FIELD ..."."""


# What code that reads a response may raise, as the response may have any shape.
# A SyntaxError is what the standard library's XML parser raises.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, SyntaxError, TypeError, ValueError)


@contextmanager
def parsing() -> Iterator[None]:
    """Raises ProviderUnavailable for the errors of code that reads a response, which may have any shape."""
    try:
        yield
    except _MALFORMED:
        raise ProviderUnavailable("The provider's response is malformed.") from None


def parse_timestamp(seconds: object) -> datetime:
    """A time from Unix seconds, as a number or as text. Raises OddValue for another, such as one in milliseconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, str | int | float):
        raise OddValue(f"is missing or not a number: {_quote(seconds)}")
    try:
        return datetime.fromtimestamp(float(seconds), UTC)
    except (OverflowError, ValueError, OSError):
        raise OddValue(f"{_quote(seconds)} is not a valid number of seconds since 1970") from None


def parse_iso_time(text: object) -> datetime:
    """A time from a text of ISO 8601, with or without an offset. Raises OddValue for another value."""
    if not isinstance(text, str):
        raise OddValue("is missing" if text is None else f"is not text: {_quote(text)}")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise OddValue(f"{_quote(text)} is not a time of ISO 8601") from None


def _quote(value: object) -> str:
    """A value in a message, as a literal of Python; truncated, and of containers the type alone."""
    if isinstance(value, str):
        return repr(value[:_MAX_QUOTED])
    return repr(value)[:_MAX_QUOTED] if value is None or isinstance(value, int | float) else type(value).__name__


def snapshot_depths(parents: Mapping[str, str | None]) -> dict[str, int]:
    """The number of ancestors of each snapshot, including itself, from the refs of the snapshots' parents.

    Ancestors that are not in `parents` do not count. Linear, and ends for a cycle too.
    """
    depths: dict[str, int] = {}
    for ref in parents:
        path: dict[str, None] = {}
        ancestor: str | None = ref
        while ancestor is not None and ancestor in parents and ancestor not in depths and ancestor not in path:
            path[ancestor] = None
            ancestor = parents[ancestor]
        depth = depths.get(ancestor, 0) if ancestor is not None else 0
        for below in reversed(path):
            depths[below] = depth = depth + 1
    return depths


def is_ref(ref: object) -> TypeGuard[str]:
    """Whether `ref` can be a provider's identifier: 1 to 1,024 storable characters, of at most 2,000 bytes."""
    return (
        isinstance(ref, str)
        and 0 < len(ref) <= _MAX_REF_LENGTH
        and not _NOT_STORABLE.search(ref)
        and len(ref.encode()) <= _MAX_INDEXED_BYTES
    )


def _invalid_ref(ref: object) -> str:
    return f"The provider's identifier {_quote(ref)} is not valid."


def _indexable(name: str) -> str:
    """The name, truncated to 2,000 bytes, also when its case is folded."""
    while (size := max(len(name.encode()), len(name.casefold().encode()))) > _MAX_INDEXED_BYTES:
        name = name[: len(name) * _MAX_INDEXED_BYTES // size]
    return name


def _clean_texts(record: "ReportedMachine | ReportedSnapshot", refs: Sequence[str], texts: Mapping[str, int]) -> None:
    """Makes the texts of a record storable, and truncates them. Raises ValueError for a ref that would be changed."""
    for name in refs:
        ref = getattr(record, name)
        if ref is None and name != "ref":
            continue
        if not is_ref(ref):
            raise ValueError(_invalid_ref(ref))
    for name, length in texts.items():
        text = getattr(record, name)
        if text is None:
            continue
        clean = _NOT_STORABLE.sub("\ufffd", str(text)[:length])
        if name == "name":
            clean = _indexable(clean)
        if clean != text:
            object.__setattr__(record, name, clean)


@dataclass(frozen=True, slots=True)
class Matrix:
    """The snapshot actions that a driver supports on machines of one kind: those in `supported` and no others.

    `reasons` maps an action that is not supported to the reason, as text for people, and a supported one to a reason
    per power state in which it is not.
    """

    supported: Set[SnapshotAction]
    reasons: Mapping[SnapshotAction, str | Mapping[PowerState, str]] = field(default_factory=dict)
    tree: bool = True  # snapshots have parents, and one of them is current
    # Why UPDATE cannot change the "name" or the "description" of a snapshot, as text for people.
    fixed: Mapping[str, str] = field(default_factory=dict)

    def unsupported_reason(self, action: SnapshotAction, power_state: PowerState) -> str | None:
        """Why `action` is unsupported in `power_state`, as text for people; None if it is supported."""
        reason = self.reasons.get(action)
        if isinstance(reason, str):
            return reason
        if action not in self.supported:
            return _UNSUPPORTED
        return None if reason is None else reason.get(power_state)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedSnapshot:
    """A snapshot as the provider reports it. `ref` is the provider's identifier of the snapshot.

    Raises ValueError if a ref is not a text of 1 to 1,024 storable characters. Other texts are made storable. A size
    that is no number of bytes, or too large to store, becomes None.
    """

    ref: str
    name: str
    created_at: datetime
    description: str | None = None
    memory: bool = False
    parent_ref: str | None = None
    size_bytes: int | None = None
    token: str | None = None  # of the operation that created the snapshot, if the provider stores it
    ready: bool = True  # False while the provider creates or deletes the snapshot
    problem: str | None = None  # which of the fields could not be read, and why
    token_unread: bool = False  # whether `token` is one of them

    def __post_init__(self) -> None:
        _clean_texts(self, ("ref", "parent_ref", "token"), _SNAPSHOT_TEXTS)
        if type(self.size_bytes) is not int or not 0 <= self.size_bytes <= _MAX_SIZE:
            object.__setattr__(self, "size_bytes", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedMachine:
    """A machine as the provider reports it, without its snapshots.

    Raises ValueError if a ref is not a text of 1 to 1,024 storable characters. Other texts are made storable.
    """

    ref: str
    kind: MachineKind
    name: str
    power_state: PowerState
    uid: str | None = None  # a second identifier, used by other systems
    description: str | None = None
    host: str | None = None
    flavor: str | None = None
    availability_zone: str | None = None
    created_at: datetime | None = None
    snapshot_blocker: str | None = None  # why it cannot be snapshotted in any power state, as text for people
    problem: str | None = None  # which of the fields could not be read, and why
    # Why its entry in the listing could not be read. Nothing but `ref` is then known; that is empty if the entry has no
    # valid one, so that the entry may be any machine.
    unreadable: str | None = None

    def __post_init__(self) -> None:
        identified = self.ref != "" or self.unreadable is None
        _clean_texts(self, ("ref", "uid") if identified else ("uid",), _MACHINE_TEXTS)


def unreadable_machine(ref: object, kind: MachineKind, reason: str | None = None) -> ReportedMachine:
    """A machine of whose entry nothing but the ref is known, or not even that, if `ref` is not valid.

    `reason` defaults to that.
    """
    known = ref if is_ref(ref) else ""
    unreadable = reason or _invalid_ref(ref)
    return ReportedMachine(ref=known, kind=kind, name=known, power_state=PowerState.UNKNOWN, unreadable=unreadable)


def require_readable(machine: ReportedMachine) -> ReportedMachine:
    """The machine. Raises ProviderUnavailable if it is unreadable."""
    if machine.unreadable is not None:
        raise ProviderUnavailable(machine.unreadable)
    return machine


_SNAPSHOT_TEXTS = {"name": _MAX_NAME_LENGTH, "description": _MAX_DESCRIPTION_LENGTH, "problem": _MAX_NAME_LENGTH}
_MACHINE_TEXTS = {
    **_SNAPSHOT_TEXTS,
    **dict.fromkeys(("host", "flavor", "availability_zone", "snapshot_blocker", "unreadable"), _MAX_NAME_LENGTH),
}


@dataclass(frozen=True, slots=True)
class ReportedSnapshots:
    """All snapshots of one machine at one time, parents before children, and the ref of the current snapshot.

    `omitted` has the reason for each entry of the listing that is not in `snapshots`, because it has no valid ref: a
    known snapshot that is not in `snapshots` may be that entry.
    """

    snapshots: Sequence[ReportedSnapshot]
    current_ref: str | None = None
    omitted: Sequence[str] = ()
    oddity: str | None = None  # what of the listing itself could not be read, and why

    def find_token(self, token: str) -> ReportedSnapshot | None:
        """The snapshot that the operation with this token created; None if there is certainly none.

        Raises OutcomeUnknown if it may be one whose token could not be read.
        """
        found = next((snapshot for snapshot in self.snapshots if snapshot.token == token), None)
        if found is None and (self.omitted or any(snapshot.token_unread for snapshot in self.snapshots)):
            raise OutcomeUnknown(f"It is unknown whether the snapshot was created. {self.problem}")
        return found

    @property
    def problem(self) -> str | None:
        """What could not be read, and why; of several snapshots the first and the number of the others."""
        odd = [f"Snapshot {each.ref[:_MAX_QUOTED]!r}: {each.problem}" for each in self.snapshots if each.problem]
        reasons = [*([self.oddity] if self.oddity else []), *self.omitted, *odd]
        more = f" The same applies to {len(reasons) - 1} more." if len(reasons) > 1 else ""
        return f"{reasons[0]}{more}" if reasons else None


# ---- reading entries of a provider's response

ReadField = Callable[[], object]


class MachineFields(TypedDict, total=False):
    """A function per field of a machine, which reads it from the provider's entry. The fields are ReportedMachine's."""

    uid: ReadField
    name: ReadField
    power_state: ReadField
    description: ReadField
    host: ReadField
    flavor: ReadField
    availability_zone: ReadField
    created_at: ReadField
    snapshot_blocker: ReadField


class SnapshotFields(TypedDict, total=False):
    """A function per field of a snapshot, which reads it from the provider's entry. As ReportedSnapshot's fields."""

    name: ReadField
    created_at: ReadField
    description: ReadField
    memory: ReadField
    parent_ref: ReadField
    size_bytes: ReadField
    token: ReadField
    ready: ReadField


def report_machine(ref: object, kind: MachineKind, **fields: Unpack[MachineFields]) -> ReportedMachine:
    """A machine, from functions that read its fields; see the module's description.

    Times without an offset are UTC. A machine whose `snapshot_blocker` cannot be read has one, so that no
    action is offered that may fail.
    """
    if not is_ref(ref):
        return unreadable_machine(ref, kind)
    defaults = {"name": ref, "power_state": PowerState.UNKNOWN}
    read, problems = _read_fields(fields)
    if "snapshot_blocker" in fields and "snapshot_blocker" not in read:
        defaults["snapshot_blocker"] = "It is unknown whether the machine can be snapshotted: its entry is malformed."
    machine = ReportedMachine(ref=ref, kind=kind, **(defaults | read))  # type: ignore[arg-type]
    problems += _changed_texts(machine, read)
    return replace(machine, problem=" ".join(problems)) if problems else machine


def report_snapshot(ref: object, **fields: Unpack[SnapshotFields]) -> ReportedSnapshot:
    """A snapshot, from functions that read its fields; see the module's description.

    Times without an offset are UTC; one that cannot be read becomes UNKNOWN_TIME. Raises OddValue if `ref` is invalid.
    """
    if not is_ref(ref):
        raise OddValue(f"A snapshot was left out. {_invalid_ref(ref)}")
    read, problems = _read_fields(fields)
    defaults = {"name": ref, "created_at": UNKNOWN_TIME}
    snapshot = ReportedSnapshot(ref=ref, **(defaults | read))  # type: ignore[arg-type]
    problems += _changed_texts(snapshot, read)
    unread = "token" in fields and "token" not in read
    return replace(snapshot, problem=" ".join(problems), token_unread=unread) if problems else snapshot


def report_each(entries: Iterable[T], read: Callable[[T], R]) -> tuple[list[R], tuple[str, ...]]:
    """What `read` makes of each entry, and the reasons for the entries of which it can make nothing.

    Only a ProviderError, which is about the provider and not about an entry, ends it.
    """
    found, reasons = [], []
    for entry in entries:
        try:
            found.append(read(entry))
        except ProviderError:  # the provider failed, which says nothing about the entry
            raise
        except OddValue as error:
            reasons.append(str(error))
        except Exception:  # noqa: BLE001 - an entry may have any shape, and libraries raise errors of their own
            reasons.append("An entry of the provider's response is malformed.")
    return found, tuple(reasons)


def _read_fields(fields: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """The values of the fields that could be read, and the reasons for those that could not."""
    values: dict[str, object] = {}
    problems = []
    for name, read in fields.items():
        label, check = _FIELDS[name]
        assert callable(read)
        try:
            values[name] = check(read())
        except ProviderError:  # the provider failed, which says nothing about the entry
            raise
        except OddValue as error:
            problems.append(f"The {label} {error}.")
        except Exception:  # noqa: BLE001 - an entry may have any shape, and libraries raise errors of their own
            problems.append(f"The {label} is missing or malformed.")
    return values, problems


def _changed_texts(record: ReportedMachine | ReportedSnapshot, read: Mapping[str, object]) -> list[str]:
    """The reasons for the texts that had to be changed to be stored."""
    return [
        f"The {_FIELDS[name][0]} was changed, because it is too long or contains invalid characters."
        for name in _MACHINE_TEXTS
        if name in read and getattr(record, name) != read[name]
    ]


def _check_text(value: object) -> str:
    """A text. Numbers are texts too: Proxmox VE sends a name of digits as a number."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise OddValue("is missing" if value is None else f"is not text: {_quote(value)}")


def _check_optional_text(value: object) -> str | None:
    return None if value is None else _check_text(value)


def _check_optional_ref(value: object) -> str | None:
    if value is None or is_ref(value):
        return value
    raise OddValue(f"{_quote(value)} is not a valid identifier")


def _check_power_state(value: object) -> PowerState:
    if isinstance(value, PowerState):
        return value
    raise OddValue(f"is not a power state: {_quote(value)}")


def _check_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise OddValue(f"is neither true nor false: {_quote(value)}")


def _check_size(value: object) -> int | None:
    if value is None or (type(value) is int and 0 <= value <= _MAX_SIZE):
        return value
    raise OddValue(f"is not a number of bytes: {_quote(value)}")


def _check_time(value: object) -> datetime:
    """The time in UTC, as which one without an offset is read."""
    if not isinstance(value, datetime):
        raise OddValue("is missing" if value is None else f"is not a time: {_quote(value)}")
    moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if not UNKNOWN_TIME <= moment < _LATEST_TIME:
        raise OddValue(f"{moment.isoformat()} is out of range")
    return moment


# The name of each field for people, and the function that checks and normalizes its value, or raises OddValue.
_FIELDS: Mapping[str, tuple[str, Callable[[object], object]]] = {
    "uid": ("second identifier", _check_optional_ref),
    "name": ("name", _check_text),
    "power_state": ("power state", _check_power_state),
    "description": ("description", _check_optional_text),
    "host": ("host", _check_optional_text),
    "flavor": ("flavor", _check_optional_text),
    "availability_zone": ("availability zone", _check_optional_text),
    "created_at": ("creation time", _check_time),
    "snapshot_blocker": ("ability to be snapshotted", _check_optional_text),
    "memory": ("memory flag", _check_flag),
    "parent_ref": ("parent", _check_optional_ref),
    "size_bytes": ("size", _check_size),
    "token": ("operation's token", _check_optional_ref),
    "ready": ("state", _check_flag),
}


@dataclass(frozen=True, slots=True)
class CreateCommand:
    """Create a snapshot."""

    call: ClassVar = "create"  # the method of `Driver`
    machine_ref: str
    name: str
    description: str | None
    memory: bool


@dataclass(frozen=True, slots=True)
class RevertCommand:
    """Revert the machine to a snapshot."""

    call: ClassVar = "revert"  # the method of `Driver`
    machine_ref: str
    snapshot_ref: str


@dataclass(frozen=True, slots=True)
class DeleteCommand:
    """Delete a snapshot. Its children become children of its parent."""

    call: ClassVar = "delete"  # the method of `Driver`
    machine_ref: str
    snapshot_ref: str


# The commands whose outcome the driver determines after a crash, with `recover`.
RecoverableCommand = CreateCommand | RevertCommand | DeleteCommand


@dataclass(frozen=True, slots=True)
class UpdateCommand:
    """Change the name or description of a snapshot. None leaves it as it is; an empty description clears it."""

    call: ClassVar = "update"  # the method of `Driver`
    machine_ref: str
    snapshot_ref: str
    name: str | None = None
    description: str | None = None


DriverCommand = RecoverableCommand | UpdateCommand


async def _no_op(*_: object) -> None:
    return None


@dataclass(slots=True)
class Work:
    """The operation that a command belongs to, and the callbacks by which the driver reports on it."""

    token: str  # of the operation; the driver stores it at the provider, where recovery finds it
    task_ref: str | None = None  # the provider's task, if an earlier attempt has checkpointed it
    # Commits a reference to the provider's task before the driver waits for the task, so that recovery can query it.
    checkpoint: Callable[[str], Awaitable[None]] = _no_op
    # Reports the percentage done (None if the provider does not report it) and the phase, as text for people.
    progress: Callable[[int | None, str | None], Awaitable[None]] = _no_op
    # Whether the caller has requested cancellation. A driver that cannot cancel ignores it.
    cancel_requested: Callable[[], bool] = lambda: False


class Recovery(Enum):
    """The outcome of a command that an earlier attempt may have sent to the provider."""

    DONE = "DONE"
    NOT_STARTED = "NOT_STARTED"  # the command can safely be sent again


class Canceled(Exception):
    """The provider stopped the work on request, and nothing of it remains at the provider."""


class Driver(Protocol):
    """One configured provider. Every method except `matrix` and `close` may raise any ProviderError.

    Drivers inherit from this class to get the defaults of optional methods. Constructing a driver neither connects nor
    fails, so the gateway starts while a provider is unreachable.
    """

    name: str  # of the driver, such as "libvirt"

    def matrix(self, kind: MachineKind) -> Matrix:
        """The actions supported on machines of `kind`. Pure."""
        ...

    async def machines(self) -> Sequence[ReportedMachine]:
        """All machines of the provider."""
        ...

    def change_hints(self) -> AsyncIterator[str] | None:
        """Yields the refs of machines that may have changed, until the iterator is closed; None without event support.

        A hint carries no data: the caller reads the machine again. If the iterator ends or raises, the caller starts
        a new one later.
        """
        return None

    async def machine(self, machine_ref: str) -> ReportedMachine:
        """One machine. Raises ProviderMissing."""
        ...

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        """All snapshots of one machine. Raises ProviderMissing if the machine does not exist."""
        ...

    async def run(self, work: Work, command: DriverCommand) -> ReportedSnapshot | None:
        """Executes a command, and returns the snapshot if it created one."""
        match command:
            case CreateCommand():
                return await self.create(work, command)
            case RevertCommand():
                await self.revert(work, command)
            case DeleteCommand():
                await self.delete(work, command)
            case UpdateCommand():
                await self.update(work, command)
            case _:
                assert_never(command)
        return None

    # The methods below execute the commands. A driver has those of the actions that its matrix supports.

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        """Creates a snapshot and returns it once the provider has confirmed it."""
        raise ProviderRefused(_UNSUPPORTED)

    async def revert(self, work: Work, command: RevertCommand) -> None:
        """Reverts the machine and returns once the provider has confirmed it."""
        raise ProviderRefused(_UNSUPPORTED)

    async def delete(self, work: Work, command: DeleteCommand) -> None:
        """Deletes a snapshot and returns once the provider has confirmed it.

        Raises ProviderMissing if the snapshot does not exist.
        """
        raise ProviderRefused(_UNSUPPORTED)

    async def update(self, work: Work, command: UpdateCommand) -> None:
        """Changes the name or description of a snapshot and returns once the provider has confirmed it.

        Idempotent: it is called again after a crash or an unknown outcome. Raises ProviderMissing if the snapshot does
        not exist.
        """
        raise ProviderRefused(_UNSUPPORTED)

    async def recover(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        """The outcome of `command`, which an earlier attempt may have sent; waits while the provider still executes it.

        Returns the snapshot for a create that has been executed. Raises OutcomeUnknown if the outcome cannot be
        determined.
        """
        ...

    async def health(self) -> None:
        """Returns if the provider answers, and raises ProviderError otherwise."""
        ...

    async def close(self) -> None:
        """Releases connections and threads."""
        ...
