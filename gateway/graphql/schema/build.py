"""The schema: put together, printed, and read for the compiler."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import strawberry
from graphql import GraphQLField, GraphQLObjectType, GraphQLResolveInfo, GraphQLSchema, get_named_type, is_non_null_type
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.schema_converter import GraphQLCoreConverter

from gateway.graphql.schema import enums
from gateway.graphql.schema.fields import SOURCE
from gateway.graphql.schema.mutations import Mutation
from gateway.graphql.schema.query import Query
from gateway.graphql.schema.scalars import SCALARS
from gateway.graphql.schema.subscriptions import Subscription
from gateway.graphql.schema.types import Instance, Vm
from gateway.reads.sources import Catalog, SourcedField

assert enums  # describes the enums, which the types only name


def build_schema() -> strawberry.Schema:
    """A schema of its own: nothing is shared between two of them."""
    return strawberry.Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=[Vm, Instance],
        config=StrawberryConfig(scalar_map=SCALARS),
    )


def print_sdl() -> str:
    """The schema definition, as `schema.graphql` holds it."""
    return build_schema().as_str() + "\n"


def executable(schema: strawberry.Schema) -> GraphQLSchema:
    """The graphql-core schema behind it, whose objects are the reader's: values by response key.

    Strawberry's own resolvers would look for attributes and copy every input into a class; nobody here needs either.
    """
    core = schema._schema  # noqa: SLF001 - the only way to it
    roots = {core.mutation_type}
    for type_ in _object_types(core):
        if type_ not in roots:
            for field in type_.fields.values():
                field.resolve = _loaded
    return core


def _loaded(source: Mapping[str | int, Any], info: GraphQLResolveInfo[Any], **_arguments: Any) -> Any:
    value = source[info.path.key]
    if isinstance(value, Exception):
        raise value
    return value


def _object_types(core: GraphQLSchema) -> Iterator[GraphQLObjectType]:
    for type_ in core.type_map.values():
        if isinstance(type_, GraphQLObjectType) and not type_.name.startswith("__"):
            yield type_


def catalog(core: GraphQLSchema) -> Catalog:
    """Where every field's value comes from, as the types declare it."""
    return {
        type_.name: {
            name: SourcedField(source, get_named_type(field.type).name, is_non_null_type(field.type))
            for name, field in type_.fields.items()
            if (source := _source(field)) is not None
        }
        for type_ in _object_types(core)
    }


def _source(field: GraphQLField) -> Any:
    declared = cast("Any", field.extensions.get(GraphQLCoreConverter.DEFINITION_BACKREF))
    return None if declared is None else declared.metadata.get(SOURCE)
