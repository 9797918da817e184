"""The collections of the API, each with its class: what it is called, what its rows are, what can be asked of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.models import MachineKind
from gateway.reads.sources import Computed, One
from gateway.rest import machines, snapshots, tasks
from gateway.rest.attributes import Association, Attributes, of_machine, some


@dataclass(frozen=True, slots=True, eq=False)
class Class:
    """One class of rows. `name` is what messages call it."""

    collection: str
    name: str
    type_name: str  # of the compiler's catalog
    noun: str
    description: str
    attributes: Attributes
    href: Computed
    actions: Computed
    kind: MachineKind | None = None
    associations: Mapping[str, Association] = field(default_factory=dict)
    subcollections: tuple[str, ...] = ()


SNAPSHOTS = Class(
    collection="snapshots",
    name="Snapshot",
    type_name="Snapshot",
    noun="snapshot",
    description="Snapshots",
    attributes=snapshots.SNAPSHOT,
    href=Computed(snapshots.HREF_COLUMNS, snapshots.href),
    actions=Computed(snapshots.ACTION_COLUMNS, snapshots.actions),
    associations={
        "vm_or_template": Association(
            "VmOrTemplate",
            "machine",
            lambda: machines.MACHINE,
            One("machine", "machine_id"),
            ("Vm", "Instance"),
            of_machine,
        ),
        "parent": Association(
            "Snapshot",
            "snapshot",
            lambda: snapshots.SNAPSHOT,
            One("snapshot", "parent_id"),
            ("Snapshot",),
            some("snapshot", "{s}.id = {t}.parent_id"),
        ),
    },
)

_MACHINE_HREF = Computed(("id", "kind"), machines.href)
_NO_ACTIONS = Computed((), machines.actions)

VMS = Class(
    collection="vms",
    name="Vm",
    type_name="Vm",
    noun="machine",
    kind=MachineKind.VM,
    description="Virtual Machines",
    attributes=machines.MACHINE,
    href=_MACHINE_HREF,
    actions=_NO_ACTIONS,
    associations=machines.VM_ASSOCIATIONS,
    subcollections=("snapshots",),
)

INSTANCES = Class(
    collection="instances",
    name="ManageIQ::Providers::CloudManager::Vm",
    type_name="Instance",
    noun="machine",
    kind=MachineKind.INSTANCE,
    description="Instances",
    attributes=machines.MACHINE,
    href=_MACHINE_HREF,
    actions=_NO_ACTIONS,
    associations=machines.INSTANCE_ASSOCIATIONS,
    subcollections=("snapshots",),
)

TASKS = Class(
    collection="tasks",
    name="MiqTask",
    type_name="Operation",
    noun="operation",
    description="Tasks",
    attributes=tasks.TASK,
    href=Computed(tasks.HREF_COLUMNS, tasks.href),
    actions=Computed((), tasks.actions),
)

COLLECTIONS: Mapping[str, Class] = {class_.collection: class_ for class_ in (INSTANCES, TASKS, VMS)}
