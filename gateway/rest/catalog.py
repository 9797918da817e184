"""The compiler's catalog of the REST API: every attribute, association and list, with its source."""

from gateway.reads.sources import Catalog, Column, RowById, Source, SourcedField, ToMany
from gateway.rest import machines
from gateway.rest.classes import COLLECTIONS, INSTANCES, SNAPSHOTS, TASKS, VMS, ResourceClass

ROOT = "Api"  # the type whose fields are the lists and, named by their type, the single rows


def _sourced(source: Source) -> SourcedField:
    return SourcedField(source, "String")


def _fields(class_: ResourceClass) -> dict[str, SourcedField]:
    found = {name: attribute.sourced_field for name, attribute in class_.attributes.items()}
    found |= {name: _sourced(association.source) for name, association in class_.associations.items()}
    return found | {"href": _sourced(class_.href), "actions": _sourced(class_.actions)}


def _machine(class_: ResourceClass) -> dict[str, SourcedField]:
    own: dict[str, Source] = {"snapshot_count": Column("snapshot_count"), **machines.REFUSALS}
    snapshots = SourcedField(ToMany("snapshot", match="machine_id", counter="snapshot_count"), "SnapshotConnection")
    return {**_fields(class_), **{name: _sourced(source) for name, source in own.items()}, "snapshots": snapshots}


CATALOG: Catalog = {
    ROOT: {
        **{
            name: SourcedField(ToMany(class_.noun), f"{class_.type_name}Connection")
            for name, class_ in COLLECTIONS.items()
        },
        **{class_.type_name: _sourced(RowById(class_.noun)) for class_ in COLLECTIONS.values()},
    },
    VMS.type_name: _machine(VMS),
    INSTANCES.type_name: _machine(INSTANCES),
    SNAPSHOTS.type_name: _fields(SNAPSHOTS),
    TASKS.type_name: _fields(TASKS),
    **{type_name: {"name": attribute.sourced_field} for type_name, attribute in machines.NAMED_OBJECTS.items()},
}
