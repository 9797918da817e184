"""ManageIQ's filters: `name='test*'`, `or total_size>=1.gigabyte`, `vm_or_template.name=[a,b]`.

Filters become the same conditions as GraphQL's. Every condition is two-valued: where the value is null, `!=`, `!==`
and `!~` hold, and all other comparisons do not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.reads import conditions as c
from gateway.reads.conditions import Condition
from gateway.reads.filters import MAX_CONDITIONS, MAX_WILDCARDS
from gateway.rest import regexes
from gateway.rest.attributes import Attribute, ConditionScope, same_row
from gateway.rest.classes import ResourceClass
from gateway.rest.dates import Clock, TimeSpan, parse_span, parse_timestamp
from gateway.rest.errors import bad_request
from gateway.rest.filter_values import parse_value
from gateway.rest.regexes import RegexCondition

_FILTER = re.compile(r" *([^=!>< ]+) *(!==?|[=!]~|[<>=]=?)")
_OR = re.compile(r" *or +", re.IGNORECASE)
_QUOTED = re.compile(r"'(.*)'|\"(.*)\"", re.DOTALL)
_NULL = re.compile(r"null|nil", re.IGNORECASE)
_ARRAY = re.compile(r"\[(.*)\]", re.DOTALL)
_WILDCARD = re.compile(r"[*%]")
MAX_VALUES = 1_000  # of all arrays of a request
_ARRAY_TYPES = {"text": "text", "integer": "bigint", "id": "bigint"}  # by kind of attribute, as `c.in_list` needs them
_SQL_OPERATORS = {"=": "=", "!=": "=", "==": "=", "!==": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_NEGATED = frozenset({"!=", "!==", "!~"})


@dataclass(slots=True)
class Filter:
    """The filters of a request. `condition` can become SQL once all of `regexes` are compiled and have searched."""

    condition: Condition
    narrowing: Condition  # holds for all rows that `condition` can hold for, and has no regular expressions
    regexes: Sequence[RegexCondition] = field(default_factory=list)
    cached: bool = False  # whether later requests may get the same object


class _Target(NamedTuple):
    """The attribute that a filter compares: of the listed rows, or of an association."""

    attribute: Attribute
    noun: str
    scope: ConditionScope


class _Parsed(NamedTuple):
    condition: Condition
    regex: RegexCondition | None


def parse_filters(class_: ResourceClass, texts: Sequence[str], clock: Clock) -> Filter | None:
    """The filters of `filter[]`. None without any. Either all filters without `or` hold, or one filter with `or`."""
    if len(texts) > MAX_CONDITIONS:
        raise bad_request(f"A request may have at most {MAX_CONDITIONS} filters.")
    parser = _Parser(class_, clock)
    required: list[_Parsed] = []
    alternatives: list[_Parsed] = []
    for text in texts:
        if prefix := _OR.match(text):
            alternatives.append(parser.parse(text[prefix.end() :]))
        else:
            required.append(parser.parse(text))
    parsed = [*required, *alternatives]
    if not parsed:
        return None
    group = [c.all_of([one.condition for one in required])] if required else []
    condition = c.any_of([*group, *(one.condition for one in alternatives)])
    plain = [] if alternatives else [one.condition for one in required if one.regex is None]
    return Filter(condition, c.all_of(plain), [one.regex for one in parsed if one.regex is not None])


class _Parser:
    """Parses the filters of one request. Counts what is limited for all of them together."""

    def __init__(self, class_: ResourceClass, clock: Clock) -> None:
        self._class = class_
        self._clock = clock
        self._patterns = 0
        self._values = 0

    def parse(self, text: str) -> _Parsed:
        """Parses one filter, without `or`. Raises RestError and InvalidInput."""
        found = _FILTER.match(text)
        if found is None:
            raise bad_request(f"Unknown operator specified in filter {text}")
        target = _target(self._class, found[1])
        operator, value = found[2], text[found.end() :].strip(" ")
        if operator in ("=~", "!~"):
            self._patterns += 1
            if self._patterns > regexes.MAX_PATTERNS:
                raise bad_request(f"A request may have at most {regexes.MAX_PATTERNS} regular expressions.")
            regex = _regex_condition(target, operator, value, own_rows=target.scope is same_row)
            return _Parsed(target.scope(regex), regex)
        return _Parsed(target.scope(self._condition(target.attribute, operator, value)), None)

    def _condition(self, attribute: Attribute, operator: str, value: str) -> Condition:
        quoted = _QUOTED.fullmatch(value)
        if quoted:
            text = _unquoted(quoted)
            if attribute.kind == "timestamp":
                return _compare_value(attribute, operator, parse_timestamp(text))
            return _compare_text(attribute, operator, text)
        if _NULL.fullmatch(value):
            return _compare_null(attribute, operator)
        if array := _ARRAY.fullmatch(value):
            return self._array(attribute, operator, array[1])
        if attribute.kind == "timestamp":
            return _compare_span(attribute, operator, parse_span(value, self._clock))
        return _compare_text(attribute, operator, value)

    def _array(self, attribute: Attribute, operator: str, text: str) -> Condition:
        if operator != "=":
            raise bad_request(f"Unsupported operator for arrays: {operator}")
        items = text.split(",") if text else []
        if len(items) > MAX_CONDITIONS:
            raise bad_request(f"An array may have at most {MAX_CONDITIONS} values.")
        self._values += len(items)
        if self._values > MAX_VALUES:
            raise bad_request(f"The arrays of a request may have at most {MAX_VALUES} values in all.")
        array_type = _ARRAY_TYPES.get(attribute.kind)
        plain = [item for item in items if array_type and not _is_pattern(attribute, item)]
        if array_type is None or len(plain) < 2:
            return c.any_of([self._element(attribute, item) for item in items])
        test = c.in_list([parse_value(attribute, item) for item in plain], array_type)
        patterns = [self._element(attribute, item) for item in items if _is_pattern(attribute, item)]
        return c.any_of([_compare(attribute, test, negated=False), *patterns])

    def _element(self, attribute: Attribute, item: str) -> Condition:
        if attribute.kind == "timestamp":
            return _compare_span(attribute, "=", parse_span(item.strip(), self._clock))
        return _compare_text(attribute, "=", item)


def _target(class_: ResourceClass, name: str) -> _Target:
    path = name.split(".")
    if len(path) > 2:
        raise bad_request("Filtering of attributes with more than one association away is not supported")
    if len(path) == 1:
        attribute = class_.attributes.get(name)
        if attribute is None or attribute.kind == "opaque":
            raise bad_request(f"attribute {class_.name}-{name} does not exist")
        return _Target(attribute, class_.noun, same_row)
    association = class_.associations.get(path[0])
    attribute = association.attributes().get(path[1]) if association else None
    if association is None or attribute is None or attribute.kind == "opaque":
        raise bad_request(f"attribute {class_.name}.{path[0]}-{path[1]} does not exist")
    return _Target(attribute, association.noun, association.scope)


def _regex_condition(target: _Target, operator: str, value: str, *, own_rows: bool) -> RegexCondition:
    attribute, quoted = target.attribute, _QUOTED.fullmatch(value)
    if quoted is None and _ARRAY.fullmatch(value):
        raise bad_request(f"Unsupported operator for arrays: {operator}")
    if attribute.kind != "text":
        kind = {"timestamp": "datetime", "id": "integer"}.get(attribute.kind, attribute.kind)
        raise bad_request(f"Unsupported operator for {kind}: {operator}")
    text = _unquoted(quoted) if quoted else value
    return RegexCondition(target.noun, attribute.column, text, operator in _NEGATED, own_rows)


def _unquoted(quoted: re.Match[str]) -> str:
    text: str = quoted[1] if quoted[1] is not None else quoted[2]
    return text


def _is_pattern(attribute: Attribute, text: str) -> bool:
    return attribute.kind == "text" and _WILDCARD.search(text) is not None


def _compare_text(attribute: Attribute, operator: str, text: str) -> Condition:
    if operator in ("=", "!=") and _is_pattern(attribute, text):
        parse_value(attribute, text)
        parts = _WILDCARD.split(text)
        if len(parts) > MAX_WILDCARDS + 1:
            raise bad_request(f"A pattern may have at most {MAX_WILDCARDS} wildcards.")
        return _compare(attribute, c.matches_pattern(parts), operator in _NEGATED)
    if attribute.kind == "boolean" and _SQL_OPERATORS[operator] != "=":
        raise bad_request(f"Unsupported operator for boolean: {operator}")
    return _compare_value(attribute, operator, parse_value(attribute, text))


def _compare_value(attribute: Attribute, operator: str, value: Any) -> Condition:
    return _compare(attribute, c.comparison(_SQL_OPERATORS[operator], value), operator in _NEGATED)


def _compare(attribute: Attribute, test: c.Test, negated: bool) -> Condition:
    return c.compare(attribute.column, test, nullable=attribute.nullable, negated=negated)


def _compare_null(attribute: Attribute, operator: str) -> Condition:
    if _SQL_OPERATORS[operator] != "=":
        return c.match_none  # no value is less or greater than null
    return c.compare(attribute.column, c.is_null, nullable=False, negated=operator in _NEGATED)


def _compare_span(attribute: Attribute, operator: str, time: TimeSpan) -> Condition:
    match operator:
        case "=":
            after = _compare(attribute, c.comparison(">=", time.start), negated=False)
            return c.all_of([after, _compare(attribute, c.comparison("<", time.end), negated=False)])
        case "<":
            return _compare(attribute, c.comparison("<", time.start), negated=False)
        case ">":
            return _compare(attribute, c.comparison(">=", time.end), negated=False)
        case _:
            raise bad_request(f"Unsupported operator for datetime: {operator}")
