"""The schema: the file matches the code, and every element has a description."""

from collections.abc import Iterator

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    build_schema,
    is_introspection_type,
    is_specified_directive,
    is_specified_scalar_type,
)

from gateway.errors import ErrorCode
from gateway.graphql.schema.build import build_schema as build_schema_of_code
from gateway.graphql.schema.build import catalog, executable, print_sdl
from gateway.models import UNKNOWN
from gateway.reads.sources import Column
from tests.rules.markdown import ROOT


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    return build_schema(print_sdl())


def test_the_file_matches_the_code() -> None:
    assert (ROOT / "schema.graphql").read_text() == print_sdl(), "run: make schema"


def test_every_element_has_a_description(schema: GraphQLSchema) -> None:
    assert [name for name, description in _described(schema) if not (description or "").strip()] == []


def test_every_error_code_is_in_it(schema: GraphQLSchema) -> None:
    codes = schema.type_map["ErrorCode"]
    assert isinstance(codes, GraphQLEnumType)
    assert list(codes.values) == [*(code.value for code in ErrorCode), UNKNOWN]


def test_every_enum_of_a_column_has_a_value_for_what_a_newer_version_stored() -> None:
    without = [
        f"{type_name}.{name}"
        for type_name, fields in catalog(executable(build_schema_of_code())).items()
        for name, field in fields.items()
        if isinstance(field.source, Column) and field.enum_values is not None and UNKNOWN not in field.enum_values
    ]
    assert without == []


def _described(schema: GraphQLSchema) -> Iterator[tuple[str, str | None]]:
    for type_ in schema.type_map.values():
        if not is_introspection_type(type_) and not is_specified_scalar_type(type_):
            yield type_.name, type_.description
            yield from _members(type_)
    for directive in schema.directives:
        if not is_specified_directive(directive):
            yield f"@{directive.name}", directive.description


def _members(type_: GraphQLNamedType) -> Iterator[tuple[str, str | None]]:
    match type_:
        case GraphQLObjectType() | GraphQLInterfaceType():
            for name, field in type_.fields.items():
                yield f"{type_.name}.{name}", field.description
                for argument, about in field.args.items():
                    yield f"{type_.name}.{name}({argument})", about.description
        case GraphQLInputObjectType():
            for name, member in type_.fields.items():
                yield f"{type_.name}.{name}", member.description
        case GraphQLEnumType():
            for name, value in type_.values.items():
                yield f"{type_.name}.{name}", value.description
