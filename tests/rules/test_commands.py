"""Commands, mutations and kinds of operations belong together: each mutation executes a command with its arguments."""

import inspect
from dataclasses import MISSING, fields
from typing import Any

import pytest
from graphql import GraphQLInputObjectType, get_named_type, is_required_input_field

from gateway.graphql.schema.build import executable_schema
from gateway.graphql.schema.mutations import COMMANDS, parameters
from gateway.models import AuditAction, OperationKind
from gateway.operations.commands.base import Command
from gateway.operations.operation_kinds import OPERATION_TYPES

MUTATIONS = executable_schema().mutation_type.fields  # type: ignore[union-attr]
BY_NAME = {command.mutation: command for command in COMMANDS}


def concrete(type_: type[Command]) -> list[type[Command]]:
    found = [] if inspect.isabstract(type_) else [type_]
    return found + [each for subclass in type_.__subclasses__() for each in concrete(subclass)]


def test_every_mutation_has_a_command_and_every_command_a_mutation() -> None:
    assert set(MUTATIONS) == set(BY_NAME)
    assert set(concrete(Command)) == set(COMMANDS)  # type: ignore[type-abstract]


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_input_has_the_fields_of_the_command(name: str) -> None:
    input_ = get_named_type(MUTATIONS[name].args["input"].type)
    assert isinstance(input_, GraphQLInputObjectType)
    arguments = {each.argument: each.name for each in parameters(BY_NAME[name])}
    assert set(input_.fields) - {"idempotencyKey"} == set(arguments)
    command: Any = BY_NAME[name]
    required = {each.name for each in fields(command) if each.default is MISSING}
    assert {arguments[field] for field in input_.fields if is_required_input_field(input_.fields[field])} == required


def test_every_kind_of_operation_has_a_type() -> None:
    assert set(OPERATION_TYPES) == set(OperationKind)
    types = [type(each) for each in OPERATION_TYPES.values()]
    assert len(set(types)) == len(types)


def test_operation_types_require_a_right() -> None:
    assert [kind for kind, type_ in OPERATION_TYPES.items() if not type_.actions] == []


def test_accepted_commands_are_audited_as_their_operations() -> None:
    """The trigger that records the end of an operation uses its kind as the action."""
    actions = {command.action for command in COMMANDS} - {AuditAction.CANCEL_OPERATION, AuditAction.REFRESH_PROVIDER}
    assert {action.name for action in actions} == {kind.name for kind in OperationKind}
