"""Filters: checks a filter object, as GraphQL coerced it, and makes a condition of it.

All errors of filters are found here, in literals and variables alike, and name the path of the invalid member.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from gateway.columns import FOLDED, UNSTORABLE
from gateway.errors import InvalidInput
from gateway.models import MachineKind
from gateway.reads import conditions as c
from gateway.reads.conditions import Condition, Frame, Test
from gateway.reads.ids import parse_id

Path = tuple[str | int, ...]

MAX_CONDITIONS = 500
MAX_DEPTH = 32
MAX_RELATED = 6  # PostgreSQL takes seconds to plan and run 18 levels, however few rows there are
MAX_TEXT_LENGTH = 4_000
MAX_WILDCARDS = 16


class FieldFilter(Protocol):
    """A member of a filter object: a column, or a related row."""

    def condition(self, value: Mapping[str, Any], path: Path, negated: bool, budget: "Budget") -> Condition:
        """The condition of the member's `value`, or its negation. Raises InvalidInput."""
        ...


Filters = Mapping[str, FieldFilter]


class Budget:
    """Counts the conditions of a filter, which are limited in number and depth."""

    def __init__(self) -> None:
        self._left = MAX_CONDITIONS

    def spend(self, path: Path) -> None:
        """Counts one condition. Raises InvalidInput if there are too many, or if they are nested too deeply."""
        self._left -= 1
        if self._left < 0:
            raise invalid_filter(path, f"A filter may have at most {MAX_CONDITIONS} conditions.")
        if sum(isinstance(step, str) for step in path[1:]) > MAX_DEPTH:  # the first step is the argument itself
            raise invalid_filter(path, f"A filter may be nested at most {MAX_DEPTH} levels deep.")


def invalid_filter(path: Path, message: str) -> InvalidInput:
    """The error of the member at `path`. `message` is a sentence; the path comes before it: `filter.name.eq: …`."""
    return InvalidInput(f"{dotted_path(path)}: {message}", path=path)


def dotted_path(path: Path) -> str:
    """A path as messages show it: `filter.or[1].name.eq`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def filter_condition(filters: Filters, value: Mapping[str, Any], path: Path = ("filter",)) -> Condition:
    """The condition of a whole filter object. Raises InvalidInput with the path of the invalid member."""
    return build_condition(filters, value, path, negated=False, budget=Budget())


def build_condition(
    filters: Filters, value: Mapping[str, Any], path: Path, *, negated: bool, budget: Budget
) -> Condition:
    """The condition of a filter object inside another one, or its negation. Raises InvalidInput."""
    parts: list[Condition] = []
    for name, operand in value.items():
        here = (*path, name)
        reject_null(operand, here)
        budget.spend(here)
        if name in ("and", "or"):
            inner = [
                build_condition(filters, item, (*here, number), negated=negated, budget=budget)
                for number, item in enumerate(operand)
            ]
            parts.append(c.all_of(inner) if (name == "and") is not negated else c.any_of(inner))
        elif name == "not":
            parts.append(build_condition(filters, operand, here, negated=not negated, budget=budget))
        else:
            parts.append(filters[name].condition(operand, here, negated, budget))
    return c.any_of(parts) if negated else c.all_of(parts)


def reject_null(value: Any, path: Path) -> None:
    """Raises InvalidInput for null."""
    if value is None:
        raise invalid_filter(
            path,
            "Null is not allowed inside a filter. Omit the member, or pass the whole filter as one variable."
            " To find rows without a value, use `isNull: true`.",
        )


Operators = Mapping[str, Callable[[Any, Path], Test]]


class _ScalarFilter:
    """A filter of one column: an object of operators, all of which must hold."""

    def __init__(self, column: str, *, nullable: bool = False) -> None:
        self.column = column
        self.nullable = nullable

    def condition(self, value: Mapping[str, Any], path: Path, negated: bool, budget: Budget) -> Condition:
        """The operators combined. Raises InvalidInput, also for an object without operators."""
        operators = {name: operand for name, operand in value.items() if name != "ignoreCase"}
        if not operators:
            raise invalid_filter(
                path,
                "An operator is missing, such as {eq: …}. If its value is a variable that may be omitted, pass the"
                " whole filter as one variable.",
            )
        parts = []
        for name, operand in operators.items():
            here = (*path, name)
            reject_null(operand, here)
            budget.spend(here)
            parts.append(self._operator(name, operand, here, negated, bool(value.get("ignoreCase"))))
        return c.any_of(parts) if negated else c.all_of(parts)

    def _operator(self, name: str, operand: Any, path: Path, negated: bool, ignore_case: bool) -> Condition:
        column = self.column + FOLDED if ignore_case else self.column
        if name == "isNull":
            return c.compare(column, c.is_null, nullable=False, negated=negated is bool(operand))
        if name in ("ne", "notIn"):
            name, negated = {"ne": "eq", "notIn": "in"}[name], not negated
        test = self._test(name, operand, path, ignore_case)
        return c.compare(column, test, nullable=self.nullable, negated=negated)

    def _test(self, name: str, operand: Any, path: Path, ignore_case: bool) -> Test:
        raise NotImplementedError


_RELATIONS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class ComparableFilter(_ScalarFilter):
    """Numbers, booleans and timestamps."""

    def _test(self, name: str, operand: Any, path: Path, ignore_case: bool) -> Test:
        if isinstance(operand, datetime) and operand.tzinfo is None:
            raise invalid_filter(path, "A time requires a UTC offset, such as Z.")
        return c.comparison(_RELATIONS[name], operand)


class ChoiceFilter(_ScalarFilter):
    """Texts that are only compared whole."""

    def _test(self, name: str, operand: Any, path: Path, ignore_case: bool) -> Test:
        if name == "eq":
            check_text(operand, path)
            return c.comparison("=", operand)
        for number, text in enumerate(operand):
            check_text(text, (*path, number))
        return c.in_list(operand, "text")


class EnumFilter(_ScalarFilter):
    """Enums. Refuses a value that the schema has and the column's enum does not: UNKNOWN."""

    def __init__(self, column: str, members: type[StrEnum], *, nullable: bool = False) -> None:
        super().__init__(column, nullable=nullable)
        self._members = members.__members__

    def _test(self, name: str, operand: Any, path: Path, ignore_case: bool) -> Test:
        if name == "eq":
            return c.comparison("=", self._known_name(operand, path))
        return c.in_list([self._known_name(item, (*path, i)) for i, item in enumerate(operand)], "text")

    def _known_name(self, operand: Any, path: Path) -> str:
        name = c.member_name(operand)
        if name not in self._members:
            raise invalid_filter(
                path,
                f"{name} cannot be filtered by, because it is shown for every value that this version of the gateway"
                " does not know. To find these, use `notIn` with all other values.",
            )
        return name


