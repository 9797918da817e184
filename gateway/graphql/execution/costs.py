"""What an operation costs, held against the limit, and told to who asks with `extensions: {"cost": true}`."""

from collections.abc import Mapping
from typing import Any

from graphql import GraphQLError, OperationDefinitionNode

from gateway.graphql.error_format import LIMIT_EXCEEDED, RequestError
from gateway.graphql.requests import GraphQLRequest

WISH = 10  # to write one thing down, beside what is asked back of it


class Costs:
    """The limit, and how it is spoken of."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def check(self, cost: int, node: OperationDefinitionNode) -> None:
        """Raises RequestError for what costs too much."""
        if cost > self._limit:
            message = (
                f"The operation costs {cost}, and at most {self._limit} is served:"
                " ask for smaller pages, or for less beneath them."
            )
            raise RequestError([GraphQLError(message, node)], LIMIT_EXCEEDED)

    def told(self, request: GraphQLRequest, cost: int) -> Mapping[str, Any] | None:
        """The `extensions` of the answer, if `request` wants to know."""
        if request.extensions.get("cost") is True:
            return {"cost": {"requested": cost, "limit": self._limit}}
        return None


def wish_price(payload: int, arguments: Mapping[str, Any]) -> int:
    """What a mutation costs whose payload costs this much for each thing that its input names."""
    lists = [len(value) for value in arguments["input"].values() if isinstance(value, list)]
    return max([1, *lists]) * (WISH + payload)
