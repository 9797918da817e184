"""Writes of the REST API: `operations` decides, an `action_result` tells.

A business refusal is a result with `success: false` and a message. What is not there is an error, except as one item
of several, where it must not hide what became of the others.
"""

from collections.abc import Sequence
from typing import Any

from gateway.errors import Forbidden, GatewayError, InvalidInput, NotFound, Refusal
from gateway.models import AuditAction, MachineKind
from gateway.operations.audit_log import AuditContext
from gateway.operations.service import MachineId, Operations, Outcome, Target, machine_subject
from gateway.rest import bodies
from gateway.rest.bodies import Item
from gateway.rest.classes import SNAPSHOTS, Class
from gateway.rest.errors import not_found
from gateway.rest.reading import Asker, Reader

Result = dict[str, Any]

_NOUNS = {MachineKind.VM: "Virtual Machine", MachineKind.INSTANCE: "Instance"}
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "": False}


class Writer:
    """Writes for every route."""

    def __init__(self, operations: Operations, reader: Reader) -> None:
        self._operations = operations
        self._reader = reader

    async def create(
        self, asker: Asker, parent: Class, number: int, resources: Sequence[Item], key: str | None
    ) -> list[Result]:
        """A result for each item, in order. Raises RestError when there is no such machine."""
        machine = await self._reader.machine(asker, parent, number)
        results = []
        for position, item in enumerate(resources):
            mine = key if key is None or len(resources) == 1 else f"{key}#{position}"
            try:
                results.append(await self._create(asker, parent, machine, item, mine))
            except NotFound:  # it was there just now
                raise not_found(parent.name, number) from None
            except Forbidden:
                raise
            except Refusal as refusal:
                results.append(refused(refusal))
            except GatewayError as error:
                if not results:
                    raise
                results.append(refused(error))  # it must not hide what became of the others
        return results

    async def _create(self, asker: Asker, parent: Class, machine: Any, item: Item, key: str | None) -> Result:
        target = MachineId(_kind(parent), int(machine["id"]))
        asked = AuditContext(asker.caller, asker.origin, AuditAction.CREATE_SNAPSHOT)
        async with self._operations.refusals.of(asked, machine_subject(target)):
            name, description, memory = _new(item)
        outcome = await self._operations.create_snapshot(
            asker.caller, asker.origin, target, name, description, memory, key
        )
        message = f"Creating snapshot {name.strip()} for {_target(parent, machine)}"
        link = f"{asker.base}/{parent.collection}/{machine['id']}/snapshots/{outcome.snapshot_id}"
        made = {"snapshot_id": str(outcome.snapshot_id), "snapshot_href": link}
        return accepted(asker, message, outcome) | made

    async def revert(self, asker: Asker, parent: Class, number: int, snapshot: int, key: str | None) -> Result:
        """Raises RestError when there is no such snapshot of this machine."""
        machine, name = await self._named(asker, parent, number, snapshot)
        try:
            outcome = await self._operations.revert_vm_snapshot(
                asker.caller, asker.origin, snapshot, dry_run=False, key=key
            )
        except NotFound:
            raise not_found(SNAPSHOTS.name, snapshot) from None
        except Forbidden:
            raise
        except Refusal as refusal:
            return refused(refusal)
        return accepted(asker, f"Reverting to snapshot {name} for {_target(parent, machine)}", outcome)

    async def delete(self, asker: Asker, parent: Class, number: int, snapshot: int, key: str | None) -> Result:
        """Raises RestError when there is no such snapshot of this machine."""
        machine, name = await self._named(asker, parent, number, snapshot)
        (outcome,) = await self._delete(asker, [snapshot], key)
        if isinstance(outcome.refusal, NotFound):
            raise not_found(SNAPSHOTS.name, snapshot)
        return _deleting(asker, parent, machine, name, outcome)

    async def delete_several(
        self, asker: Asker, parent: Class, number: int, resources: Sequence[Item], key: str | None
    ) -> list[Result]:
        """A result for each item, in order; one that is wrong stops none of the others.

        Raises RestError, before anything is done, when an item names no snapshot, or when there is no such machine.
        """
        wanted = [bodies.named_snapshot(item, parent.collection, number) for item in resources]
        given = [snapshot for snapshot in wanted if snapshot is not None]
        machine, names = await self._reader.names(asker, parent, number, given)
        targets: list[Target] = [
            snapshot if snapshot is not None and snapshot in names else _missing(item)
            for snapshot, item in zip(wanted, resources, strict=True)
        ]
        outcomes = await self._delete(asker, targets, key)
        return [
            refused(_missing(item))  # also what was there just now
            if isinstance(outcome.refusal, NotFound)
            else _deleting(asker, parent, machine, names.get(outcome.snapshot_id or 0, ""), outcome)
            for item, outcome in zip(resources, outcomes, strict=True)
        ]

    async def _delete(self, asker: Asker, targets: Sequence[Target], key: str | None) -> list[Outcome]:
        return await self._operations.delete_snapshots(
            asker.caller,
            asker.origin,
            targets,
            with_descendants=False,
            all_or_nothing=False,
            dry_run=False,
            key=key,
        )

    async def _named(self, asker: Asker, parent: Class, number: int, snapshot: int) -> tuple[Any, str]:
        """The machine, and the name of its snapshot: one that is another machine's is not found."""
        machine, names = await self._reader.names(asker, parent, number, [snapshot])
        if snapshot not in names:
            raise not_found(SNAPSHOTS.name, snapshot)
        return machine, names[snapshot]


def _new(item: Item) -> tuple[str, str | None, bool]:
    """Name, description and memory of the snapshot that is wished for. Raises InvalidInput."""
    name = _text(item.get("name"), "name")
    if name is None or not name.strip():
        raise InvalidInput("Must specify a name for the snapshot")
    return name, _text(item.get("description"), "description"), _flag(item.get("memory"), "memory")


def accepted(asker: Asker, message: str, outcome: Outcome) -> Result:
    task = outcome.operation_id
    link = f"{asker.base}/tasks/{task}"
    return {"success": True, "message": message, "task_id": str(task), "task_href": link}


def refused(refusal: GatewayError) -> Result:
    """`code` is the gateway's own: what went wrong, for programs."""
    return {"success": False, "message": refusal.message, "code": refusal.code.value}


def _deleting(asker: Asker, parent: Class, machine: Any, name: str, outcome: Outcome) -> Result:
    if isinstance(outcome.refusal, Forbidden):
        raise outcome.refusal
    if outcome.refusal is not None:
        return refused(outcome.refusal)
    return accepted(asker, f"Deleting snapshot {name} for {_target(parent, machine)}", outcome)


def _missing(item: Item) -> NotFound:
    return NotFound(f"Couldn't find {SNAPSHOTS.name} with 'id'={bodies.label(item)}")


def _target(parent: Class, machine: Any) -> str:
    return f"{_NOUNS[_kind(parent)]} id:{machine['id']} name:'{machine['name']}'"


def _kind(parent: Class) -> MachineKind:
    assert parent.kind is not None
    return parent.kind


def _text(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InvalidInput(f"The {name} must be text")


def _flag(value: Any, name: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    text = str(value).lower() if isinstance(value, str | int) else None
    if text not in _BOOLEANS:
        raise InvalidInput(f"{name} must be true or false")
    return _BOOLEANS[text]