class TextFilter(_ScalarFilter):
    """Text, compared by code point. `ignoreCase` compares the folded column; `indexed`: that column has an index."""

    def __init__(self, column: str, *, nullable: bool = False, indexed: bool = False) -> None:
        super().__init__(column, nullable=nullable)
        self._indexed = indexed

    def _test(self, name: str, operand: Any, path: Path, ignore_case: bool) -> Test:
        if name == "in":
            return c.in_list([self._text(item, (*path, i), ignore_case) for i, item in enumerate(operand)], "text")
        text = self._text(operand, path, ignore_case)
        match name:
            case "eq":
                return self._indexed_test(c.comparison("=", text), text, ignore_case)
            case "contains":
                return c.contains(text)
            case "startsWith":
                return self._indexed_test(c.starts_with(text), text, ignore_case)
            case "endsWith":
                return c.ends_with(text)
            case _:
                parts = parse_pattern(text, path)
                return self._indexed_test(c.matches_pattern(parts), parts[0], ignore_case)

    def _indexed_test(self, test: Test, prefix: str, ignore_case: bool) -> Test:
        """`test`, and a range of the folded column that its index can find.

        A text that starts with `prefix` also does so when both are folded, because folding works character by
        character.
        """
        if ignore_case or not self._indexed or not prefix:
            return test
        folded_prefix = c.starts_with(c.fold(prefix, True))
        return lambda column, frame: f"({folded_prefix(column + FOLDED, frame)} AND {test(column, frame)})"

    def _text(self, operand: str, path: Path, ignore_case: bool) -> str:
        check_text(operand, path)
        return c.fold(operand, ignore_case)


def check_text(text: str, path: Path) -> None:
    """Raises InvalidInput for text that is too long, or that the database cannot store."""
    if len(text) > MAX_TEXT_LENGTH:
        raise invalid_filter(path, f"A text may have at most {MAX_TEXT_LENGTH} characters.")
    if UNSTORABLE.search(text):
        raise invalid_filter(path, "A text must not contain NUL or an unpaired surrogate.")


