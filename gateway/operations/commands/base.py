"""What the commands share: arguments, context and outcomes, and the checks of arguments that need no database.

A command is a request for a change. It is a frozen dataclass of its arguments, and decides in the transaction that
accepts it. `Operations.execute` does what is common to all: idempotency, audit, and waking the worker.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from gateway.access.caller import Caller
from gateway.access.capabilities import CapabilityRules
from gateway.columns import UNSTORABLE
from gateway.errors import InvalidInput, Refusal
from gateway.models import AuditAction, MachineKind
from gateway.operations.admission import TotalLimit
from gateway.operations.audit_log import AuditSubject
from gateway.operations.ended_operation import EndedOperation
from gateway.store.database import Transaction

MAX_TARGETS = 100  # ids in one request
MAX_DELETED = 1_000  # snapshots that one request deletes, descendants included

_MAX_NAME = 255  # characters
_MAX_DESCRIPTION = 4_000
_MAX_KEY = 255


@dataclass(frozen=True, slots=True)
class CommandContext:
    """What a command decides by, besides its arguments and the stored rows."""

    caller: Caller
    rules: CapabilityRules
    limit: TotalLimit
    idempotency_key: str | None = None  # of the request


@dataclass(frozen=True, slots=True)
class MachineId:
    """A machine by number and kind. A machine of that number and another kind is not found."""

    kind: MachineKind
    number: int


Target = int | Refusal  # a row's number, or the refusal of an argument that is no id of the expected type
MachineTarget = int | MachineId | Refusal


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one item of a request: the ids of what was recorded for it, or the refusal.

    `provider` is the name of a provider that is going to be refreshed, which is no operation.

    A dry run records nothing: `operation_id` is None. `is_descendant`: the item was added by `withDescendants`.
    `ended`: the operation has ended with the request. It is not part of what an idempotency key replays.
    """

    operation_id: int | None = None
    snapshot_id: int | None = None
    machine_id: int | None = None
    is_descendant: bool = False
    refusal: Refusal | None = None
    ended: EndedOperation | None = None
    provider: str | None = None


class Command(ABC):
    """A request for a change.

    `mutation` is the scope of idempotency keys, `action` the action in the audit log. The path of a refusal consists of
    the names of the mutation's arguments.
    """

    mutation: ClassVar[str]
    action: ClassVar[AuditAction]

    @property
    def is_dry_run(self) -> bool:
        """Whether to check the request only. Such a request needs no key, and is audited as a read."""
        return False

    @property
    def subject(self) -> AuditSubject:
        """What the audit log records as the subject when the request as a whole is refused."""
        return AuditSubject()

    @property
    def subjects(self) -> Sequence[AuditSubject]:
        """The subject of each target, in order."""
        return [self.subject]

    def checked(self) -> Self:
        """The command with normalized arguments. Raises InvalidInput, or the refusal that is given for a target."""
        return self

    def fingerprint(self) -> Mapping[str, object]:
        """The arguments as JSON data: requests with the same idempotency key must agree in them."""
        arguments: Any = self  # a dataclass, as all commands are
        return {
            each.name: _fingerprint_data(getattr(self, each.name))
            for each in fields(arguments)
            if each.name != "dry_run"
        }

    @abstractmethod
    async def decide(self, tx: Transaction, context: CommandContext) -> list[Outcome]:
        """Checks the request against the stored rows and records what is accepted.

        Returns one outcome per target, in order, then those of targets that the command has added. Raises the refusal
        of the request as a whole.
        """


class SingleCommand(Command):
    """A command with one target, whose refusal is raised. `argument` is the name of the target's argument."""

    argument: ClassVar[str]

    @property
    @abstractmethod
    def target(self) -> MachineTarget:
        """The row that the command is about."""

    def checked(self) -> Self:
        if isinstance(self.target, Refusal):
            raise self.target.at(self.argument)
        return self

    async def decide(self, tx: Transaction, context: CommandContext) -> list[Outcome]:
        try:
            return [await self.decide_one(tx, context)]
        except Refusal as refusal:
            raise refusal.at(self.argument) from None

    @abstractmethod
    async def decide_one(self, tx: Transaction, context: CommandContext) -> Outcome:
        """Checks the request against the stored rows and records it. Raises the refusal."""


