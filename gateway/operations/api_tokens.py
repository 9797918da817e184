"""Creates and revokes API tokens, with audit entries. Used by the command line."""

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin, os_user
from gateway.access.roles import Roles
from gateway.access.tokens import NewToken, RecordChange, create_token, revoke_token
from gateway.models import AuditAction, Surface
from gateway.operations.audit_log import AuditContext, AuditSubject, record_done
from gateway.store.database import Database, Transaction


async def create_audited_token(database: Database, roles: Roles, new: NewToken) -> str:
    """Like `create_token`. The audit entry names the operating system user of this process."""
    return await create_token(database, roles, new, _audit_record(AuditAction.CREATE_TOKEN, new.name))


async def revoke_audited_token(database: Database, name: str) -> None:
    """Like `revoke_token`. The audit entry names the operating system user of this process."""
    await revoke_token(database, name, _audit_record(AuditAction.REVOKE_TOKEN, name))


def _audit_record(action: AuditAction, name: str) -> RecordChange:
    async def record(tx: Transaction, tenant: str) -> None:
        operator = Caller(os_user(), tenant, roles=(), rights=frozenset())
        await record_done(
            tx, AuditContext(operator, RequestOrigin(Surface.COMMAND_LINE), action), AuditSubject(subject=name), tenant
        )

    return record
