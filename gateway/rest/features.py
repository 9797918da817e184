"""ManageIQ's product features, by which its roles grant what rights grant here."""

from collections.abc import Mapping
from typing import Any

from gateway.access.caller import Caller, Right
from gateway.models import MachineKind, SnapshotAction

# The features that ManageIQ's API requires for what a right allows. It has none for an update of a name.
FEATURES: Mapping[Right, tuple[str, ...]] = {
    (SnapshotAction.READ, MachineKind.VM): ("vm_show_list", "vm_show", "vm_snapshot_view", "sui_vm_snapshots_view"),
    (SnapshotAction.CREATE, MachineKind.VM): ("vm_snapshot_add", "sui_vm_snapshot_create"),
    (SnapshotAction.REVERT, MachineKind.VM): ("vm_snapshot_revert",),
    (SnapshotAction.DELETE, MachineKind.VM): ("vm_snapshot_delete", "sui_vm_snapshot_delete"),
    (SnapshotAction.UPDATE, MachineKind.VM): (),
    (SnapshotAction.READ, MachineKind.INSTANCE): ("instance_show_list", "instance_show", "cloud_volume_snapshot_view"),
    (SnapshotAction.CREATE, MachineKind.INSTANCE): ("cloud_volume_snapshot_create",),
    (SnapshotAction.DELETE, MachineKind.INSTANCE): ("cloud_volume_snapshot_delete",),
    (SnapshotAction.UPDATE, MachineKind.INSTANCE): (),
}
ALWAYS = ("miq_task_all_ui",)  # every caller reads the tasks on the machines that it can read
WITH_WRITES = ("miq_task_delete",)  # a task is deleted with the right that started it


def features_of(caller: Caller) -> list[str]:
    """The features that the caller's rights amount to, in the order of `FEATURES`."""
    found = [feature for right, features in FEATURES.items() if right in caller.rights for feature in features]
    writes = any(action is not SnapshotAction.READ for action, _ in caller.rights)
    return [*found, *ALWAYS, *(WITH_WRITES if writes else ())]


def product_features(caller: Caller) -> dict[str, Any]:
    """The caller's features as `GET /api?attributes=authorization` shows them: a name and a description by feature."""
    return {feature: _described(feature) for feature in features_of(caller)}


def _described(feature: str) -> dict[str, str]:
    words = feature.removeprefix("sui_").replace("_", " ")
    return {"name": words.title(), "description": f"ManageIQ's product feature {feature}"}
