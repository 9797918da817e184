"""The ids that clients see, such as `vm-11` and `snapshot-3`: parsing and formatting."""

import re
from typing import NamedTuple

from gateway.errors import InvalidInput
from gateway.models import MachineKind

_ID = re.compile(r"(vm|instance|snapshot|operation|audit)-(0|[1-9][0-9]{0,18})")
_MAX_NUMBER = 2**63 - 1

_TARGETS: dict[str, tuple[str, MachineKind | None]] = {
    "vm": ("machine", MachineKind.VM),
    "instance": ("machine", MachineKind.INSTANCE),
    "snapshot": ("snapshot", None),
    "operation": ("operation", None),
    "audit": ("audit_entry", None),
}
PREFIXES = {  # by GraphQL type
    "Vm": "vm",
    "Instance": "instance",
    "Snapshot": "snapshot",
    "Operation": "operation",
    "AuditEntry": "audit",
}


class Id(NamedTuple):
    """A parsed id: the number of a row of `noun`. The id of a machine also has the kind that the row must have."""

    noun: str
    number: int
    kind: MachineKind | None = None


def parse_id(text: str, path: tuple[str | int, ...] = ()) -> Id:
    """Raises InvalidInput, with `path`, for malformed text. Whether the row exists is not checked."""
    match = _ID.fullmatch(text) if len(text) <= 40 else None
    if match is None or (number := int(match[2])) > _MAX_NUMBER:
        shown = repr(text) if len(text) <= 40 and text.isprintable() else "The value"
        raise InvalidInput(
            f"{shown} is not an id. Ids look like vm-11, instance-201, snapshot-3 or operation-7.", path=path
        )
    noun, kind = _TARGETS[match[1]]
    return Id(noun, number, kind)


def machine_id(kind: MachineKind, number: int) -> str:
    """The id of a machine: `vm-11` or `instance-201`."""
    return f"{kind.value.lower()}-{number}"
