"""From GraphQL's syntax tree to `reads.selection`: fragments merged, `@skip` and `@include` applied, by type."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLIncludeDirective,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLSkipDirective,
    GraphQLUnionType,
    InlineFragmentNode,
    ListValueNode,
    ObjectValueNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_argument_values,
    get_directive_values,
    get_named_type,
    is_required_argument,
)
from graphql.execution.values import VariableValues

from gateway.reads.selection import Arguments, Field, Selection, Variables

Fragments = Mapping[str, FragmentDefinitionNode]


class Selections:
    """The selections of one operation. The same nodes under several concrete types become one Field."""

    def __init__(self, schema: GraphQLSchema, fragments: Fragments, variables: VariableValues) -> None:
        self._schema = schema
        self._fragments = fragments
        self._variables = variables
        self._made: dict[tuple[int, ...], Field] = {}

    def roots(self, root: GraphQLObjectType, selection_set: SelectionSetNode) -> list[Field]:
        """The fields of an operation, but not introspection's."""
        groups = self._collect(root, [selection_set])
        return [
            self._field(root, key, nodes)
            for key, nodes in groups.items()
            if nodes[0].name.value in root.fields or nodes[0].name.value == "__typename"
        ]

    def field(self, parent: GraphQLObjectType, nodes: Sequence[FieldNode]) -> Field:
        """The field that these merged nodes select on `parent`."""
        node = nodes[0]
        return self._field(parent, (node.alias or node.name).value, nodes)

    def _field(self, parent: GraphQLObjectType, key: str, nodes: Sequence[FieldNode]) -> Field:
        identity = tuple(id(node) for node in nodes)
        made = self._made.get(identity)
        if made is None:
            made = self._made[identity] = self._make(parent, key, nodes)
        return made

    def _make(self, parent: GraphQLObjectType, key: str, nodes: Sequence[FieldNode]) -> Field:
        node = nodes[0]
        name = node.name.value
        if name == "__typename":
            return Field(key, name, {}, origin=node)
        definition = parent.fields[name]
        sets = [one.selection_set for one in nodes if one.selection_set is not None]
        selection = self._selection(get_named_type(definition.type), sets) if sets else {}
        return Field(key, name, selection, _arguments(definition, node), origin=node)

    def _selection(self, type_: GraphQLNamedType, sets: Sequence[SelectionSetNode]) -> Selection:
        return {
            concrete.name: [self._field(concrete, key, nodes) for key, nodes in self._collect(concrete, sets).items()]
            for concrete in self._concrete(type_)
        }

    def _concrete(self, type_: GraphQLNamedType) -> Sequence[GraphQLObjectType]:
        if isinstance(type_, GraphQLInterfaceType | GraphQLUnionType):
            return self._schema.get_possible_types(type_)
        assert isinstance(type_, GraphQLObjectType)
        return [type_]

    def _collect(self, concrete: GraphQLObjectType, sets: Sequence[SelectionSetNode]) -> dict[str, list[FieldNode]]:
        """The field nodes that apply to `concrete`, by response key, in document order (GraphQL, CollectFields)."""
        groups: dict[str, list[FieldNode]] = {}
        visited: set[str] = set()
        for selection_set in sets:
            for node in self._fields(concrete, selection_set, visited):
                groups.setdefault((node.alias or node.name).value, []).append(node)
        return groups

    def _fields(
        self, concrete: GraphQLObjectType, selection_set: SelectionSetNode, visited: set[str]
    ) -> Iterator[FieldNode]:
        for node in selection_set.selections:
            if not self._included(node):
                continue
            if isinstance(node, FieldNode):
                yield node
                continue
            fragment: FragmentDefinitionNode | InlineFragmentNode
            if isinstance(node, FragmentSpreadNode):
                if node.name.value in visited:
                    continue
                visited.add(node.name.value)
                fragment = self._fragments[node.name.value]
            else:
                assert isinstance(node, InlineFragmentNode)
                fragment = node
            condition = fragment.type_condition
            if condition is None or self._applies(condition.name.value, concrete):
                yield from self._fields(concrete, fragment.selection_set, visited)

    def _applies(self, condition: str, concrete: GraphQLObjectType) -> bool:
        return condition == concrete.name or any(interface.name == condition for interface in concrete.interfaces)

    def _included(self, node: object) -> bool:
        if not node.directives:  # type: ignore[attr-defined]
            return True
        skip = get_directive_values(GraphQLSkipDirective, node, self._variables)  # type: ignore[arg-type]
        if skip and skip["if"]:
            return False
        include = get_directive_values(GraphQLIncludeDirective, node, self._variables)  # type: ignore[arg-type]
        return not include or bool(include["if"])


def _arguments(definition: GraphQLField, node: FieldNode) -> Callable[[Variables], Arguments]:
    """Binds a field's arguments. What is written out is coerced once; a variable's value is coerced already."""
    given = {argument.name.value: argument.value for argument in node.arguments or ()}
    if any(not isinstance(value, VariableNode) and _mentioned(value) for value in given.values()):
        return _remembered(definition, node, sorted({name for value in given.values() for name in _mentioned(value)}))
    constant: dict[str, Any] = {}
    variable: list[tuple[str, str, bool]] = []
    for name, argument in definition.args.items():
        value = given.get(name)
        if isinstance(value, VariableNode):
            variable.append((name, value.name.value, is_required_argument(argument)))
        if not isinstance(value, VariableNode) or not is_required_argument(argument):
            written = [
                one
                for one in node.arguments or ()
                if one.name.value == name and not isinstance(one.value, VariableNode)
            ]
            alone = FieldNode(name=node.name, arguments=tuple(written))
            constant |= get_argument_values(GraphQLField(definition.type, {name: argument}), alone, _NO_VARIABLES)
    if not variable:
        return lambda _variables: constant  # always the same object, by which it is known again

    def bind(variables: Variables) -> Arguments:
        values = dict(constant)
        coerced = variables.coerced
        for name, source, required in variable:
            if required and coerced.get(source) is None:
                return get_argument_values(definition, node, variables)  # says what is wrong
            if source in coerced:
                values[name] = coerced[source]
        return values

    return bind


_NO_VARIABLES = VariableValues({}, {})
_ABSENT = object()
_MOST_REMEMBERED = 32
_LONGEST_REMEMBERED = 1_000  # characters of the variables


def _remembered(definition: GraphQLField, node: FieldNode, names: Sequence[str]) -> Callable[[Variables], Arguments]:
    """Arguments with variables inside them are graphql-core's to bind, which is dear: the same ones are bound once."""
    known: dict[str, Arguments] = {}

    def bind(variables: Variables) -> Arguments:
        coerced = variables.coerced
        key = repr([coerced.get(name, _ABSENT) for name in names])
        arguments = known.get(key)
        if arguments is None:
            arguments = get_argument_values(definition, node, variables)
            if len(key) <= _LONGEST_REMEMBERED:
                if len(known) >= _MOST_REMEMBERED:
                    known.clear()
                known[key] = arguments
        return arguments

    return bind


def _mentioned(value: ValueNode) -> set[str]:
    """The names of the variables in a value."""
    if isinstance(value, VariableNode):
        return {value.name.value}
    if isinstance(value, ListValueNode):
        return {name for item in value.values for name in _mentioned(item)}
    if isinstance(value, ObjectValueNode):
        return {name for field in value.fields for name in _mentioned(field.value)}
    return set()
