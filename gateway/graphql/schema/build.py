"""Builds the schema, prints it as SDL, and prepares it for execution and for the read compiler."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

import strawberry
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLSchema,
    get_named_type,
    get_nullable_type,
    is_list_type,
    is_non_null_type,
)
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.schema_converter import GraphQLCoreConverter

from gateway.graphql.schema import enums
from gateway.graphql.schema.fields import SOURCE
from gateway.graphql.schema.mutations import Mutation
from gateway.graphql.schema.query import Query
from gateway.graphql.schema.scalars import SCALARS
from gateway.graphql.schema.subscriptions import Subscription
from gateway.graphql.schema.types import Instance, Vm
from gateway.reads.sources import Catalog, Source, SourcedField

assert enums  # imported for its side effect: it describes the enums that the types use


def build_schema(query: type = Query) -> strawberry.Schema:
    """Builds a new schema, whose query root is `query`. It shares no objects with other schemas."""
    return strawberry.Schema(
        query=query,
        mutation=Mutation,
        subscription=Subscription,
        types=[Vm, Instance],
        config=StrawberryConfig(scalar_map=SCALARS),
    )


@cache  # printing takes 30 ms, and the schema is the same for the life of the process
def print_sdl() -> str:
    """The schema in SDL: the content of `schema.graphql`."""
    return build_schema().as_str() + "\n"


def executable(schema: strawberry.Schema) -> GraphQLSchema:
    """The underlying graphql-core schema, with resolvers for the rows that the read compiler loads.

    Such a row maps response keys to values. Strawberry's own resolvers would look up attributes and copy every input
    into a class, neither of which is needed. Fields of the mutation type keep their resolvers.
    """
    core = schema._schema  # noqa: SLF001 - there is no public accessor
    roots = {core.mutation_type}
    for type_ in _object_types(core):
        if type_ not in roots:
            for field in type_.fields.values():
                field.resolve = _resolve_loaded
    return core


@cache  # building takes 20 ms, and executing changes nothing in it
def executable_schema() -> GraphQLSchema:
    """The executable schema of the gateway. All gateways of a process share it."""
    return executable(build_schema())


def _resolve_loaded(source: Mapping[str | int, Any], info: GraphQLResolveInfo[Any], **_arguments: Any) -> Any:
    """The loaded value. Raises it if loading the field failed."""
    value = source[info.path.key]
    if isinstance(value, Exception):
        raise value
    return value


def _object_types(core: GraphQLSchema) -> Iterator[GraphQLObjectType]:
    for type_ in core.type_map.values():
        if isinstance(type_, GraphQLObjectType) and not type_.name.startswith("__"):
            yield type_


def catalog(core: GraphQLSchema) -> Catalog:
    """The source of every field's value, as declared by the types, for the read compiler."""
    return {
        type_.name: {
            name: _sourced_field(source, field)
            for name, field in type_.fields.items()
            if (source := _source(field)) is not None
        }
        for type_ in _object_types(core)
    }


def _sourced_field(source: Source, field: GraphQLField) -> SourcedField:
    type_ = get_named_type(field.type)
    enum_values = frozenset(type_.values) if isinstance(type_, GraphQLEnumType) else None
    is_list = is_list_type(get_nullable_type(field.type))
    return SourcedField(source, type_.name, is_non_null_type(field.type), is_list, enum_values)


def _source(field: GraphQLField) -> Any:
    declared = cast("Any", field.extensions.get(GraphQLCoreConverter.DEFINITION_BACKREF))
    return None if declared is None else declared.metadata.get(SOURCE)
