"""The required rights of every GraphQL field and every route. `test_authorization` verifies them with requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.models import MachineKind, OperationKind, SnapshotAction

VM, INSTANCE = MachineKind.VM, MachineKind.INSTANCE
CREATE, REVERT, DELETE = SnapshotAction.CREATE, SnapshotAction.REVERT, SnapshotAction.DELETE
UPDATE = SnapshotAction.UPDATE

BOTH, VMS, INSTANCES = (VM, INSTANCE), (VM,), (INSTANCE,)


@dataclass(frozen=True)
class Rule:
    """What a field or route requires of the caller, for each of the machine `kinds` that it can be used with.

    If it concerns a machine, it requires READ, because other machines are reported as not found, and a right for one of
    `actions`, if there are any.
    """

    kinds: Sequence[MachineKind] = BOTH
    actions: Sequence[SnapshotAction] = ()
    bound: bool = True  # concerns a machine; otherwise it requires only authentication
    public: bool = False  # requires no authentication
    forbidden_first: bool = False  # a missing right is reported before the machine is looked up
    administers: bool = False  # requires the right `administration`


AUTHENTICATED = Rule(bound=False)
PUBLIC = Rule(bound=False, public=True)
AUDITED = Rule(administers=True)  # rows that an audit entry references also require their own rights

GRAPHQL: Mapping[str, Rule] = {
    "Query.viewer": AUTHENTICATED,
    "Query.providers": Rule(),
    "Query.node": Rule(),
    "Query.nodes": Rule(),
    "Query.vm": Rule(VMS),
    "Query.vms": Rule(VMS),
    "Query.instance": Rule(INSTANCES),
    "Query.instances": Rule(INSTANCES),
    "Query.machine": Rule(),
    "Query.machines": Rule(),
    "Query.snapshot": Rule(),
    "Query.snapshots": Rule(),
    "Query.operation": Rule(),
    "Query.operations": Rule(),
    "Query.auditEntries": Rule(bound=False, administers=True),
    "Vm.capabilities": Rule(VMS),
    "Vm.capability": Rule(VMS),
    "Vm.snapshots": Rule(VMS),
    "Vm.currentSnapshot": Rule(VMS),
    "Vm.operations": Rule(VMS),
    "Instance.capabilities": Rule(INSTANCES),
    "Instance.capability": Rule(INSTANCES),
    "Instance.snapshots": Rule(INSTANCES),
    "Instance.currentSnapshot": Rule(INSTANCES),
    "Instance.operations": Rule(INSTANCES),
    "Snapshot.machine": Rule(),
    "Snapshot.capabilities": Rule(),
    "Snapshot.capability": Rule(),
    "Snapshot.parent": Rule(),
    "Snapshot.children": Rule(),
    "Operation.error": Rule(),
    "Operation.machine": Rule(),
    "Operation.snapshot": Rule(),
    "AuditEntry.machine": AUDITED,
    "AuditEntry.snapshot": AUDITED,
    "AuditEntry.operation": AUDITED,
    "Mutation.createSnapshot": Rule(actions=[CREATE]),
    "Mutation.createSnapshots": Rule(actions=[CREATE]),
    "Mutation.revertVmSnapshot": Rule(VMS, [REVERT]),
    "Mutation.deleteSnapshots": Rule(actions=[DELETE]),
    "Mutation.updateSnapshot": Rule(actions=[UPDATE]),
    "Mutation.refreshMachine": Rule(actions=[CREATE, REVERT, DELETE, UPDATE]),
    "Mutation.refreshProvider": Rule(actions=[CREATE, REVERT, DELETE, UPDATE]),
    f"Mutation.cancelOperation {OperationKind.CREATE_SNAPSHOT}": Rule(actions=[CREATE]),
    f"Mutation.cancelOperation {OperationKind.REVERT_VM_SNAPSHOT}": Rule(VMS, [REVERT]),
    f"Mutation.cancelOperation {OperationKind.DELETE_SNAPSHOT}": Rule(actions=[DELETE]),
    f"Mutation.cancelOperation {OperationKind.REFRESH_MACHINE}": Rule(actions=[CREATE, REVERT, DELETE, UPDATE]),
    f"Mutation.cancelOperation {OperationKind.UPDATE_SNAPSHOT}": Rule(actions=[UPDATE]),
    "Subscription.operationUpdated": Rule(),
    "Subscription.operationsUpdated": Rule(),
    "Subscription.operationChanged": Rule(),
    "Subscription.snapshotChanged": Rule(),
    "Subscription.machineChanged": Rule(),
}

# MACHINES is `vms` or `instances`.
REST: Mapping[str, Rule] = {
    "GET /api": AUTHENTICATED,
    "OPTIONS /api": AUTHENTICATED,
    "GET /api/ping": PUBLIC,
    "GET /api/product_info": PUBLIC,
    "GET /api/auth": AUTHENTICATED,
    "POST /api/auth": AUTHENTICATED,
    "DELETE /api/auth": AUTHENTICATED,
    "GET /api/MACHINES": Rule(forbidden_first=True),
    "POST /api/MACHINES query": Rule(forbidden_first=True),
    "GET /api/MACHINES/ID": Rule(forbidden_first=True),
    "GET /api/MACHINES/ID/snapshots": Rule(forbidden_first=True),
    "GET /api/MACHINES/ID/snapshots/ID": Rule(forbidden_first=True),
    "POST /api/MACHINES/ID/snapshots create": Rule(actions=[CREATE], forbidden_first=True),
    "POST /api/MACHINES/ID/snapshots delete": Rule(actions=[DELETE], forbidden_first=True),
    "POST /api/MACHINES/ID/snapshots/ID delete": Rule(actions=[DELETE], forbidden_first=True),
    "DELETE /api/MACHINES/ID/snapshots/ID": Rule(actions=[DELETE], forbidden_first=True),
    "POST /api/MACHINES/ID/snapshots/ID revert": Rule(VMS, [REVERT], forbidden_first=True),
    "GET /api/tasks": Rule(),
    "POST /api/tasks query": Rule(),
    "POST /api/tasks delete": Rule(actions=[CREATE]),  # the right that the task's operation requires
    "GET /api/tasks/ID": Rule(),
    "POST /api/tasks/ID delete": Rule(actions=[CREATE]),
    "DELETE /api/tasks/ID": Rule(actions=[CREATE]),
    "OPTIONS /api/MACHINES": AUTHENTICATED,
    "OPTIONS /api/MACHINES/ID": AUTHENTICATED,
    "OPTIONS /api/MACHINES/ID/snapshots": Rule(),
    "OPTIONS /api/tasks": AUTHENTICATED,
    "OPTIONS /api/tasks/ID": AUTHENTICATED,
}

PAGES: Mapping[str, Rule] = {
    "GET /": PUBLIC,
    "GET /graphiql": PUBLIC,
    "GET /graphiql/assets": PUBLIC,
    "GET /schema.graphql": PUBLIC,
    "GET /healthz": PUBLIC,
    "GET /readyz": PUBLIC,
}

TABLE: Mapping[str, Rule] = {**GRAPHQL, **REST, **PAGES}
