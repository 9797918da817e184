"""Writes of the REST API: `operations` accepts or refuses, and the response is ManageIQ's `action_result`.

A refusal is a result with `success: false` and a message. A missing row is a 404, except as an item of a bulk request,
where it is a failed result, so that the results of the other items are not lost.
"""

from collections.abc import Sequence
from typing import Any

from gateway.errors import Forbidden, GatewayError, InvalidInput, NotFound, Refusal
from gateway.models import AuditAction, MachineKind
from gateway.operations.audit_log import AuditContext
from gateway.operations.commands.base import MachineId, Outcome, Target, machine_subject
from gateway.operations.commands.create_snapshot import CreateSnapshot
from gateway.operations.commands.delete_snapshots import DeleteSnapshots
from gateway.operations.commands.revert_vm_snapshot import RevertVmSnapshot
from gateway.operations.operation_records import OperationRecords
from gateway.operations.service import Operations
from gateway.rest import bodies
from gateway.rest.bodies import Item
from gateway.rest.classes import SNAPSHOTS, TASKS, ResourceClass
from gateway.rest.errors import not_found
from gateway.rest.reader import Reader, Requester

Result = dict[str, Any]

_NOUNS = {MachineKind.VM: "Virtual Machine", MachineKind.INSTANCE: "Instance"}
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "": False}


class Writer:
    """Writes for every route."""

    def __init__(self, operations: Operations, records: OperationRecords, reader: Reader) -> None:
        self._operations = operations
        self._records = records
        self._reader = reader

    async def create(
        self, requester: Requester, parent: ResourceClass, number: int, resources: Sequence[Item], key: str | None
    ) -> list[Result]:
        """Creates snapshots. A result for each item, in order.

        Raises RestError, before any change, if an item has an id or href, or if there is no such machine.
        """
        bodies.check_new(resources)
        machine = await self._reader.machine(requester, parent, number)
        results = []
        for position, item in enumerate(resources):
            item_key = key if key is None or len(resources) == 1 else f"{key}#{position}"
            try:
                results.append(await self._create(requester, parent, machine, item, item_key))
            except NotFound:  # removed since it was read above
                raise not_found(parent.name, number) from None
            except Forbidden:
                raise
            except Refusal as refusal:
                results.append(refused_result(refusal))
            except GatewayError as error:
                if not results:
                    raise
                results.append(refused_result(error))  # the results of the other items must not be lost
        return results

    async def _create(
        self, requester: Requester, parent: ResourceClass, machine: Any, item: Item, key: str | None
    ) -> Result:
        target = MachineId(_kind(parent), int(machine["id"]))
        audit_context = AuditContext(requester.caller, requester.origin, AuditAction.CREATE_SNAPSHOT)
        async with self._operations.refusals.recording(audit_context, machine_subject(target)):
            name, description, memory = _parse_new_snapshot(item)
        command = CreateSnapshot(machine=target, name=name, description=description, memory=memory)
        (outcome,) = await self._operations.execute(command, requester.caller, requester.origin, key)
        message = f"Creating snapshot {name.strip()} for {_target_label(parent, machine)}"
        collection = requester.collection or parent.collection
        link = f"{requester.base}/{collection}/{machine['id']}/snapshots/{outcome.snapshot_id}"
        made = {"snapshot_id": str(outcome.snapshot_id), "snapshot_href": link}
        return accepted_result(requester, message, outcome) | made

    async def revert(
        self, requester: Requester, parent: ResourceClass, number: int, snapshot: int, key: str | None
    ) -> Result:
        """Reverts to a snapshot. Raises RestError if the machine has no such snapshot."""
        machine, name = await self._machine_and_name(requester, parent, number, snapshot)
        try:
            command = RevertVmSnapshot(snapshot=snapshot)
            (outcome,) = await self._operations.execute(command, requester.caller, requester.origin, key)
        except NotFound:
            raise not_found(SNAPSHOTS.name, snapshot) from None
        except Forbidden:
            raise
        except Refusal as refusal:
            return refused_result(refusal)
        return accepted_result(requester, f"Reverting to snapshot {name} for {_target_label(parent, machine)}", outcome)

    async def delete(
        self, requester: Requester, parent: ResourceClass, number: int, snapshot: int, key: str | None
    ) -> Result:
        """Deletes a snapshot. Raises RestError if the machine has no such snapshot."""
        machine, name = await self._machine_and_name(requester, parent, number, snapshot)
        (outcome,) = await self._delete(requester, [snapshot], key)
        if isinstance(outcome.refusal, NotFound):
            raise not_found(SNAPSHOTS.name, snapshot)
        return _delete_result(requester, parent, machine, name, outcome)

    async def delete_several(
        self, requester: Requester, parent: ResourceClass, number: int, resources: Sequence[Item], key: str | None
    ) -> list[Result]:
        """Deletes snapshots. A result for each item, in order. A refused item does not affect the others.

        Raises RestError, before any change, if an item names no snapshot or if there is no such machine.
        """
        named = [bodies.named_snapshot(item, parent.collection, number) for item in resources]
        numbers = [snapshot for snapshot in named if snapshot is not None]
        machine, names = await self._reader.names(requester, parent, number, numbers)
        targets: list[Target] = [
            snapshot if snapshot is not None and snapshot in names else _snapshot_not_found(item)
            for snapshot, item in zip(named, resources, strict=True)
        ]
        outcomes = await self._delete(requester, targets, key)
        return [
            refused_result(_snapshot_not_found(item))  # also if it was removed since `names` was read
            if isinstance(outcome.refusal, NotFound)
            else _delete_result(requester, parent, machine, names.get(outcome.snapshot_id or 0, ""), outcome)
            for item, outcome in zip(resources, outcomes, strict=True)
        ]

    async def delete_task(self, requester: Requester, number: int) -> Result:
        """Deletes the record of a task that has ended. Raises RestError if there is none, and Forbidden."""
        (outcome,) = await self._delete_tasks(requester, [number])
        if isinstance(outcome, NotFound):
            raise not_found(TASKS.name, number)
        if isinstance(outcome, Forbidden):
            raise outcome
        return refused_result(outcome) if isinstance(outcome, Refusal) else outcome

    async def delete_tasks(self, requester: Requester, numbers: Sequence[int]) -> list[Result]:
        """Deletes several. A result for each, in order. A refused one does not affect the others."""
        outcomes = await self._delete_tasks(requester, numbers)
        return [refused_result(each) if isinstance(each, Refusal) else each for each in outcomes]

    async def _delete_tasks(self, requester: Requester, numbers: Sequence[int]) -> list[Result | Refusal]:
        names = await self._reader.task_names(requester, numbers)
        outcomes = await self._records.delete(requester.caller, requester.origin, numbers)

        def outcome(number: int) -> Result | Refusal:
            refusal = outcomes[number]
            if isinstance(refusal, NotFound) or number not in names:
                return NotFound(f"Couldn't find {TASKS.name} with 'id'={number}")
            message = f"Deleting Task id: {number} name: '{names[number]}'"
            href = f"{requester.base}/{TASKS.collection}/{number}"
            return refusal or {"success": True, "message": message, "href": href}

        return [outcome(number) for number in numbers]

    async def _delete(self, requester: Requester, targets: Sequence[Target], key: str | None) -> list[Outcome]:
        command = DeleteSnapshots(snapshots=targets)
        return await self._operations.execute(command, requester.caller, requester.origin, key)

    async def _machine_and_name(
        self, requester: Requester, parent: ResourceClass, number: int, snapshot: int
    ) -> tuple[Any, str]:
        """The machine, and the name of its snapshot. Raises RestError if the snapshot is another machine's."""
        machine, names = await self._reader.names(requester, parent, number, [snapshot])
        if snapshot not in names:
            raise not_found(SNAPSHOTS.name, snapshot)
        return machine, names[snapshot]


