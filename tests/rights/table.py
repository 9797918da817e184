"""Who may do what: the one place that says so. `test_who_may` walks the schema and the routes and holds them to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.models import MachineKind, OperationKind, SnapshotAction

VM, INSTANCE = MachineKind.VM, MachineKind.INSTANCE
CREATE, REVERT, DELETE = SnapshotAction.CREATE, SnapshotAction.REVERT, SnapshotAction.DELETE

BOTH, VMS, INSTANCES = (VM, INSTANCE), (VM,), (INSTANCE,)


@dataclass(frozen=True)
class Rule:
    """What one thing that can be asked takes, of each of the `kinds` that it can be about.

    About a machine it takes READ always, for what may not be read is not there; and one of `acts`, if there are any.
    """

    kinds: Sequence[MachineKind] = BOTH
    acts: Sequence[SnapshotAction] = ()
    bound: bool = True  # about a machine; otherwise it is enough to be known
    opened: bool = False  # to everybody, also to whom nobody knows
    early: bool = False  # a right that is lacking is told before it is looked whether there is such a machine


KNOWN = Rule(bound=False)
OPEN = Rule(bound=False, opened=True)

GRAPHQL: Mapping[str, Rule] = {
    "Query.viewer": KNOWN,
    "Query.providers": Rule(),
    "Query.node": Rule(),
    "Query.nodes": Rule(),
    "Query.vm": Rule(VMS),
    "Query.vms": Rule(VMS),
    "Query.instance": Rule(INSTANCES),
    "Query.instances": Rule(INSTANCES),
    "Query.machines": Rule(),
    "Query.snapshot": Rule(),
    "Query.snapshots": Rule(),
    "Query.operation": Rule(),
    "Query.operations": Rule(),
    "Vm.capabilities": Rule(VMS),
    "Vm.snapshots": Rule(VMS),
    "Vm.currentSnapshot": Rule(VMS),
    "Vm.operations": Rule(VMS),
    "Instance.capabilities": Rule(INSTANCES),
    "Instance.snapshots": Rule(INSTANCES),
    "Instance.currentSnapshot": Rule(INSTANCES),
    "Instance.operations": Rule(INSTANCES),
    "Snapshot.machine": Rule(),
    "Snapshot.capabilities": Rule(),
    "Snapshot.parent": Rule(),
    "Snapshot.children": Rule(),
    "Operation.error": Rule(),
    "Operation.machine": Rule(),
    "Operation.snapshot": Rule(),
    "Mutation.createSnapshot": Rule(acts=[CREATE]),
    "Mutation.createSnapshots": Rule(acts=[CREATE]),
    "Mutation.revertVmSnapshot": Rule(VMS, [REVERT]),
    "Mutation.deleteSnapshots": Rule(acts=[DELETE]),
    "Mutation.refreshMachine": Rule(acts=[CREATE, REVERT, DELETE]),
    f"Mutation.cancelOperation {OperationKind.CREATE_SNAPSHOT}": Rule(acts=[CREATE]),
    f"Mutation.cancelOperation {OperationKind.REVERT_VM_SNAPSHOT}": Rule(VMS, [REVERT]),
    f"Mutation.cancelOperation {OperationKind.DELETE_SNAPSHOT}": Rule(acts=[DELETE]),
    f"Mutation.cancelOperation {OperationKind.REFRESH_MACHINE}": Rule(acts=[CREATE, REVERT, DELETE]),
    "Subscription.operationUpdated": Rule(),
    "Subscription.operationChanged": Rule(),
    "Subscription.snapshotChanged": Rule(),
}

# MACHINES are `vms` or `instances`.
REST: Mapping[str, Rule] = {
    "GET /api": KNOWN,
    "GET /api/auth": KNOWN,
    "POST /api/auth": KNOWN,
    "DELETE /api/auth": KNOWN,
    "GET /api/MACHINES": Rule(early=True),
    "GET /api/MACHINES/ID": Rule(early=True),
    "GET /api/MACHINES/ID/snapshots": Rule(early=True),
    "GET /api/MACHINES/ID/snapshots/ID": Rule(early=True),
    "POST /api/MACHINES/ID/snapshots create": Rule(acts=[CREATE], early=True),
    "POST /api/MACHINES/ID/snapshots delete": Rule(acts=[DELETE], early=True),
    "POST /api/MACHINES/ID/snapshots/ID delete": Rule(acts=[DELETE], early=True),
    "DELETE /api/MACHINES/ID/snapshots/ID": Rule(acts=[DELETE], early=True),
    "POST /api/MACHINES/ID/snapshots/ID revert": Rule(VMS, [REVERT], early=True),
    "GET /api/tasks": Rule(),
    "GET /api/tasks/ID": Rule(),
    "OPTIONS /api/MACHINES": KNOWN,
    "OPTIONS /api/MACHINES/ID": KNOWN,
    "OPTIONS /api/MACHINES/ID/snapshots": Rule(),
    "OPTIONS /api/tasks": KNOWN,
    "OPTIONS /api/tasks/ID": KNOWN,
}

PAGES: Mapping[str, Rule] = {
    "GET /": OPEN,
    "GET /graphiql": OPEN,
    "GET /graphiql/assets": OPEN,
    "GET /schema.graphql": OPEN,
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
}

TABLE: Mapping[str, Rule] = {**GRAPHQL, **REST, **PAGES}
