"""Responses to OPTIONS: the attributes of a class and, for a machine's snapshots, the form that creates one."""

from typing import Any

from gateway.models import SnapshotAction
from gateway.rest.classes import ResourceClass

_MEMORY_HINT = "Snapshotting the memory is only available if the VM is powered on."


def class_options(class_: ResourceClass, data: Any = None) -> dict[str, Any]:
    """For a collection or a resource. For a subcollection, pass the class of its parent, as ManageIQ does."""
    known = {name: attribute for name, attribute in class_.attributes.items() if not attribute.unknown}
    return {
        "attributes": sorted(name for name, attribute in known.items() if not attribute.virtual),
        "virtual_attributes": sorted(name for name, attribute in known.items() if attribute.virtual),
        "relationships": sorted(class_.associations),
        "subcollections": list(class_.subcollections),
        "data": data or {},
    }


def snapshot_options(parent: ResourceClass, machine: Any) -> dict[str, Any]:
    """With a form for user interfaces. A create that the form disables is refused with the same reason."""
    reasons: dict[SnapshotAction, str] = machine["refusals"]
    reason = reasons.get(SnapshotAction.CREATE_WITH_MEMORY)
    fields = [
        {
            "component": "text-field",
            "name": "name",
            "id": "name",
            "label": "Name",
            "isRequired": True,
            "validate": [{"type": "required"}],
        },
        {"component": "textarea", "name": "description", "id": "description", "label": "Description"},
        {
            "component": "switch",
            "name": "memory",
            "id": "memory",
            "label": "Snapshot VM memory",
            "onText": "Yes",
            "offText": "No",
            "isDisabled": reason is not None,
            "helperText": reason or _MEMORY_HINT,
        },
    ]
    return class_options(parent, {"snapshot_form_schema": {"fields": fields}})