def id_of(noun: str, argument: str) -> dict[str, str]:
    """Metadata of a field that holds targets: the noun of their ids, and the argument of the mutation."""
    return {"noun": noun, "argument": argument}


@dataclass(frozen=True, kw_only=True)
class MachineCommand(SingleCommand):
    """A command about one machine."""

    argument = "machineId"

    machine: MachineTarget = field(metadata=id_of("machine", "machineId"))

    @property
    def target(self) -> MachineTarget:
        return self.machine

    @property
    def subject(self) -> AuditSubject:
        return machine_subject(self.machine)


@dataclass(frozen=True, kw_only=True)
class SnapshotCommand(SingleCommand):
    """A command about one snapshot."""

    argument = "snapshotId"

    snapshot: Target = field(metadata=id_of("snapshot", "snapshotId"))

    @property
    def target(self) -> Target:
        return self.snapshot

    @property
    def subject(self) -> AuditSubject:
        return snapshot_subject(self.snapshot)


def machine_subject(target: MachineTarget) -> AuditSubject:
    """Audit subject of a machine target. Empty if the target is a refusal, whose message quotes the malformed id."""
    match target:
        case MachineId():
            return AuditSubject(machine_kind=target.kind, machine_id=target.number)
        case Refusal():
            return AuditSubject()
        case _:
            return AuditSubject(machine_id=target)


def snapshot_subject(target: Target) -> AuditSubject:
    """Audit subject of a snapshot target. Empty if the target is a refusal."""
    return AuditSubject() if isinstance(target, Refusal) else AuditSubject(snapshot_id=target)


def checked_name(name: str) -> str:
    """The trimmed name of a snapshot. Raises InvalidInput."""
    _check_characters(name, "The name", "name")
    name = name.strip()
    if not name:
        raise InvalidInput(f"The name is blank. It must have 1 to {_MAX_NAME} characters.", path=("name",))
    if len(name) > _MAX_NAME:
        raise InvalidInput(f"The name has {len(name)} characters; at most {_MAX_NAME} are allowed.", path=("name",))
    return name


def check_description(description: str | None) -> None:
    """Raises InvalidInput for a description of a snapshot that is too long or has forbidden characters."""
    if description is None:
        return
    _check_characters(description, "The description", "description")
    if len(description) > _MAX_DESCRIPTION:
        raise InvalidInput(
            f"The description has {len(description)} characters; at most {_MAX_DESCRIPTION} are allowed.",
            path=("description",),
        )


def check_key(key: str | None) -> None:
    """Raises InvalidInput for an idempotency key of the wrong length or with forbidden characters."""
    if key is None:
        return
    _check_characters(key, "The idempotency key", "idempotencyKey")
    if not 1 <= len(key) <= _MAX_KEY:
        raise InvalidInput(
            f"The idempotency key has {len(key)} characters; it must have 1 to {_MAX_KEY}.", path=("idempotencyKey",)
        )


def check_count(targets: Sized, argument: str) -> None:
    """Raises InvalidInput for a list of ids that is empty or too long."""
    if not 1 <= len(targets) <= MAX_TARGETS:
        raise InvalidInput(
            f"Argument {argument!r} has {len(targets)} ids; it must have 1 to {MAX_TARGETS}.", path=(argument,)
        )


def _fingerprint_data(argument: object) -> object:
    if isinstance(argument, MachineId):
        return [_target_data(argument)]  # a list since the first release, whose keys stay valid
    return [_target_data(each) for each in argument] if isinstance(argument, list | tuple) else argument


def _target_data(target: object) -> object:
    match target:
        case MachineId():
            return [target.kind.value, target.number]
        case Refusal():
            return [target.code.value, target.message]
        case _:
            return target


def _check_characters(text: str, subject: str, argument: str) -> None:
    if match := UNSTORABLE.search(text):
        character = "a NUL character" if match.group() == "\x00" else "a lone surrogate, which is half of a character"
        raise InvalidInput(f"{subject} contains {character}.", path=(argument,))
