"""Random valid queries with variables, generated from the schema: with aliases, fragments, directives and arguments."""

import random
from collections.abc import Sequence
from typing import Any

from graphql import (
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_leaf_type,
    is_required_argument,
)

from gateway.models import SnapshotAction
from tests.reads.world import NAMES

Literal = str


class Queries:
    """Generates random queries from a seed."""

    def __init__(self, schema: GraphQLSchema, known: Sequence[str], seed: int) -> None:
        self._schema = schema
        self._random = random.Random(seed)
        self._ids = [*known, "operation-1", "vm-999"]
        self._variables: dict[str, tuple[str, Any]] = {}
        self._fragments: list[str] = []
        self._budget = 0

    def next(self) -> tuple[str, dict[str, Any]]:
        """A document and its variables."""
        self._variables, self._fragments, self._budget = {}, [], 60
        root = self._schema.query_type
        assert root is not None
        selection = self._selection(root, 0)
        declared = ", ".join(f"${name}: {type_}" for name, (type_, _) in self._variables.items())
        head = f"query Q({declared})" if declared else "query Q"
        given = {name: value for name, (_, value) in self._variables.items() if value is not ...}
        return "\n".join([f"{head} {selection}", *self._fragments]), given

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _variable(self, type_: str, value: Any) -> str:
        name = f"v{len(self._variables)}"
        self._variables[name] = (type_, value)
        return f"${name}"

    # ---- selections

    def _selection(self, type_: GraphQLNamedType, depth: int) -> str:
        fields = []
        for _ in range(self._random.randint(1, 4 if depth < 4 else 2)):
            fields.append(self._item(type_, depth))  # noqa: PERF401 - each call draws from the same random source
        if not any(fields):
            fields.append("__typename")
        return "{ " + " ".join(fields) + " }"

    def _item(self, type_: GraphQLNamedType, depth: int) -> str:
        self._budget -= 1
        choice = self._random.random()
        if choice < 0.08 or self._budget < 0:
            return f"{self._alias(0.3)}__typename{self._condition()}"
        if choice < 0.2 and depth < 8:
            return self._fragment(type_, depth)
        assert isinstance(type_, GraphQLObjectType | GraphQLInterfaceType)
        deep = depth > 7
        names = [name for name, field in type_.fields.items() if is_leaf_type(get_named_type(field.type)) or not deep]
        if not names:
            return "__typename"
        name = self._random.choice(names)
        return self._field(name, type_.fields[name], depth)

    def _alias(self, probability: float) -> str:
        return f"a{self._random.randint(0, 9_999)}: " if self._chance(probability) else ""

    def _field(self, name: str, field: GraphQLField, depth: int) -> str:
        arguments = self._arguments(field)
        # Fields of one name with different arguments must not have the same response key.
        alias = self._alias(1.0 if arguments else 0.2)
        inner = get_named_type(field.type)
        selection = "" if is_leaf_type(inner) else " " + self._selection(inner, depth + 1)
        return f"{alias}{name}{arguments}{self._condition()}{selection}"

    def _fragment(self, type_: GraphQLNamedType, depth: int) -> str:
        if isinstance(type_, GraphQLInterfaceType):
            choices: list[GraphQLNamedType] = [type_, *self._schema.get_possible_types(type_)]
        else:
            assert isinstance(type_, GraphQLObjectType)
            choices = [type_, *type_.interfaces]
        target = self._random.choice(choices)
        selection = self._selection(target, depth + 1)
        if self._chance(0.5):
            return f"... on {target.name}{self._condition()} {selection}"
        name = f"F{len(self._fragments)}"
        self._fragments.append(f"fragment {name} on {target.name} {selection}")
        return f"...{name}{self._condition()}"

    def _condition(self) -> str:
        if not self._chance(0.08):
            return ""
        value = self._chance(0.5)
        shown = self._variable("Boolean!", value) if self._chance(0.6) else str(value).lower()
        return f" @{self._random.choice(['skip', 'include'])}(if: {shown})"

    # ---- arguments

    def _arguments(self, field: GraphQLField) -> str:
        given = []
        for name, argument in field.args.items():
            if name in ("id", "ids", "machineId"):
                given.append(f"{name}: {self._identifier(name == 'ids')}")
            elif is_required_argument(argument) or self._chance(0.25):
                given.append(f"{name}: {self._argument(name, str(get_named_type(argument.type)))}")
        return f"({', '.join(given)})" if given else ""

    def _identifier(self, several: bool) -> str:
        known = [*self._ids, "x"] if several or self._chance(0.1) else self._ids  # "x" is not an id
        picked = [self._random.choice(known) for _ in range(self._random.randint(0, 5))]
        value: Any = picked if several else self._random.choice(known)
        type_ = "[ID!]!" if several else "ID!"
        if self._chance(0.5):
            return self._variable(type_, value)
        return "[" + ", ".join(f'"{one}"' for one in value) + "]" if several else f'"{value}"'

    def _argument(self, name: str, type_: str) -> str:
        match name:
            case "first" | "last" | "offset":
                value = self._random.choice([0, 1, 1, 2, 2, 3, 3, 7, 7, 50, 100, self._random.choice([-1, 2_000, 5])])
                return (
                    self._variable("Int", self._random.choice([value, None, ...])) if self._chance(0.4) else str(value)
                )
            case "after" | "before":
                return self._variable("String", self._random.choice([None, None, None, "x", "WzFd"]))
            case "action":
                action = self._random.choice(list(SnapshotAction)).value
                return self._variable("SnapshotAction!", action) if self._chance(0.4) else action
            case "count":
                number = self._random.choice([0, 1, 2, 3, 3, 4])  # 4 is refused
                return self._variable("Int!", number) if self._chance(0.4) else str(number)
            case "text" | "prefix":
                return self._variable("String", self._random.choice(["a", None, ...])) if self._chance(0.6) else '"b"'
            case "sort":
                return self._sort(type_)
        return self._filter(type_)

    def _sort(self, type_: str) -> str:
        fields = {
            "SnapshotSort": ["NAME", "SIZE_BYTES", "STATE", "CREATED_AT", "MACHINE_NAME", "DESCRIPTION"],
            "MachineSort": ["NAME", "POWER_STATE", "SNAPSHOT_COUNT"],
            "OperationSort": ["CREATED_AT", "FINISHED_AT"],
            "AuditEntrySort": ["ID", "CREATED_AT"],
        }[type_]
        keys = [
            {"field": self._random.choice(fields), "direction": self._random.choice(["ASC", "DESC"])}
            for _ in range(self._random.randint(1, 2))
        ]
        if self._chance(0.5):
            return self._variable(f"[{type_}!]", keys)
        return "[" + ", ".join(f"{{field: {key['field']}, direction: {key['direction']}}}" for key in keys) + "]"

    def _filter(self, type_: str) -> str:
        if type_ == "StringFilter":
            return self._variable(type_, self._random.choice([{"contains": "t"}, {}, {"isNull": True}, None]))
        if type_ == "OperationFilter":
            return self._variable(type_, self._random.choice([{}, {"state": {"eq": "QUEUED"}}, None]))
        if type_ == "AuditEntryFilter":
            return self._variable(type_, self._random.choice([{}, {"outcome": {"eq": "ACCEPTED"}}, None]))
        text = self._random.choice([name for name in NAMES if name.isascii() and "\\" not in name])
        if self._chance(0.4):
            value = self._random.choice([{"startsWith": text}, {"in": [text]}, {"eq": None}, {}, {"like": "t*"}])
            return self._variable(type_, {"name": value})
        inside = self._variable("String", self._random.choice([text, None, ...])) if self._chance(0.3) else f'"{text}"'
        return f"{{not: {{name: {{ne: {inside}}}}}}}"
