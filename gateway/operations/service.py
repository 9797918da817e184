"""The entry for every surface that changes something: decide, record in one transaction, wake the worker.

Nothing here knows of GraphQL or REST. A refusal points into the mutation's input by the names of its arguments.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property

from gateway.access.caller import Caller
from gateway.access.capabilities import Matrices
from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.errors import Refusal
from gateway.models import MachineKind
from gateway.operations import idempotency
from gateway.operations.cancel import cancel_operation
from gateway.operations.create import create_snapshots
from gateway.operations.delete import Manner, delete_snapshots
from gateway.operations.queues import Backlog
from gateway.operations.refresh import refresh_machine
from gateway.operations.revert import revert_vm_snapshot
from gateway.operations.wishes import MachineId, MachineTarget, Outcome, Target, check_count, given, new_snapshot
from gateway.store.database import Database, Transaction

__all__ = ["MachineId", "MachineTarget", "Operations", "Outcome", "Target"]

Decision = Callable[[Transaction], Awaitable[list[Outcome]]]


class _NothingAccepted(Exception):
    """Takes the transaction back, so that a request that was refused whole leaves no trace, not even its key."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__()
        self.outcomes = outcomes


class Operations:
    """What can be asked for. `wake` is called when there may be something new to run."""

    def __init__(
        self, database: Database, drivers: Mapping[str, Driver], settings: Settings, wake: Callable[[], None]
    ) -> None:
        self._database = database
        self._drivers = drivers
        self._backlog = Backlog(settings)
        self._wake = wake

    @cached_property
    def matrices(self) -> Matrices:
        """What each provider that has a driver here can do, by kind of machine."""
        return {(name, kind): driver.matrix(kind) for name, driver in self._drivers.items() for kind in MachineKind}

    async def create_snapshot(
        self, caller: Caller, machine: MachineTarget, name: str, description: str | None, memory: bool, key: str | None
    ) -> Outcome:
        """Raises the refusal."""
        if isinstance(machine, Refusal):
            raise machine.at("machineId")
        new = new_snapshot(name, description, memory)
        arguments = {"machine": given([machine]), "name": new.name, "description": description, "memory": memory}

        async def decide(tx: Transaction) -> list[Outcome]:
            return await create_snapshots(tx, caller, [machine], new, self.matrices, self._backlog)

        outcomes = await self._accept(decide, idempotency.use(caller, "createSnapshot", key, arguments))
        return _single(outcomes, "machineId")

    async def create_snapshots(
        self,
        caller: Caller,
        machines: Sequence[MachineTarget],
        name: str,
        description: str | None,
        memory: bool,
        key: str | None,
    ) -> list[Outcome]:
        """One outcome per machine, in order. Raises the refusal of the request as a whole."""
        check_count(machines, "machineIds")
        new = new_snapshot(name, description, memory)
        arguments = {"machines": given(machines), "name": new.name, "description": description, "memory": memory}

        async def decide(tx: Transaction) -> list[Outcome]:
            outcomes = await create_snapshots(tx, caller, machines, new, self.matrices, self._backlog)
            for index, outcome in enumerate(outcomes):
                if outcome.refusal is not None:
                    outcome.refusal.at("machineIds", index)
            return outcomes

        return await self._accept(decide, idempotency.use(caller, "createSnapshots", key, arguments))

    async def revert_vm_snapshot(self, caller: Caller, snapshot: Target, *, dry_run: bool, key: str | None) -> Outcome:
        """Raises the refusal."""
        if isinstance(snapshot, Refusal):
            raise snapshot.at("snapshotId")

        async def decide(tx: Transaction) -> list[Outcome]:
            try:
                return [await revert_vm_snapshot(tx, caller, snapshot, dry_run, self.matrices, self._backlog)]
            except Refusal as refusal:
                raise refusal.at("snapshotId") from None

        use = None if dry_run else idempotency.use(caller, "revertVmSnapshot", key, {"snapshot": snapshot})
        return _single(await self._accept(decide, use), "snapshotId")

    async def delete_snapshots(
        self,
        caller: Caller,
        snapshots: Sequence[Target],
        *,
        with_descendants: bool,
        all_or_nothing: bool,
        dry_run: bool,
        key: str | None,
    ) -> list[Outcome]:
        """One outcome per snapshot, in order, then those pulled in. Raises the refusal of the request as a whole."""
        check_count(snapshots, "ids")
        manner = Manner(with_descendants=with_descendants, all_or_nothing=all_or_nothing, dry_run=dry_run)
        arguments = {
            "snapshots": given(snapshots),
            "with_descendants": with_descendants,
            "all_or_nothing": all_or_nothing,
        }

        async def decide(tx: Transaction) -> list[Outcome]:
            return await delete_snapshots(tx, caller, snapshots, manner, self.matrices, self._backlog)

        use = None if dry_run else idempotency.use(caller, "deleteSnapshots", key, arguments)
        return await self._accept(decide, use)

    async def refresh_machine(self, caller: Caller, machine: MachineTarget, key: str | None) -> Outcome:
        """Raises the refusal."""
        if isinstance(machine, Refusal):
            raise machine.at("machineId")

        async def decide(tx: Transaction) -> list[Outcome]:
            try:
                return [await refresh_machine(tx, caller, machine, self.matrices, self._backlog)]
            except Refusal as refusal:
                raise refusal.at("machineId") from None

        use = idempotency.use(caller, "refreshMachine", key, {"machine": given([machine])})
        return _single(await self._accept(decide, use), "machineId")

    async def cancel_operation(self, caller: Caller, operation: Target) -> Outcome:
        """Raises the refusal."""
        if isinstance(operation, Refusal):
            raise operation.at("operationId")

        async def decide(tx: Transaction) -> list[Outcome]:
            try:
                return [await cancel_operation(tx, caller, operation)]
            except Refusal as refusal:
                raise refusal.at("operationId") from None

        return _single(await self._accept(decide, None), "operationId")

    async def _accept(self, decide: Decision, use: idempotency.Use | None) -> list[Outcome]:
        async def work(tx: Transaction) -> list[Outcome]:
            if use is not None and (answered := await use.begin(tx)) is not None:
                return answered
            outcomes = await decide(tx)
            if all(outcome.refusal is not None for outcome in outcomes):
                raise _NothingAccepted(outcomes)
            if use is not None:
                await use.end(tx, outcomes)
            return outcomes

        try:
            outcomes = await self._database.write(work)
        except _NothingAccepted as nothing:
            return nothing.outcomes
        self._wake()
        return outcomes


def _single(outcomes: Sequence[Outcome], argument: str) -> Outcome:
    outcome = outcomes[0]
    if outcome.refusal is not None:
        raise outcome.refusal.at(argument)
    return outcome
