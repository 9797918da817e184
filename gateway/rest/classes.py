"""The classes of the REST API: the collections, with their rows, attributes, associations and names in messages."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.models import MachineKind
from gateway.reads.conditions import Condition
from gateway.reads.sources import Computed, ToOne
from gateway.rest import machines, snapshots, tasks
from gateway.rest.attributes import Association, Attributes, exists, of_machine


@dataclass(frozen=True, slots=True, eq=False)
class ResourceClass:
    """A class of rows. `name` is ManageIQ's class name, which messages show.

    `base_class`, if there is one, is another name of all rows. `subclasses` are conditions on the rows of a class below
    it, by name.
    """

    collection: str
    name: str
    type_name: str  # in the compiler's catalog
    noun: str
    description: str
    attributes: Attributes
    href: Computed
    actions: Computed
    kind: MachineKind | None = None
    base_class: str = ""
    subclasses: Mapping[str, Condition] = field(default_factory=dict)
    associations: Mapping[str, Association] = field(default_factory=dict)
    subcollections: tuple[str, ...] = ()


SNAPSHOTS = ResourceClass(
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
            class_name="VmOrTemplate",
            noun="machine",
            attributes=lambda: machines.MACHINE,
            source=ToOne("machine", "machine_id"),
            types=("Vm", "Instance"),
            scope=of_machine,
        ),
        "parent": Association(
            class_name="Snapshot",
            noun="snapshot",
            attributes=lambda: snapshots.SNAPSHOT,
            source=ToOne("snapshot", "parent_id"),
            types=("Snapshot",),
            scope=exists("snapshot", "{s}.id = {t}.parent_id"),
        ),
    },
)

_MACHINE_HREF = Computed(("id", "kind"), machines.href)
_NO_ACTIONS = Computed((), machines.actions)

VMS = ResourceClass(
    collection="vms",
    name="Vm",
    type_name="Vm",
    noun="machine",
    kind=MachineKind.VM,
    description="Virtual Machines",
    base_class=machines.BASE_CLASSES[MachineKind.VM],
    subclasses=machines.subclasses(MachineKind.VM),
    attributes=machines.VM,
    href=_MACHINE_HREF,
    actions=_NO_ACTIONS,
    associations=machines.VM_ASSOCIATIONS,
    subcollections=("snapshots",),
)

INSTANCES = ResourceClass(
    collection="instances",
    name=machines.BASE_CLASSES[MachineKind.INSTANCE],
    type_name="Instance",
    noun="machine",
    kind=MachineKind.INSTANCE,
    description="Instances",
    base_class=machines.BASE_CLASSES[MachineKind.INSTANCE],
    subclasses=machines.subclasses(MachineKind.INSTANCE),
    attributes=machines.INSTANCE,
    href=_MACHINE_HREF,
    actions=_NO_ACTIONS,
    associations=machines.INSTANCE_ASSOCIATIONS,
    subcollections=("snapshots",),
)

TASKS = ResourceClass(
    collection="tasks",
    name="MiqTask",
    type_name="Operation",
    noun="operation",
    description="Tasks",
    attributes=tasks.TASK,
    href=Computed(tasks.HREF_COLUMNS, tasks.href),
    actions=Computed(tasks.ACTION_COLUMNS, tasks.actions),
)

COLLECTIONS: Mapping[str, ResourceClass] = {class_.collection: class_ for class_ in (INSTANCES, TASKS, VMS)}
