"""What a caller can wish for and what is answered. Checked here as far as that goes without the database."""

import re
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

from gateway.errors import InvalidInput, Refusal
from gateway.models import MachineKind

MAX_TARGETS = 100  # ids in one request
MAX_DELETED = 1_000  # snapshots that one request deletes, descendants included

_NAME = 255
_DESCRIPTION = 4_000
_KEY = 255
_UNFIT = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class MachineId:
    """A machine by number and kind: nothing is found when the machine of that number is of another kind."""

    kind: MachineKind
    number: int


Target = int | Refusal  # a row's number, or why what was given cannot be one
MachineTarget = int | MachineId | Refusal


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item: what was recorded for it, or why it was refused. A dry run records nothing."""

    operation_id: int | None = None
    snapshot_id: int | None = None
    machine_id: int | None = None
    is_descendant: bool = False
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """The snapshot that is wished for."""

    name: str
    description: str | None
    memory: bool


def new_snapshot(name: str, description: str | None, memory: bool) -> NewSnapshot:
    """Raises InvalidInput for a name or description that no snapshot can have."""
    _check_characters(name, "the name", "name")
    name = name.strip()
    if not name:
        raise InvalidInput(f"the name is blank; it must have 1 to {_NAME} characters", path=("name",))
    if len(name) > _NAME:
        raise InvalidInput(f"the name has {len(name)} characters; at most {_NAME} are allowed", path=("name",))
    if description is not None:
        _check_characters(description, "the description", "description")
        if len(description) > _DESCRIPTION:
            raise InvalidInput(
                f"the description has {len(description)} characters; at most {_DESCRIPTION} are allowed",
                path=("description",),
            )
    return NewSnapshot(name, description, memory)


def check_key(key: str | None) -> None:
    """Raises InvalidInput for what cannot be an idempotency key."""
    if key is None:
        return
    _check_characters(key, "the idempotency key", "idempotencyKey")
    if not 1 <= len(key) <= _KEY:
        raise InvalidInput(
            f"the idempotency key has {len(key)} characters; it must have 1 to {_KEY}", path=("idempotencyKey",)
        )


def check_count(targets: Sized, argument: str) -> None:
    """Raises InvalidInput for a list of ids that is empty or too long."""
    if not 1 <= len(targets) <= MAX_TARGETS:
        raise InvalidInput(f"`{argument}` has {len(targets)} ids; it must have 1 to {MAX_TARGETS}", path=(argument,))


def given(targets: Sequence[MachineTarget]) -> list[Any]:
    """The targets as plain data, to tell one request from another."""
    return [_given(target) for target in targets]


def _given(target: MachineTarget) -> Any:
    match target:
        case MachineId():
            return [target.kind.value, target.number]
        case Refusal():
            return [target.code.value, target.message]
        case _:
            return target


def _check_characters(text: str, what: str, argument: str) -> None:
    if unfit := _UNFIT.search(text):
        character = "a NUL character" if unfit.group() == "\x00" else "a lone surrogate, which is half a character"
        raise InvalidInput(f"{what} contains {character}", path=(argument,))
