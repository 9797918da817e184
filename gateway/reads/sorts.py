"""Sort orders: sort keys, and the SQL for the rows that follow a position in an order (keyset pagination).

The id is always the last key, in the direction of the key before it, so that no two rows are equal.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from gateway.columns import FOLDED
from gateway.errors import InvalidInput
from gateway.models import UNKNOWN
from gateway.reads.conditions import FALSE_SQL, Frame, member_name

Kind = Literal["text", "timestamp", "number"]


class SortField(NamedTuple):
    """A column or expression (see `Frame.expression`) that rows can be sorted by."""

    column: str
    kind: Kind
    nullable: bool = False
    cursor_name: str | None = None  # what identifies the field in cursors, if it is not `column`


class SortKey(NamedTuple):
    """One key of an order."""

    field: SortField
    descending: bool = False
    nulls_first: bool = False

    @property
    def order_sql(self) -> str:
        """What follows the expression in ORDER BY. The position of nulls is given only for nullable fields."""
        direction = "DESC" if self.descending else "ASC"
        if not self.field.nullable:
            return direction
        return f"{direction} NULLS {'FIRST' if self.nulls_first else 'LAST'}"

    def reversed(self) -> "SortKey":
        """The key with the opposite direction and position of nulls."""
        return self._replace(descending=not self.descending, nulls_first=not self.nulls_first)


SortOrder = tuple[SortKey, ...]

ID = SortField("id", "number")


def enum_rank(column: str, members: type[StrEnum]) -> SortField:
    """An enum column, sorted in the order in which its members are declared.

    Values that are no members come last, or with UNKNOWN if that is a member.
    """
    ranks = {str(member): rank for rank, member in enumerate(members)}
    cases = f"CASE {{t}}.{column} " + " ".join(f"WHEN '{member}' THEN {rank}" for member, rank in ranks.items())
    otherwise = ranks.get(UNKNOWN, len(ranks))
    # Release 0.1.0 sorted by the expression without ELSE. Its cursors stay valid.
    return SortField(f"{cases} ELSE {otherwise} END", "number", cursor_name=f"{cases} END")


def parse_order(
    fields: Mapping[str, SortField], default: Sequence[SortKey], sort: Sequence[Mapping[str, Any]] | None
) -> SortOrder:
    """The order of a `sort` argument. Raises InvalidInput for a repeated key and for `ignoreCase` on a non-text key."""
    keys: list[SortKey] = []
    seen: set[str] = set()
    for number, item in enumerate(sort or ()):
        name = member_name(item["field"])
        if name in seen:
            raise InvalidInput(f"sort[{number}]: The key {name} occurs twice.", path=("sort", number, "field"))
        seen.add(name)
        field = fields[name]
        if item.get("ignoreCase"):
            if field.kind != "text":
                raise InvalidInput(
                    f"sort[{number}]: `ignoreCase` requires a text key, which {name} is not.",
                    path=("sort", number, "ignoreCase"),
                )
            field = field._replace(column=field.column + FOLDED)
        descending = member_name(item.get("direction") or "ASC") == "DESC"
        nulls_first = member_name(item.get("nulls") or "LAST") == "FIRST"
        keys.append(SortKey(field, descending, nulls_first))
    return with_id_key(keys or list(default))


def with_id_key(keys: Sequence[SortKey]) -> SortOrder:
    """`keys` up to the id, which is added if it is missing."""
    for position, key in enumerate(keys):
        if key.field == ID:
            return tuple(keys[: position + 1])  # ids are unique, so later keys have no effect
    return (*keys, SortKey(ID, keys[-1].descending if keys else False))


def reverse_order(order: SortOrder) -> SortOrder:
    """The opposite order."""
    return tuple(key.reversed() for key in order)


def rows_after(order: SortOrder, position: Sequence[Any], frame: Frame, *, inclusive: bool = False) -> str:
    """SQL that holds for the rows after `position`, which has a value per key; `inclusive`: for the row there, too."""
    if len({key.descending for key in order}) == 1 and not any(key.field.nullable for key in order):
        columns = ", ".join(frame.expression(key.field.column) for key in order)
        values = ", ".join(_bound(key, value, frame) for key, value in zip(order, position, strict=True))
        sign = ("<" if order[0].descending else ">") + ("=" if inclusive else "")
        return f"({columns}) {sign} ({values})"
    # Lexicographic: equal in the first keys, and after the position in the next one.
    alternatives = []
    for number, (key, value) in enumerate(zip(order, position, strict=True)):
        step = _after_at_key(key, value, frame)
        if step != FALSE_SQL:
            alternatives.append(" AND ".join([*_equal(order[:number], position, frame), step]))
    if inclusive:
        alternatives.append(" AND ".join(_equal(order, position, frame)))
    return "(" + " OR ".join(f"({part})" for part in alternatives) + ")" if alternatives else FALSE_SQL


def _equal(keys: Sequence[SortKey], position: Sequence[Any], frame: Frame) -> list[str]:
    """Conditions for the rows that are equal to `position` in these first keys."""
    equal = []
    for key, value in zip(keys, position, strict=False):
        expression = frame.expression(key.field.column)
        equal.append(f"{expression} IS NULL" if value is None else f"{expression} = {_bound(key, value, frame)}")
    return equal


def _bound(key: SortKey, value: Any, frame: Frame) -> str:
    return frame.parameters(value) + (frame.dialect.bigint_cast if key.field.kind == "number" else "")


def _after_at_key(key: SortKey, value: Any, frame: Frame) -> str:
    expression = frame.expression(key.field.column)
    if value is None:
        return f"{expression} IS NOT NULL" if key.nulls_first else FALSE_SQL
    sql = f"{expression} {'<' if key.descending else '>'} {_bound(key, value, frame)}"
    return f"({sql} OR {expression} IS NULL)" if key.field.nullable and not key.nulls_first else sql
