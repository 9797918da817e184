"""The mutation `refreshProvider`. The refresh of a provider is a cluster job, whose next run it brings forward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite understands the same ON CONFLICT
from sqlmodel import col

from gateway.access.caller import Caller
from gateway.access.capabilities import right_refusal
from gateway.columns import UNSTORABLE
from gateway.errors import InvalidInput, NotFound, Refusal, Unsupported
from gateway.models import AuditAction, JobLease, Machine, MachineKind, Provider
from gateway.operations.audit_log import AuditSubject
from gateway.operations.commands.base import Command, CommandContext, Outcome
from gateway.operations.commands.refresh_machine import RefreshMachineOperation
from gateway.store.clock import FromNow
from gateway.store.database import Transaction
from gateway.store.statements import Query, Statement

_AFTER_START = 0.001  # seconds: later than the start of a run that begins at the same moment


class _HostedKinds(NamedTuple):
    """Whether a provider has machines of each kind, in the order of `MachineKind`."""

    vm: bool
    instance: bool


_HOSTED_KINDS = Query(
    sa.select(
        *(
            sa.exists()
            .where(
                col(Machine.provider) == col(Provider.name),
                col(Machine.tenant) == col(Provider.tenant),
                col(Machine.kind) == kind,
            )
            .label(kind.lower())
            for kind in MachineKind
        )
    ).where(col(Provider.name) == bindparam("of"), col(Provider.tenant) == bindparam("tenant")),
    _HostedKinds,
)

# A run that is under way may have read the machines before they changed, so another one follows it
# (`gateway.jobs.leases`, END).
_BRING_FORWARD = Statement(
    upsert(JobLease)
    .values(name=bindparam("job"), next_run_at=FromNow("delay"), fence=0, failures=0)
    .on_conflict_do_update(index_elements=["name"], set_={"next_run_at": FromNow("delay")})
)


def refresh_job(provider: str) -> str:
    """The name of the cluster job that refreshes a provider."""
    return f"refresh:{provider}"


@dataclass(frozen=True, kw_only=True)
class RefreshProvider(Command):
    """Requests a refresh of a provider as a whole.

    There is one at a time for all processes. Requests that arrive before it begins are one request.
    """

    mutation = "refreshProvider"
    action = AuditAction.REFRESH_PROVIDER

    name: str

    @property
    def subject(self) -> AuditSubject:
        return AuditSubject(subject=self.name)

    async def decide(self, tx: Transaction, context: CommandContext) -> list[Outcome]:
        refusal = await self._refusal(tx, context)
        if refusal is not None:
            raise refusal.at("name")
        await tx.run(_BRING_FORWARD, job=refresh_job(self.name), delay=_AFTER_START)
        return [Outcome(provider=self.name)]

    async def _refusal(self, tx: Transaction, context: CommandContext) -> Refusal | None:
        if UNSTORABLE.search(self.name):
            return InvalidInput("The name of a provider contains neither a NUL character nor half of a character.")
        caller = context.caller
        kinds = await self._kinds(tx, caller)
        if kinds is None:
            return NotFound(f"Provider {self.name!r} was not found.")
        activity = f"Refreshing provider {self.name!r}"
        refusals = [right_refusal(RefreshMachineOperation.actions, kind, caller, activity) for kind in kinds]
        if None not in refusals:
            return refusals[0]
        if not any((self.name, kind) in context.rules.matrices for kind in MachineKind):
            return Unsupported(f"No driver is configured for provider {self.name!r}, so it cannot be refreshed.")
        return None

    async def _kinds(self, tx: Transaction, caller: Caller) -> Sequence[MachineKind] | None:
        """The kinds of the provider's machines, of those that the caller may read; all kinds if it has no machines.

        None if the caller may not see the provider, as in reads (`gateway.reads.entities.PROVIDER`).
        """
        hosted = await tx.first(_HOSTED_KINDS, of=self.name, tenant=caller.tenant)
        if hosted is None:
            return None
        kinds = [kind for kind, hosts in zip(MachineKind, hosted, strict=True) if hosts]
        if not any(hosted) and len(caller.readable_kinds) == len(MachineKind):
            return tuple(MachineKind)
        return [kind for kind in kinds if kind in caller.readable_kinds] or None
