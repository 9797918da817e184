"""Backward compatibility of the schema, and its conformance with the conventions of GraphQL and Relay."""

import re
import tomllib
from pathlib import Path

import pytest
from graphql import GraphQLEnumType, GraphQLSchema, build_schema, find_breaking_changes, validate_schema

from gateway.graphql.schema.build import print_sdl
from tests.clients.node import check_installed, run

RELEASED = Path(__file__).parent / "released.graphql"


def breaking(before: str, after: str) -> list[str]:
    return [change.description for change in find_breaking_changes(build_schema(before), build_schema(after))]


@pytest.fixture(scope="module")
def released() -> str:
    return RELEASED.read_text()


def test_no_breaking_change_since_the_last_release(released: str) -> None:
    assert breaking(released, print_sdl()) == []


def test_values_are_added_only_to_enums_that_announce_it(released: str) -> None:
    """A client may treat the values of any other enum as all that there are."""
    before, after = build_schema(released).type_map, build_schema(print_sdl()).type_map
    unannounced = []
    for name, enum in before.items():
        now = after[name]
        if isinstance(enum, GraphQLEnumType) and isinstance(now, GraphQLEnumType) and now.values.keys() - enum.values:
            unannounced += [] if "Values may be added" in " ".join((enum.description or "").split()) else [name]
    assert unannounced == []


def test_released_schema_is_that_of_the_version(released: str, root: Path) -> None:
    """A new version requires a copy of its schema in `released.graphql`, so that later changes are compared with it."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert released.splitlines()[0] == f"# schema.graphql as it was released with version {version}."


@pytest.mark.parametrize(
    ("line", "replacement", "found"),
    [
        ("  flavor: String\n", "", "Field Instance.flavor was removed."),
        ("  phase: String\n", "  phase: Int\n", "Field Operation.phase changed type from String to Int."),
        (
            "  operationId: ID!\n",
            "  operationId: ID!\n  why: String!\n",
            "A required field CancelOperationInput.why was added.",
        ),
        ("  SUSPENDED\n", "", "Enum value PowerState.SUSPENDED was removed."),
    ],
)
def test_breaking_change_is_detected(released: str, line: str, replacement: str, found: str) -> None:
    bare = re.sub(r' *""".*?"""\n', "", released, flags=re.DOTALL)
    assert bare.count(line) == 1
    assert breaking(bare, bare.replace(line, replacement)) == [found]


def test_the_schema_is_valid(root: Path) -> None:
    schema: GraphQLSchema = build_schema((root / "schema.graphql").read_text())
    assert validate_schema(schema) == []


@pytest.mark.thorough  # starts ESLint; the result changes only with the schema
def test_graphql_eslint_reports_nothing(root: Path) -> None:
    """The recommended rules and those for Relay. The configuration lists the exceptions with their reasons."""
    check_installed()
    config = "tests/clients/lint/eslint.config.js"
    arguments = ("--max-warnings", "0", "--config", config, "schema.graphql")
    assert run("eslint", *arguments, folder=str(root)) == ""
