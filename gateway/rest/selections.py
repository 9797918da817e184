"""Selections for the compiler: the fields of a response's rows, and the lists that contain them."""

from gateway.reads.selection import Field, Selection, leaf
from gateway.rest.catalog import ROOT
from gateway.rest.classes import SNAPSHOTS, ResourceClass
from gateway.rest.query import ACTIONS, HREF, RowShape

RESOURCES = "resources"

_EMBEDDED = RowShape(
    expanded=True, attributes=tuple(name for name, attribute in SNAPSHOTS.attributes.items() if attribute.is_shown)
)


def row(class_: ResourceClass, shape: RowShape) -> list[Field]:
    """The fields of one row."""
    if not shape.expanded:
        return [leaf(HREF)]
    fields = [leaf(HREF), *(leaf(name) for name in shape.attributes)]
    for name, attributes in shape.associations:
        types = class_.associations[name].types
        inner = [leaf(attribute) for attribute in attributes]
        fields.append(Field(name, name, dict.fromkeys(types, inner)))
    fields += [_list(name, name, SNAPSHOTS, _EMBEDDED, counted=False) for name in shape.subcollections]
    if shape.actions:
        fields.append(leaf(ACTIONS))
    return fields


def _list(key: str, name: str, class_: ResourceClass, shape: RowShape | None, *, counted: bool = True) -> Field:
    """A list. Without a shape only its count."""
    inner: list[Field] = [leaf("totalCount")] if counted else []
    if shape is not None:
        inner.append(Field("nodes", "nodes", {class_.type_name: row(class_, shape)}))
    return Field(key, name, {f"{class_.type_name}Connection": inner})


def collection(class_: ResourceClass, shape: RowShape | None, *, counted: bool = True) -> Field:
    """A field of the root: a list."""
    return _list(RESOURCES, class_.collection, class_, shape, counted=counted)


def resource(class_: ResourceClass, shape: RowShape) -> Field:
    """A field of the root: one row, whose id is the variable `id`."""
    return _lookup(class_, {class_.type_name: row(class_, shape)})


def subcollection(parent: ResourceClass, shape: RowShape | None, *, counted: bool) -> Field:
    """A field of the root: one machine, with a list of its snapshots."""
    return _of_machine(parent, [_list(RESOURCES, "snapshots", SNAPSHOTS, shape, counted=counted)])


def machine(parent: ResourceClass) -> Field:
    """A field of the root: one machine, without a list."""
    return _of_machine(parent, [])


def _of_machine(parent: ResourceClass, fields: list[Field]) -> Field:
    facts = [leaf(name) for name in ("id", "name", "snapshot_count", "refusals")]
    return _lookup(parent, {parent.type_name: [*facts, *fields]})


def _lookup(class_: ResourceClass, selection: Selection) -> Field:
    return Field(ROOT, class_.type_name, selection, lambda variables: variables)
