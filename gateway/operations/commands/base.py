"""Context, arguments and outcomes of the commands, and the checks of arguments that need no database."""

import re
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

from gateway.access.caller import Caller
from gateway.access.capabilities import Matrices
from gateway.errors import InvalidInput, Refusal
from gateway.models import MachineKind
from gateway.operations.admission import QueueLimits

MAX_TARGETS = 100  # ids in one request
MAX_DELETED = 1_000  # snapshots that one request deletes, descendants included

_MAX_NAME = 255  # characters
_MAX_DESCRIPTION = 4_000
_MAX_KEY = 255
_FORBIDDEN_CHARACTER = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class CommandContext:
    """What a command decides by, besides its arguments and the stored rows."""

    caller: Caller
    matrices: Matrices
    limits: QueueLimits


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

    A dry run records nothing: `operation_id` is None. `is_descendant`: the item was added by `withDescendants`.
    """

    operation_id: int | None = None
    snapshot_id: int | None = None
    machine_id: int | None = None
    is_descendant: bool = False
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """Validated arguments of a create."""

    name: str
    description: str | None
    memory: bool


def new_snapshot(name: str, description: str | None, memory: bool) -> NewSnapshot:
    """Validates the arguments of a create and trims the name. Raises InvalidInput."""
    _check_characters(name, "The name", "name")
    name = name.strip()
    if not name:
        raise InvalidInput(f"The name is blank. It must have 1 to {_MAX_NAME} characters.", path=("name",))
    if len(name) > _MAX_NAME:
        raise InvalidInput(f"The name has {len(name)} characters; at most {_MAX_NAME} are allowed.", path=("name",))
    if description is not None:
        _check_characters(description, "The description", "description")
        if len(description) > _MAX_DESCRIPTION:
            raise InvalidInput(
                f"The description has {len(description)} characters; at most {_MAX_DESCRIPTION} are allowed.",
                path=("description",),
            )
    return NewSnapshot(name, description, memory)


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


def fingerprint_data(targets: Sequence[MachineTarget]) -> list[Any]:
    """The targets as JSON data, for the fingerprint of a request."""
    return [_fingerprint_data(target) for target in targets]


def _fingerprint_data(target: MachineTarget) -> Any:
    match target:
        case MachineId():
            return [target.kind.value, target.number]
        case Refusal():
            return [target.code.value, target.message]
        case _:
            return target


def _check_characters(text: str, subject: str, argument: str) -> None:
    if match := _FORBIDDEN_CHARACTER.search(text):
        character = "a NUL character" if match.group() == "\x00" else "a lone surrogate, which is half of a character"
        raise InvalidInput(f"{subject} contains {character}.", path=(argument,))