def parse_pattern(text: str, path: Path) -> list[str]:
    """The literal parts of a `like` pattern between its `*`. `\\*` is a literal `*`, and `\\\\` a literal backslash."""
    parts, literal = [], ""
    characters = iter(text)
    for character in characters:
        if character == "*":
            parts.append(literal)
            literal = ""
        elif character == "\\":
            escaped = next(characters, None)
            if escaped not in ("*", "\\"):
                raise invalid_filter(path, "A backslash is only allowed before `*` or another backslash.")
            literal += escaped
        else:
            literal += character
    if len(parts) > MAX_WILDCARDS:
        raise invalid_filter(path, f"A pattern may have at most {MAX_WILDCARDS} wildcards `*`.")
    return [*parts, literal]


class IdFilter(_ScalarFilter):
    """Ids of `noun`. A well-formed id of another type matches nothing."""

    def __init__(self, noun: str, column: str, *, kind: str | None = None, nullable: bool = False) -> None:
        super().__init__(column, nullable=nullable)
        self._noun = noun
        self._kind = kind  # the column that holds the machine's kind, for ids of machines

    def _test(self, name: str, operand: Any, path: Path, ignore_case: bool) -> Test:
        texts = [operand] if name == "eq" else operand
        paths = [path] if name == "eq" else [(*path, number) for number in range(len(texts))]
        found = []
        for text, item_path in zip(texts, paths, strict=True):
            try:
                found.append(parse_id(text))
            except InvalidInput as error:
                raise invalid_filter(item_path, error.message) from None
        ids = [id_ for id_ in found if id_.noun == self._noun]
        if self._kind is None:
            return c.in_list([id_.number for id_ in ids], "bigint") if name != "eq" else self._one(ids)
        return self._by_kind({kind: [i.number for i in ids if i.kind is kind] for kind in MachineKind})

    def _one(self, ids: Sequence[Any]) -> Test:
        return c.comparison("=", ids[0].number) if ids else c.in_list([], "bigint")

    def _by_kind(self, numbers: Mapping[MachineKind, list[int]]) -> Test:
        kind_column = self._kind
        assert kind_column is not None

        def sql(column: str, frame: Frame) -> str:
            groups = [
                f"({frame.column(kind_column)} = '{kind}' AND {self._numbers(ids)(column, frame)})"
                for kind, ids in numbers.items()
                if ids
            ]
            return f"({' OR '.join(groups)})" if groups else c.FALSE_SQL

        return sql

    def _numbers(self, ids: list[int]) -> Test:
        return c.comparison("=", ids[0]) if len(ids) == 1 else c.in_list(ids, "bigint")


def check_related(path: Path) -> None:
    """Raises InvalidInput if the member at `path`, a filter of related rows, is inside too many others."""
    if sum(step in _RELATED for step in path) > MAX_RELATED:
        raise invalid_filter(path, f"Filters of related rows may be nested at most {MAX_RELATED} levels deep.")


_RELATED = frozenset({"machine", "someSnapshot"})  # the members that are a MachineRowFilter or RelatedRowsFilter


class MachineRowFilter:
    """A filter of the machine that a row belongs to. Every such row has one."""

    def __init__(self, filters: Callable[[], Filters]) -> None:
        self._filters = filters

    def condition(self, value: Mapping[str, Any], path: Path, negated: bool, budget: Budget) -> Condition:
        """The condition of the machine. Raises InvalidInput."""
        check_related(path)
        inner = build_condition(self._filters(), value, path, negated=negated, budget=budget)

        return lambda frame: inner(frame.of_machine())


class RelatedRowsFilter:
    """At least one row of `table` whose `column` holds this row's id matches."""

    def __init__(self, table: str, column: str, filters: Callable[[], Filters]) -> None:
        self._table = table
        self._column = column
        self._filters = filters

    def condition(self, value: Mapping[str, Any], path: Path, negated: bool, budget: Budget) -> Condition:
        """An EXISTS condition. Raises InvalidInput."""
        check_related(path)
        inner = build_condition(self._filters(), value, path, negated=False, budget=budget)

        def sql(frame: Frame) -> str:
            sub = frame.inner()
            where = inner(sub)
            exists = (
                f"EXISTS (SELECT 1 FROM {self._table} {sub.alias}{sub.joins()}"
                f" WHERE {sub.alias}.{self._column} = {frame.alias}.id AND {where})"
            )
            return f"NOT {exists}" if negated else exists

        return sql
