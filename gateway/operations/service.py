"""Accepts commands: decides and records in one transaction, then wakes the worker.

Used by GraphQL and REST and independent of both.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

from gateway.access.caller import Caller
from gateway.access.capabilities import CapabilityRules
from gateway.access.origin import RequestOrigin
from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.errors import Refusal, Throttled, Unavailable, Unconfirmed
from gateway.models import AuditAction, MachineKind, OperationKind
from gateway.operations import idempotency
from gateway.operations.admission import TotalLimit
from gateway.operations.audit_log import AuditContext, AuditSubject, record_accepted, record_done
from gateway.operations.audit_refusals import RefusalLog, Refused
from gateway.operations.commands.base import Command, CommandContext, Outcome
from gateway.store.database import Database, Transaction, Work

T = TypeVar("T")


class _AllRefused(Exception):
    """Rolls the transaction back when all items were refused, so that the request's key is not recorded either."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__()
        self.outcomes = outcomes


class Operations:
    """Executes commands, and records those that it refuses.

    `refuse_kind` returns why operations of a kind are not accepted at present. After a request was accepted,
    `on_accepted` is called with its outcomes, then `wake`.
    """

    def __init__(
        self,
        database: Database,
        drivers: Mapping[str, Driver],
        settings: Settings,
        *,
        wake: Callable[[], None],
        refusals: RefusalLog,
        refuse_kind: Callable[[OperationKind], Refusal | None] = lambda _kind: None,
        on_accepted: Callable[[Sequence[Outcome]], None] = lambda _outcomes: None,
    ) -> None:
        self._database = database
        self._drivers = drivers
        self._max_unfinished = settings.operation_queue_per_machine
        self._limit = TotalLimit(settings)
        self._wake = wake
        self._refuse_kind = refuse_kind
        self._on_accepted = on_accepted
        self.refusals = refusals  # public, because surfaces record the requests that they refuse themselves

    @cached_property
    def rules(self) -> CapabilityRules:
        """What capabilities depend on in this process: the drivers of its providers, and its limits."""
        matrices = {(name, kind): driver.matrix(kind) for name, driver in self._drivers.items() for kind in MachineKind}
        return CapabilityRules(matrices, self._max_unfinished, self._refuse_kind)

    async def execute(
        self, command: Command, caller: Caller, origin: RequestOrigin, key: str | None = None
    ) -> list[Outcome]:
        """Decides on the command, and records it or its refusals. `key` is the idempotency key of the request.

        Returns one outcome per target, in order, then those of targets that the command has added. Raises the refusal
        of a command with a single target, or of the request as a whole.
        """
        action = AuditAction.READ if command.is_dry_run else command.action
        context = AuditContext(caller, origin, action)
        async with self.refusals.recording(context, command.subject):
            command = command.checked()
            use = None
            if not command.is_dry_run:
                use = idempotency.use(caller, command.mutation, key, command.fingerprint())
            return await self._accept(context, command, use)

    async def _accept(self, context: AuditContext, command: Command, use: idempotency.Use | None) -> list[Outcome]:
        """Has the command decide, and records the result.

        A replay of an idempotency key returns the recorded outcomes, changes nothing and is not audited.
        """
        assert context.caller is not None
        key = None if use is None else use.key
        command_context = CommandContext(context.caller, self.rules, self._limit, key)

        async def work(tx: Transaction) -> tuple[list[Outcome], list[Outcome]]:
            if use is not None and (recorded := await use.begin(tx)) is not None:
                return recorded, []
            outcomes = await command.decide(tx, command_context)
            if all(outcome.refusal is not None for outcome in outcomes):
                raise _AllRefused(outcomes)
            ids = dict.fromkeys(outcome.operation_id for outcome in outcomes)
            await record_accepted(tx, context, [id_ for id_ in ids if id_ is not None])
            for name in {outcome.provider for outcome in outcomes if outcome.provider is not None}:
                await record_done(tx, context, AuditSubject(subject=name), command_context.caller.tenant)
            if use is not None:
                await use.end(tx, outcomes)
            return outcomes, outcomes

        try:
            outcomes, decided = await (self._database.write(work) if use is None else self._write_repeatable(work))
        except _AllRefused as all_refused:
            outcomes = decided = all_refused.outcomes
        else:
            self._on_accepted(outcomes)
            self._wake()
            for outcome in decided:
                if outcome.ended is not None:
                    outcome.ended.log()
        await self.refusals.record(context, _refused(command.subjects, decided))
        return outcomes

    async def _write_repeatable(self, work: Work[T]) -> T:
        """Runs `work`. Repeats it once if the outcome is unknown, because its idempotency key shows what was committed.

        Raises Unconfirmed if the repetition is not served: its own error would say that nothing was changed.
        """
        try:
            return await self._database.write(work)
        except Unconfirmed as unconfirmed:
            try:
                return await self._database.write(work)
            except (Unavailable, Throttled) as error:
                raise unconfirmed from error


def _refused(subjects: Sequence[AuditSubject], outcomes: Sequence[Outcome]) -> list[Refused]:
    """The refusals among the outcomes. The outcomes begin with those of the targets, in the order of `subjects`."""
    return [
        Refused(
            subjects[index] if index < len(subjects) else AuditSubject(snapshot_id=outcome.snapshot_id), outcome.refusal
        )
        for index, outcome in enumerate(outcomes)
        if outcome.refusal is not None
    ]
