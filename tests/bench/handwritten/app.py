"""The schema and the ASGI application. With TUNED=1: parser and validation caches, and orjson."""

import os
from typing import Any

import orjson
import strawberry
from sqlmodel import col, select
from strawberry.asgi import GraphQL
from strawberry.extensions import ParserCache, ValidationCache
from strawberry.schema.config import StrawberryConfig

from gateway.models import Machine, MachineKind
from tests.bench.handwritten.database import sessions
from tests.bench.handwritten.loaders import Loaders
from tests.bench.handwritten.mutations import Mutation, number
from tests.bench.handwritten.pages import Order, Page, conditions, limited, ordering, rows
from tests.bench.handwritten.types import SCALARS, Info, PageInfo, Vm, VmConnection

_TUNED = os.environ.get("TUNED") == "1"
_BY_NAME = Order("name", descending=False)


@strawberry.type
class Query:
    @strawberry.field
    async def vm(self, info: Info, id: strawberry.ID) -> Vm | None:
        row = await info.context["loaders"].machine.load(number(id))
        return None if row is None or row.kind is not MachineKind.VM else Vm.of(row)

    @strawberry.field
    async def vms(self, first: int = 50, after: str | None = None) -> VmConnection:
        page = Page(limited(first), after, _BY_NAME)
        statement = (
            select(Machine)
            .where(col(Machine.kind) == MachineKind.VM, *conditions(Machine, page))
            .order_by(*ordering(Machine, page.order))
            .limit(page.first + 1)
        )
        async with sessions() as session:
            found = rows(list(await session.exec(statement)), page)
        return VmConnection(nodes=[Vm.of(row) for row in found.items], page_info=PageInfo.of(found, page.order))


class _Endpoint(GraphQL[Any, Any]):
    async def get_context(self, request: Any, response: Any) -> dict[str, Any]:
        return {"request": request, "response": response, "loaders": Loaders()}


class _TunedEndpoint(_Endpoint):
    def encode_json(self, data: object) -> str | bytes:
        return orjson.dumps(data)


schema = strawberry.Schema(
    query=Query,
    mutation=Mutation,
    extensions=[ParserCache, ValidationCache] if _TUNED else [],
    config=StrawberryConfig(scalar_map=SCALARS),
)
app = (_TunedEndpoint if _TUNED else _Endpoint)(schema)
