"""The filter language: a filter object, as GraphQL coerced it, checked and made a condition.

Every fault is found here, once, for literals and variables alike, and says where it is.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from gateway.columns import FOLDED
from gateway.errors import InvalidInput
from gateway.models import MachineKind
from gateway.reads import conditions as c
from gateway.reads.conditions import Condition, Frame, Test
from gateway.reads.ids import parse_id

Path = tuple[str | int, ...]

MOST_CONDITIONS = 500
DEEPEST = 32
LONGEST_TEXT = 4_000
MOST_STARS = 16


class FieldFilter(Protocol):
    """What one member of a filter object means."""

    def condition(self, value: Mapping[str, Any], path: Path, negated: bool, budget: "Budget") -> Condition: ...


Filters = Mapping[str, FieldFilter]


class Budget:
    """Counts conditions, so that a filter has a bounded size."""

    def __init__(self) -> None:
        self._left = MOST_CONDITIONS

    def spend(self, path: Path) -> None:
        self._left -= 1
        if self._left < 0:
            raise invalid(path, f"a filter may have at most {MOST_CONDITIONS} conditions")
        if sum(isinstance(step, str) for step in path[1:]) > DEEPEST:  # the first step is the argument itself
            raise invalid(path, f"a filter may be nested at most {DEEPEST} deep")


def invalid(path: Path, message: str) -> InvalidInput:
    """`filter.name.eq: …`"""
    return InvalidInput(f"{dotted(path)}: {message}", path=path)


def dotted(path: Path) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def filter_condition(filters: Filters, value: Mapping[str, Any], path: Path = ("filter",)) -> Condition:
    """The condition that a whole filter object means. Raises InvalidInput with the path of the fault."""
    return build(filters, value, path, negated=False, budget=Budget())


def build(filters: Filters, value: Mapping[str, Any], path: Path, *, negated: bool, budget: Budget) -> Condition:
    parts: list[Condition] = []
    for name, operand in value.items():
        here = (*path, name)
        refuse_null(operand, here)
        budget.spend(here)
        if name in ("and", "or"):
            inner = [
                build(filters, item, (*here, number), negated=negated, budget=budget)
                for number, item in enumerate(operand)
            ]
            parts.append(c.all_of(inner) if (name == "and") is not negated else c.any_of(inner))
        elif name == "not":
            parts.append(build(filters, operand, here, negated=not negated, budget=budget))
        else:
            parts.append(filters[name].condition(operand, here, negated, budget))
    return c.any_of(parts) if negated else c.all_of(parts)


def refuse_null(value: Any, path: Path) -> None:
    if value is None:
        raise invalid(
            path,
            "null is not allowed inside a filter; leave the member out, or pass the whole filter as one variable"
            " (`isNull: true` finds what has no value)",
        )


Operators = Mapping[str, Callable[[Any, Path], Test]]


class _Scalar:
    """A filter of one column by an object of operators; all that are given must hold."""

    def __init__(self, column: str, *, nullable: bool = False) -> None:
        self.column = column
        self.nullable = nullable

    def condition(self, value: Mapping[str, Any], path: Path, negated: bool, budget: Budget) -> Condition:
        operators = {name: operand for name, operand in value.items() if name != "ignoreCase"}
        if not operators:
            raise invalid(
                path, "an operator is missing, such as {eq: …}; a variable that was left out leaves none:"
                " pass the whole filter as one variable"
            )  # fmt: skip
        parts = []
        for name, operand in operators.items():
            here = (*path, name)
            refuse_null(operand, here)
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


class Comparable(_Scalar):
    """Numbers, booleans and instants."""

    def _test(self, name: str, operand: Any, path: Path, ignore_case: bool) -> Test:
        if isinstance(operand, datetime) and operand.tzinfo is None:
            raise invalid(path, "the time needs an offset, such as Z")
        return c.relation(_RELATIONS[name], operand)


class Choice(_Scalar):
    """Enums."""

    def _test(self, name: str, operand: Any, path: Path, ignore_case: bool) -> Test:
        if name == "eq":
            return c.relation("=", c.member_name(operand))
        return c.among([c.member_name(item) for item in operand], "text")


class Text(_Scalar):
    """Strings, by code point; `ignoreCase` compares the folded twin. `indexed`: that twin has an index."""

    def __init__(self, column: str, *, nullable: bool = False, indexed: bool = False) -> None:
        super().__init__(column, nullable=nullable)
        self._indexed = indexed

    def _test(self, name: str, operand: Any, path: Path, ignore_case: bool) -> Test:
        if name == "in":
            return c.among([self._text(item, (*path, i), ignore_case) for i, item in enumerate(operand)], "text")
        text = self._text(operand, path, ignore_case)
        match name:
            case "eq":
                return self._narrowed(c.relation("=", text), text, ignore_case)
            case "contains":
                return c.contains(text)
            case "startsWith":
                return self._narrowed(c.starts_with(text), text, ignore_case)
            case "endsWith":
                return c.ends_with(text)
            case _:
                parts = pattern(text, path)
                return self._narrowed(c.matches(parts), parts[0], ignore_case)

    def _narrowed(self, test: Test, prefix: str, ignore_case: bool) -> Test:
        """`test`, found by the index of the folded twin: what starts with a text also does so folded, as folding goes
        character by character.
        """
        if ignore_case or not self._indexed or not prefix:
            return test
        folded_prefix = c.starts_with(c.fold(prefix, True))
        return lambda column, frame: f"({folded_prefix(column + FOLDED, frame)} AND {test(column, frame)})"

    def _text(self, operand: str, path: Path, ignore_case: bool) -> str:
        check_text(operand, path)
        return c.fold(operand, ignore_case)


def check_text(text: str, path: Path) -> None:
    """Raises InvalidInput for text that no stored text can be compared with."""
    if len(text) > LONGEST_TEXT:
        raise invalid(path, f"at most {LONGEST_TEXT} characters can be compared")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise invalid(path, "the text holds a NUL or half a surrogate pair, which no text here can")


def pattern(text: str, path: Path) -> list[str]:
    """The literal parts around each `*` of a `like` pattern; `\\*` and `\\\\` are literal."""
    parts, literal = [], ""
    characters = iter(text)
    for character in characters:
        if character == "*":
            parts.append(literal)
            literal = ""
        elif character == "\\":
            escaped = next(characters, None)
            if escaped not in ("*", "\\"):
                raise invalid(path, "a backslash stands before `*` or another backslash only")
            literal += escaped
        else:
            literal += character
    if len(parts) > MOST_STARS:
        raise invalid(path, f"a pattern may have at most {MOST_STARS} stars")
    return [*parts, literal]


class Identifier(_Scalar):
    """Ids of `noun`. What is well-formed but names something else finds nothing."""

    def __init__(self, noun: str, column: str, *, kind: str | None = None, nullable: bool = False) -> None:
        super().__init__(column, nullable=nullable)
        self._noun = noun
        self._kind = kind  # the column that tells Vms from Instances

    def _test(self, name: str, operand: Any, path: Path, ignore_case: bool) -> Test:
        texts = [operand] if name == "eq" else operand
        places = [path] if name == "eq" else [(*path, number) for number in range(len(texts))]
        found = []
        for text, place in zip(texts, places, strict=True):
            try:
                found.append(parse_id(text))
            except InvalidInput as error:
                raise invalid(place, error.message) from None
        ids = [id_ for id_ in found if id_.noun == self._noun]
        if self._kind is None:
            return c.among([id_.number for id_ in ids], "bigint") if name != "eq" else self._one(ids)
        return self._by_kind({kind: [i.number for i in ids if i.kind is kind] for kind in MachineKind})

    def _one(self, ids: Sequence[Any]) -> Test:
        return c.relation("=", ids[0].number) if ids else c.among([], "bigint")

    def _by_kind(self, numbers: Mapping[MachineKind, list[int]]) -> Test:
        kind_column = self._kind
        assert kind_column is not None

        def sql(column: str, frame: Frame) -> str:
            groups = [
                f"({frame.column(kind_column)} = '{kind}' AND {self._numbers(ids)(column, frame)})"
                for kind, ids in numbers.items()
                if ids
            ]
            return f"({' OR '.join(groups)})" if groups else c.NOTHING_SQL

        return sql

    def _numbers(self, ids: list[int]) -> Test:
        return c.relation("=", ids[0]) if len(ids) == 1 else c.among(ids, "bigint")


class OfMachine:
    """A filter of the machine that a row belongs to; there always is one."""

    def __init__(self, filters: Callable[[], Filters]) -> None:
        self._filters = filters

    def condition(self, value: Mapping[str, Any], path: Path, negated: bool, budget: Budget) -> Condition:
        inner = build(self._filters(), value, path, negated=negated, budget=budget)

        return lambda frame: inner(frame.of_machine())


class SomeOf:
    """At least one row of another table, of this machine, matches."""

    def __init__(self, table: str, column: str, filters: Callable[[], Filters]) -> None:
        self._table = table
        self._column = column
        self._filters = filters

    def condition(self, value: Mapping[str, Any], path: Path, negated: bool, budget: Budget) -> Condition:
        inner = build(self._filters(), value, path, negated=False, budget=budget)

        def sql(frame: Frame) -> str:
            sub = frame.inner()
            where = inner(sub)
            exists = (
                f"EXISTS (SELECT 1 FROM {self._table} {sub.alias}{sub.joins()}"
                f" WHERE {sub.alias}.{self._column} = {frame.alias}.id AND {where})"
            )
            return f"NOT {exists}" if negated else exists

        return sql
