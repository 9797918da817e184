"""The schema as a product: what changes in it breaks nobody, and it reads as GraphQL's and Relay's users expect."""

import re
import tomllib
from pathlib import Path

import pytest
from graphql import GraphQLSchema, build_schema, find_breaking_changes, validate_schema

from gateway.graphql.schema.build import print_sdl
from tests.clients.node import check_installed, run

RELEASED = Path(__file__).parent / "released.graphql"


def breaking(before: str, after: str) -> list[str]:
    return [change.description for change in find_breaking_changes(build_schema(before), build_schema(after))]


@pytest.fixture(scope="module")
def released() -> str:
    return RELEASED.read_text()


def test_nothing_that_was_released_breaks(released: str) -> None:
    assert breaking(released, print_sdl()) == []


def test_each_release_keeps_its_schema(released: str, root: Path) -> None:
    """Who raises the version copies the schema; a release without its schema could not be compared with."""
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
def test_a_change_that_breaks_is_noticed(released: str, line: str, replacement: str, found: str) -> None:
    bare = re.sub(r' *""".*?"""\n', "", released, flags=re.DOTALL)
    assert bare.count(line) == 1
    assert breaking(bare, bare.replace(line, replacement)) == [found]


def test_the_schema_is_valid(root: Path) -> None:
    schema: GraphQLSchema = build_schema((root / "schema.graphql").read_text())
    assert validate_schema(schema) == []


def test_graphql_eslint_has_nothing_to_say(root: Path) -> None:
    """Its recommended rules and those for Relay; the few exceptions stand in its configuration, with their reasons."""
    check_installed()
    config = "tests/clients/lint/eslint.config.js"
    arguments = ("--max-warnings", "0", "--config", config, "schema.graphql")
    assert run("eslint", *arguments, folder=str(root)) == ""
