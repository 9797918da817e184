"""API tokens, given out and revoked on record."""

from collections.abc import Sequence
from datetime import timedelta

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin, account
from gateway.access.roles import Roles
from gateway.access.tokens import Record, create_token, revoke_token
from gateway.models import AuditAction, Surface
from gateway.operations.audit_log import AuditContext, AuditSubject, record_done
from gateway.store.database import Database, Transaction


async def give_token(
    database: Database, roles: Roles, name: str, role_names: Sequence[str], tenant: str, lifetime: timedelta | None
) -> str:
    """As `create_token`, for whoever runs this process."""
    record = _by_command(AuditAction.CREATE_TOKEN, name)
    return await create_token(database, roles, name, role_names, tenant, lifetime, record)


async def take_token(database: Database, name: str) -> None:
    """As `revoke_token`, for whoever runs this process."""
    await revoke_token(database, name, _by_command(AuditAction.REVOKE_TOKEN, name))


def _by_command(action: AuditAction, name: str) -> Record:
    async def record(tx: Transaction, tenant: str) -> None:
        operator = Caller(account(), tenant, roles=(), rights=frozenset())
        await record_done(
            tx, AuditContext(operator, RequestOrigin(Surface.COMMAND_LINE), action), AuditSubject(subject=name), tenant
        )

    return record
