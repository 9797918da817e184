"""A reference model of filters and sorts in plain Python, which tests compare with the gateway's SQL."""

import functools
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from gateway.models import PowerState, SnapshotState
from tests.reads.world import Row

Value = Any

# The value of a row by GraphQL member.
SNAPSHOT: dict[str, Callable[[Row], Value]] = {
    "id": lambda row: row["id"],
    "name": lambda row: row["name"],
    "description": lambda row: row["description"],
    "state": lambda row: row["state"],
    "memory": lambda row: row["memory"],
    "isCurrent": lambda row: row["is_current"],
    "sizeBytes": lambda row: row["size_bytes"],
    "createdAt": lambda row: row["created_at"],
    "parentId": lambda row: row["parent"],
    "machineId": lambda row: row["machine"]["id"],
    "createdBy": lambda row: row["created_by"],
    "providerRef": lambda row: row["provider_ref"],
}


def machine(snapshots: Sequence[Row]) -> dict[str, Callable[[Row], Value]]:
    return {
        "id": lambda row: row["id"],
        "kind": lambda row: row["kind"],
        "name": lambda row: row["name"],
        "description": lambda row: row["description"],
        "host": lambda row: row["host"],
        "powerState": lambda row: row["power_state"],
        "createdAt": lambda row: row["created_at"],
        "goneAt": lambda row: row["gone_at"],
        "snapshotCount": lambda row: sum(1 for snapshot in snapshots if snapshot["machine"] is row),
    }


class ReferenceModel:
    """Evaluates filters on the rows of a World."""

    def __init__(self, snapshots: Sequence[Row]) -> None:
        self._snapshots = snapshots
        self._machine = machine(snapshots)

    def snapshot(self, row: Row, value: dict[str, Any]) -> bool:
        return all(self._member(row, name, operand, SNAPSHOT, self.snapshot) for name, operand in value.items())

    def machine(self, row: Row, value: dict[str, Any]) -> bool:
        return all(self._member(row, name, operand, self._machine, self.machine) for name, operand in value.items())

    def _member(
        self,
        row: Row,
        name: str,
        operand: Any,
        members: dict[str, Callable[[Row], Value]],
        matches: Callable[[Row, dict[str, Any]], bool],
    ) -> bool:
        match name:
            case "and":
                return all(matches(row, item) for item in operand)
            case "or":
                return any(matches(row, item) for item in operand)
            case "not":
                return not matches(row, operand)
            case "machine":
                return self.machine(row["machine"], operand)
            case "someSnapshot":
                mine = [snapshot for snapshot in self._snapshots if snapshot["machine"] is row]
                return any(self.snapshot(snapshot, operand) for snapshot in mine)
        return holds(members[name](row), operand)


def holds(value: Value, operators: dict[str, Any]) -> bool:
    """Whether a value meets all operators of a scalar filter."""
    fold = operators.get("ignoreCase", False)
    return all(
        _operator(_plain(value, fold), name, _operand(value, operand, fold))
        for name, operand in operators.items()
        if name != "ignoreCase"
    )


def _plain(value: Value, fold: bool) -> Value:
    return value.casefold() if fold and isinstance(value, str) else value


def _operand(value: Value, operand: Any, fold: bool) -> Any:
    if isinstance(operand, list):
        return [_operand(value, item, fold) for item in operand]
    if isinstance(value, datetime) and isinstance(operand, str):
        return datetime.fromisoformat(operand)
    if isinstance(value, int) and isinstance(operand, str):
        return int(operand)
    return _plain(operand, fold)


_NEGATED_OPERATORS = {"ne": "eq", "notIn": "in"}

# By name, for values that are not null.
_OPERATORS: dict[str, Callable[[Value, Any], bool]] = {
    "eq": lambda value, operand: bool(value == operand),
    "in": lambda value, operand: value in operand,
    "gt": lambda value, operand: bool(value > operand),
    "gte": lambda value, operand: bool(value >= operand),
    "lt": lambda value, operand: bool(value < operand),
    "lte": lambda value, operand: bool(value <= operand),
    "contains": lambda value, operand: operand in value,
    "startsWith": lambda value, operand: bool(value.startswith(operand)),
    "endsWith": lambda value, operand: bool(value.endswith(operand)),
    "like": lambda value, operand: re.fullmatch(_regex(operand), value, re.DOTALL) is not None,
}


def _operator(value: Value, name: str, operand: Any) -> bool:
    if name == "isNull":
        return (value is None) is operand
    if name in _NEGATED_OPERATORS:
        return not _operator(value, _NEGATED_OPERATORS[name], operand)
    return value is not None and _OPERATORS[name](value, operand)


def _regex(pattern: str) -> str:
    """The regular expression of a `like` pattern."""
    parts = re.findall(r"\\[*\\]|.", pattern, re.DOTALL)
    return "".join(".*" if part == "*" else re.escape(part[-1]) for part in parts)


# ---- sorting

SORTS: dict[str, Callable[[Row], Value]] = {
    "ID": lambda row: row["number"],
    "NAME": lambda row: row["name"],
    "DESCRIPTION": lambda row: row["description"],
    "STATE": lambda row: _rank(SnapshotState, row["state"]),
    "SIZE_BYTES": lambda row: row["size_bytes"],
    "CREATED_AT": lambda row: row["created_at"],
    "MACHINE_NAME": lambda row: row["machine"]["name"],
}
MACHINE_SORTS: dict[str, Callable[[Row], Value]] = {
    "ID": lambda row: row["number"],
    "NAME": lambda row: row["name"],
    "POWER_STATE": lambda row: _rank(PowerState, row["power_state"]),
    "CREATED_AT": lambda row: row["created_at"],
}


def _rank(enum: type[StrEnum], value: StrEnum) -> int:
    return list(enum).index(value)


def ordered(rows: Sequence[Row], sort: Sequence[dict[str, Any]], sorts: dict[str, Callable[[Row], Value]]) -> list[Row]:
    keys = list(sort)
    if not any(key["field"] == "ID" for key in keys):
        keys.append({"field": "ID", "direction": keys[-1].get("direction", "ASC") if keys else "ASC"})

    def compare(left: Row, right: Row) -> int:
        for key in keys:
            a, b = sorts[key["field"]](left), sorts[key["field"]](right)
            if key.get("ignoreCase"):
                a, b = _plain(a, True), _plain(b, True)
            if a == b:
                continue
            if a is None or b is None:
                first = key.get("nulls", "LAST") == "FIRST"
                return -1 if (a is None) is first else 1
            return (-1 if a < b else 1) * (-1 if key.get("direction") == "DESC" else 1)
        return 0

    return sorted(rows, key=functools.cmp_to_key(compare))
