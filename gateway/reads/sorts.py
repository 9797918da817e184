"""The sort language: keys, their order, and the condition that finds what comes after a place in that order.

The id always comes last, in the direction of the last key given, so that no two rows are equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from gateway.columns import FOLDED
from gateway.errors import InvalidInput
from gateway.reads.conditions import NOTHING_SQL, Frame, member_name

Kind = Literal["text", "moment", "number"]


@dataclass(frozen=True, slots=True)
class SortField:
    """Something that rows can be sorted by: a column or expression (see `Frame.expression`)."""

    column: str
    kind: Kind
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """One key of an order."""

    field: SortField
    descending: bool = False
    nulls_first: bool = False

    @property
    def how(self) -> str:
        """What stands behind the expression in ORDER BY. Nulls are spelt out only where there can be any."""
        direction = "DESC" if self.descending else "ASC"
        if not self.field.nullable:
            return direction
        return f"{direction} NULLS {'FIRST' if self.nulls_first else 'LAST'}"

    def reversed(self) -> "Key":
        return replace(self, descending=not self.descending, nulls_first=not self.nulls_first)


Order = tuple[Key, ...]

ID = SortField("id", "number")


def enum_rank(column: str, members: type[StrEnum]) -> SortField:
    """An enum column, in the order its members are declared in."""
    cases = " ".join(f"WHEN '{member}' THEN {rank}" for rank, member in enumerate(members))
    return SortField(f"CASE {{t}}.{column} {cases} END", "number")


def parse_order(
    fields: Mapping[str, SortField], default: Sequence[Key], sort: Sequence[Mapping[str, Any]] | None
) -> Order:
    """The order that a `sort` argument means. Raises InvalidInput for a repeated key or a misplaced `ignoreCase`."""
    keys: list[Key] = []
    seen: set[str] = set()
    for number, item in enumerate(sort or ()):
        name = member_name(item["field"])
        if name in seen:
            raise InvalidInput(f"sort[{number}]: {name} is given twice", path=("sort", number, "field"))
        seen.add(name)
        field = fields[name]
        if item.get("ignoreCase"):
            if field.kind != "text":
                raise InvalidInput(
                    f"sort[{number}]: ignoreCase is for text, and {name} is not", path=("sort", number, "ignoreCase")
                )
            field = replace(field, column=field.column + FOLDED)
        descending = member_name(item.get("direction") or "ASC") == "DESC"
        nulls_first = member_name(item.get("nulls") or "LAST") == "FIRST"
        keys.append(Key(field, descending, nulls_first))
    return complete(keys or list(default))


def complete(keys: Sequence[Key]) -> Order:
    """`keys`, ended by the id."""
    for position, key in enumerate(keys):
        if key.field == ID:
            return tuple(keys[: position + 1])  # what comes after the id decides nothing
    return (*keys, Key(ID, keys[-1].descending if keys else False))


def backwards(order: Order) -> Order:
    return tuple(key.reversed() for key in order)


def beyond(order: Order, place: Sequence[Any], frame: Frame, *, inclusive: bool = False) -> str:
    """SQL that holds for the rows that come after `place`, a value per key, or also for the one at it."""
    if len({key.descending for key in order}) == 1 and not any(key.field.nullable for key in order):
        columns = ", ".join(frame.expression(key.field.column) for key in order)
        values = ", ".join(_bound(key, value, frame) for key, value in zip(order, place, strict=True))
        sign = ("<" if order[0].descending else ">") + ("=" if inclusive else "")
        return f"({columns}) {sign} ({values})"
    # Lexicographic: equal up to some key, and beyond at that key.
    alternatives = []
    for number, (key, value) in enumerate(zip(order, place, strict=True)):
        step = _beyond_one(key, value, frame)
        if step != NOTHING_SQL:
            alternatives.append(" AND ".join([*_equal(order[:number], place, frame), step]))
    if inclusive:
        alternatives.append(" AND ".join(_equal(order, place, frame)))
    return "(" + " OR ".join(f"({part})" for part in alternatives) + ")" if alternatives else NOTHING_SQL


def _equal(keys: Sequence[Key], place: Sequence[Any], frame: Frame) -> list[str]:
    """Conditions for the rows that these first keys cannot tell from `place`."""
    equal = []
    for key, value in zip(keys, place, strict=False):
        expression = frame.expression(key.field.column)
        equal.append(f"{expression} IS NULL" if value is None else f"{expression} = {_bound(key, value, frame)}")
    return equal


def _bound(key: Key, value: Any, frame: Frame) -> str:
    return frame.parameters(value) + (frame.dialect.number_cast if key.field.kind == "number" else "")


def _beyond_one(key: Key, value: Any, frame: Frame) -> str:
    expression = frame.expression(key.field.column)
    if value is None:
        return f"{expression} IS NOT NULL" if key.nulls_first else NOTHING_SQL
    sql = f"{expression} {'<' if key.descending else '>'} {_bound(key, value, frame)}"
    return f"({sql} OR {expression} IS NULL)" if key.field.nullable and not key.nulls_first else sql