def _parse_new_snapshot(item: Item) -> tuple[str, str | None, bool]:
    """Name, description and memory of the snapshot to create. Raises InvalidInput."""
    name = _parse_text(item.get("name"), "name")
    if name is None or not name.strip():
        raise InvalidInput("Must specify a name for the snapshot")
    return name, _parse_text(item.get("description"), "description"), _parse_boolean(item.get("memory"), "memory")


def accepted_result(requester: Requester, message: str, outcome: Outcome) -> Result:
    """The result of an accepted operation, with its task."""
    task = outcome.operation_id
    link = f"{requester.base}/tasks/{task}"
    return {"success": True, "message": message, "task_id": str(task), "task_href": link}


def refused_result(refusal: GatewayError) -> Result:
    """The result of a refusal. ManageIQ has no `code`; it is the gateway's error code."""
    return {"success": False, "message": refusal.message, "code": refusal.code.value}


def _delete_result(requester: Requester, parent: ResourceClass, machine: Any, name: str, outcome: Outcome) -> Result:
    if isinstance(outcome.refusal, Forbidden):
        raise outcome.refusal
    if outcome.refusal is not None:
        return refused_result(outcome.refusal)
    return accepted_result(requester, f"Deleting snapshot {name} for {_target_label(parent, machine)}", outcome)


def _snapshot_not_found(item: Item) -> NotFound:
    return NotFound(f"Couldn't find {SNAPSHOTS.name} with 'id'={bodies.item_id(item)}")


def _target_label(parent: ResourceClass, machine: Any) -> str:
    return f"{_NOUNS[_kind(parent)]} id:{machine['id']} name:'{machine['name']}'"


def _kind(parent: ResourceClass) -> MachineKind:
    assert parent.kind is not None
    return parent.kind


def _parse_text(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InvalidInput(f"`{name}` must be text.")


def _parse_boolean(value: Any, name: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    text = str(value).lower() if isinstance(value, str | int) else None
    if text not in _BOOLEANS:
        raise InvalidInput(f"`{name}` must be true or false.")
    return _BOOLEANS[text]
