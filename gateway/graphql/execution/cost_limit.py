"""The limit on the cost of an operation, and the report of the cost to clients that send `extensions: {"cost": true}`.

`gateway.reads.cost` computes the cost of a selection.
"""

from collections.abc import Mapping
from typing import Any

from graphql import GraphQLError, OperationDefinitionNode

from gateway.graphql.error_format import LIMIT_EXCEEDED, RequestError
from gateway.graphql.requests import GraphQLRequest

MUTATION_COST = 10  # of one accepted command, in addition to its payload
INTROSPECTION_FACTOR = 10  # for the rest of an operation that introspects: graphql-core completes it more slowly


class CostLimit:
    """Compares the cost of operations with a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def check(self, cost: int, node: OperationDefinitionNode) -> None:
        """Raises RequestError if `cost` exceeds the limit."""
        if cost > self._limit:
            message = (
                f"The operation costs {cost}, and the limit is {self._limit}."
                " Request smaller pages or fewer nested fields."
            )
            raise RequestError([GraphQLError(message, node)], LIMIT_EXCEEDED)

    def extensions(self, request: GraphQLRequest, cost: int) -> Mapping[str, Any] | None:
        """The `extensions` of the response with cost and limit; None if `request` does not ask for them."""
        if request.extensions.get("cost") is True:
            return {"cost": {"requested": cost, "limit": self._limit}}
        return None


def mutation_cost(payload: int, arguments: Mapping[str, Any]) -> int:
    """The cost of a mutation: one command and its payload, for each target."""
    return target_count(arguments) * (MUTATION_COST + payload)


def target_count(arguments: Mapping[str, Any]) -> int:
    """The number of targets of a mutation: the length of the longest list in the input, at least 1."""
    lists = [len(value) for value in arguments["input"].values() if isinstance(value, list)]
    return max([1, *lists])
