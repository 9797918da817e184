"""The filter language of ManageIQ: `name='test*'`, `or total_size>=1.gigabyte`, `vm_or_template.name=[a,b]`.

A filter becomes one of the conditions that GraphQL's filters become. Every condition is two-valued: where the value is
null, `!=` and `!~` hold, and every other comparison does not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.reads import conditions as c
from gateway.reads.conditions import Condition
from gateway.reads.filters import MOST_CONDITIONS, MOST_STARS
from gateway.rest import regexes
from gateway.rest.attributes import Attribute, Scope, same_row
from gateway.rest.classes import Class
from gateway.rest.dates import Clock, Span, instant, span
from gateway.rest.errors import bad_request
from gateway.rest.regexes import Matching
from gateway.rest.values import typed

_FILTER = re.compile(r" *([^=!>< ]+) *(!==?|[=!]~|[<>=]=?)")
_OR = re.compile(r" *or +", re.IGNORECASE)
_QUOTED = re.compile(r"'(.*)'|\"(.*)\"", re.DOTALL)
_NULL = re.compile(r"null|nil", re.IGNORECASE)
_ARRAY = re.compile(r"\[(.*)\]", re.DOTALL)
_WILDCARD = re.compile(r"[*%]")
_RELATIONS = {"=": "=", "!=": "=", "==": "=", "!==": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_NEGATED = frozenset({"!=", "!==", "!~"})


@dataclass(slots=True)
class Filter:
    """The filters of a request. `condition` can be made SQL when every one of `matchings` has looked."""

    condition: Condition
    narrowing: Condition  # holds for every row that `condition` can hold for, and needs no matching
    matchings: Sequence[Matching] = field(default_factory=list)


class _Target(NamedTuple):
    """What one filter is about."""

    attribute: Attribute
    noun: str
    scope: Scope


class _Parsed(NamedTuple):
    condition: Condition
    matching: Matching | None


def parse_filters(class_: Class, texts: Sequence[str], clock: Clock) -> Filter | None:
    """The filters that `filter[]` gives, None without any. All without `or` hold together, or one with it does."""
    if len(texts) > MOST_CONDITIONS:
        raise bad_request(f"At most {MOST_CONDITIONS} filters can be given")
    together: list[_Parsed] = []
    alternatives: list[_Parsed] = []
    for text in texts:
        if prefix := _OR.match(text):
            alternatives.append(_parse(class_, text[prefix.end() :], clock))
        else:
            together.append(_parse(class_, text, clock))
    parsed = [*together, *alternatives]
    if not parsed:
        return None
    group = [c.all_of([one.condition for one in together])] if together else []
    condition = c.any_of([*group, *(one.condition for one in alternatives)])
    plain = [] if alternatives else [one.condition for one in together if one.matching is None]
    return Filter(condition, c.all_of(plain), [one.matching for one in parsed if one.matching is not None])


def _parse(class_: Class, text: str, clock: Clock) -> _Parsed:
    found = _FILTER.match(text)
    if found is None:
        raise bad_request(f"Unknown operator specified in filter {text}")
    target = _target(class_, found[1])
    operator, value = found[2], text[found.end() :].strip(" ")
    if operator in ("=~", "!~"):
        matching = _matching(target, operator, value, own=target.scope is same_row)
        return _Parsed(target.scope(matching), matching)
    return _Parsed(target.scope(_condition(target.attribute, operator, value, clock)), None)


def _target(class_: Class, name: str) -> _Target:
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


def _matching(target: _Target, operator: str, value: str, *, own: bool) -> Matching:
    attribute, quoted = target.attribute, _QUOTED.fullmatch(value)
    if quoted is None and _ARRAY.fullmatch(value):
        raise bad_request(f"Unsupported operator for arrays: {operator}")
    if attribute.kind != "text":
        kind = {"moment": "datetime", "id": "integer"}.get(attribute.kind, attribute.kind)
        raise bad_request(f"Unsupported operator for {kind}: {operator}")
    pattern = regexes.compiled(_unquoted(quoted) if quoted else value)
    return Matching(target.noun, attribute.column, pattern, operator in _NEGATED, own)


def _unquoted(quoted: re.Match[str]) -> str:
    text: str = quoted[1] if quoted[1] is not None else quoted[2]
    return text


def _condition(attribute: Attribute, operator: str, value: str, clock: Clock) -> Condition:
    quoted = _QUOTED.fullmatch(value)
    if quoted:
        text = _unquoted(quoted)
        if attribute.kind == "moment":
            return _relation(attribute, operator, instant(text))
        return _value(attribute, operator, text)
    if _NULL.fullmatch(value):
        return _null(attribute, operator)
    if array := _ARRAY.fullmatch(value):
        if operator != "=":
            raise bad_request(f"Unsupported operator for arrays: {operator}")
        items = array[1].split(",") if array[1] else []
        if len(items) > MOST_CONDITIONS:
            raise bad_request(f"An array may have at most {MOST_CONDITIONS} values")
        return c.any_of([_element(attribute, item, clock) for item in items])
    if attribute.kind == "moment":
        return _during(attribute, operator, span(value, clock))
    return _value(attribute, operator, value)


def _element(attribute: Attribute, item: str, clock: Clock) -> Condition:
    if attribute.kind == "moment":
        return _during(attribute, "=", span(item.strip(), clock))
    return _value(attribute, "=", item)


def _value(attribute: Attribute, operator: str, text: str) -> Condition:
    if attribute.kind == "text" and operator in ("=", "!=") and _WILDCARD.search(text):
        typed(attribute, text)
        parts = _WILDCARD.split(text)
        if len(parts) > MOST_STARS + 1:
            raise bad_request(f"A pattern may have at most {MOST_STARS} wildcards")
        return _compare(attribute, c.matches(parts), operator in _NEGATED)
    if attribute.kind == "boolean" and _RELATIONS[operator] != "=":
        raise bad_request(f"Unsupported operator for boolean: {operator}")
    return _relation(attribute, operator, typed(attribute, text))


def _relation(attribute: Attribute, operator: str, value: Any) -> Condition:
    return _compare(attribute, c.relation(_RELATIONS[operator], value), operator in _NEGATED)


def _compare(attribute: Attribute, test: c.Test, negated: bool) -> Condition:
    return c.compare(attribute.column, test, nullable=attribute.nullable, negated=negated)


def _null(attribute: Attribute, operator: str) -> Condition:
    if _RELATIONS[operator] != "=":
        return c.nothing  # nothing is less than nothing
    return c.compare(attribute.column, c.is_null, nullable=False, negated=operator in _NEGATED)


def _during(attribute: Attribute, operator: str, time: Span) -> Condition:
    match operator:
        case "=":
            after = _compare(attribute, c.relation(">=", time.start), negated=False)
            return c.all_of([after, _compare(attribute, c.relation("<", time.end), negated=False)])
        case "<":
            return _compare(attribute, c.relation("<", time.start), negated=False)
        case ">":
            return _compare(attribute, c.relation(">=", time.end), negated=False)
        case _:
            raise bad_request(f"Unsupported operator for datetime: {operator}")
