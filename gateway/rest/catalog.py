"""What the compiler may be asked for: every attribute, association and list of the REST API, as `reads.sources`."""

from gateway.reads.sources import Catalog, Column, Lookup, Many, Source, SourcedField
from gateway.rest import machines
from gateway.rest.classes import COLLECTIONS, INSTANCES, SNAPSHOTS, TASKS, VMS, Class

ROOT = "Api"  # the type whose fields are the lists, and, by their class, single rows


def _origin(source: Source) -> SourcedField:
    return SourcedField(source, "String")


def _fields(class_: Class) -> dict[str, SourcedField]:
    found = {name: attribute.origin for name, attribute in class_.attributes.items()}
    found |= {name: _origin(association.source) for name, association in class_.associations.items()}
    return found | {"href": _origin(class_.href), "actions": _origin(class_.actions)}


def _machine(class_: Class) -> dict[str, SourcedField]:
    own: dict[str, Source] = {"snapshot_count": Column("snapshot_count"), **machines.REFUSALS}
    snapshots = SourcedField(Many("snapshot", match="machine_id", counter="snapshot_count"), "SnapshotConnection")
    return {**_fields(class_), **{name: _origin(source) for name, source in own.items()}, "snapshots": snapshots}


CATALOG: Catalog = {
    ROOT: {
        **{
            name: SourcedField(Many(class_.noun), f"{class_.type_name}Connection")
            for name, class_ in COLLECTIONS.items()
        },
        **{class_.type_name: _origin(Lookup(class_.noun)) for class_ in COLLECTIONS.values()},
    },
    VMS.type_name: _machine(VMS),
    INSTANCES.type_name: _machine(INSTANCES),
    SNAPSHOTS.type_name: _fields(SNAPSHOTS),
    TASKS.type_name: _fields(TASKS),
    **{type_name: {"name": attribute.origin} for type_name, attribute in machines.NAMED.items()},
}
