"""Converts GraphQL's syntax tree to `reads.selection`: merges fragments and applies `@skip` and `@include`."""

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
    GraphQLOutputType,
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
    get_nullable_type,
    is_list_type,
    is_non_null_type,
    is_required_argument,
)
from graphql.execution.values import VariableValues

from gateway.bounded_cache import BoundedCache, CacheSection
from gateway.reads.selection import Arguments, ConstantArguments, Field, Selection, Variables

Fragments = Mapping[str, FragmentDefinitionNode]


class Selections:
    """The selections of one operation, for one set of variables.

    The same syntax nodes under several concrete types become one `Field` object, so that a plan loads it once.
    """

    def __init__(self, schema: GraphQLSchema, fragments: Fragments, variables: VariableValues) -> None:
        self._schema = schema
        self._fragments = fragments
        self._variables = variables
        self._fields_by_nodes: dict[tuple[int, ...], Field] = {}

    def roots(self, root: GraphQLObjectType, selection_set: SelectionSetNode) -> list[Field]:
        """The root fields of an operation, except the introspection fields `__schema` and `__type`."""
        groups = self._collect(root, [selection_set])
        return [
            self._field(root, key, nodes)
            for key, nodes in groups.items()
            if nodes[0].name.value in root.fields or nodes[0].name.value == "__typename"
        ]

    def field(self, parent: GraphQLObjectType, nodes: Sequence[FieldNode]) -> Field:
        """The field that `nodes`, which have the same response key, select on `parent`."""
        node = nodes[0]
        return self._field(parent, (node.alias or node.name).value, nodes)

    def _field(self, parent: GraphQLObjectType, key: str, nodes: Sequence[FieldNode]) -> Field:
        identity = tuple(id(node) for node in nodes)
        field = self._fields_by_nodes.get(identity)
        if field is None:
            field = self._fields_by_nodes[identity] = self._new_field(parent, key, nodes)
        return field

    def _new_field(self, parent: GraphQLObjectType, key: str, nodes: Sequence[FieldNode]) -> Field:
        node = nodes[0]
        name = node.name.value
        if name == "__typename":
            return Field(key, name, {}, ast_nodes=nodes, nullable=_NON_NULL)
        definition = parent.fields[name]
        sets = [each.selection_set for each in nodes if each.selection_set is not None]
        selection = self._selection(get_named_type(definition.type), sets) if sets else {}
        arguments, nullable = _arguments(definition, node), _nullability(definition.type)
        return Field(key, name, selection, arguments, ast_nodes=nodes, nullable=nullable)

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
        """The field nodes that apply to `concrete` by response key, in document order (GraphQL, CollectFields)."""
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


_NON_NULL = (False,)


def _nullability(type_: GraphQLOutputType) -> Sequence[bool]:
    """Whether a value of the type may be null and, if it is a list, the same for its items."""
    nullable = not is_non_null_type(type_)
    inner = get_nullable_type(type_)
    return (nullable, *_nullability(inner.of_type)) if is_list_type(inner) else (nullable,)


def _arguments(definition: GraphQLField, node: FieldNode) -> Callable[[Variables], Arguments]:
    """A function that returns the arguments of a field for the variables of a request.

    Literals are coerced once, here. Variables that are whole arguments are coerced already (`VariableBinder`). Only
    variables inside lists and objects need graphql-core at each request; its results are cached.
    """
    given = {argument.name.value: argument.value for argument in node.arguments or ()}
    if any(not isinstance(value, VariableNode) and _variable_names(value) for value in given.values()):
        return _cached_binding(
            definition, node, sorted({name for value in given.values() for name in _variable_names(value)})
        )
    constant: dict[str, Any] = {}
    variable: list[tuple[str, str, bool]] = []
    for name, argument in definition.args.items():
        value = given.get(name)
        if isinstance(value, VariableNode):
            variable.append((name, value.name.value, is_required_argument(argument)))
        if not isinstance(value, VariableNode) or not is_required_argument(argument):
            literals = [
                each
                for each in node.arguments or ()
                if each.name.value == name and not isinstance(each.value, VariableNode)
            ]
            field = FieldNode(name=node.name, arguments=tuple(literals))
            constant |= get_argument_values(GraphQLField(definition.type, {name: argument}), field, _NO_VARIABLES)
    if not variable:
        same = ConstantArguments(constant)
        return lambda _variables: same

    def bind(variables: Variables) -> Arguments:
        values = dict(constant)
        coerced = variables.coerced
        for name, source, required in variable:
            if required and coerced.get(source) is None:
                return get_argument_values(definition, node, variables)  # raises the GraphQLError
            if source in coerced:
                values[name] = coerced[source]
        return values

    return bind


_NO_VARIABLES = VariableValues({}, {})
_ABSENT = object()
_BOUND = BoundedCache[tuple[object, str], Arguments](4_000)  # sets of arguments, of all fields
_MAX_CACHED_LENGTH = 1_000  # characters of the variables


def _cached_binding(
    definition: GraphQLField, node: FieldNode, names: Sequence[str]
) -> Callable[[Variables], Arguments]:
    """Binds arguments with nested variables by graphql-core, which is slow, and caches them by the variable values."""
    cache = CacheSection[str, Arguments](_BOUND)

    def bind(variables: Variables) -> Arguments:
        coerced = variables.coerced
        key = repr([coerced.get(name, _ABSENT) for name in names])
        arguments = cache.get(key)
        if arguments is None:
            arguments = get_argument_values(definition, node, variables)
            if len(key) <= _MAX_CACHED_LENGTH:
                cache.put(key, arguments)
        return arguments

    return bind


def _variable_names(value: ValueNode) -> set[str]:
    """The names of the variables in a value, however deeply nested."""
    if isinstance(value, VariableNode):
        return {value.name.value}
    if isinstance(value, ListValueNode):
        return {name for item in value.values for name in _variable_names(item)}
    if isinstance(value, ObjectValueNode):
        return {name for field in value.fields for name in _variable_names(field.value)}
    return set()
