"""Loads queries: all root fields in one read transaction."""

from typing import Any

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.errors import Forbidden, GatewayError, Throttled
from gateway.graphql.execution.root_fields import BoundRootFields
from gateway.operations.service import Operations
from gateway.reads.context import Context
from gateway.store.database import Database, Transaction


class QueryLoader:
    """Loads the root fields of queries by their plans."""

    def __init__(self, database: Database, operations: Operations) -> None:
        self._database = database
        self._operations = operations

    async def load(self, bound: BoundRootFields, caller: Caller, origin: RequestOrigin) -> dict[str, Any]:
        """The value of every root field, or the exception that its load raised, by response key.

        Fields that the caller may not read are recorded as refused. Raises Throttled when the caller uses its share of
        the database.
        """
        roots, variables, loads, values, _ = bound

        async def load(transaction: Transaction) -> None:
            for key, (plan, plan_bound) in loads.items():
                context = Context(transaction, plan.dialect, caller, self._operations.rules, plan_bound)
                try:
                    values[key] = await plan.load(context, variables)
                except GatewayError as error:
                    values[key] = error

        if loads:
            try:
                single = False
                if len(loads) == 1:
                    ((plan, plan_bound),) = loads.values()
                    single = plan.is_single_statement(plan_bound)
                await self._database.read(load, single=single)
            except Throttled:
                raise  # nothing was loaded, so it is the transport that refuses the request
            except Exception as error:  # noqa: BLE001 - reported or masked and logged like any other field error
                values.update(dict.fromkeys(loads, error))
        for root in roots:
            if isinstance(refusal := values[root.field.key], Forbidden):
                await self._operations.refusals.record_read(caller, origin, root.field.name, refusal)
        return values
