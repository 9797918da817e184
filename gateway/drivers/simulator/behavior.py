"""Sets the latency and the fault of a simulated machine, by the machine's public id (`gateway simulate`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlmodel import col, select

from gateway.drivers.simulator.tables import Verb
from gateway.drivers.simulator.world import SimulatedWorld
from gateway.errors import InvalidInput, NotFound, Unsupported
from gateway.models import Machine, MachineKind, Provider
from gateway.reads.ids import parse_id
from gateway.store.database import Database
from gateway.store.statements import Query

MAX_LATENCY = 86_400.0  # seconds

_VERBS = (*Verb, "any", "read")
_KINDS = ("refuse", "unavailable", "busy", "lost", "hang")


class _InventoryMachine(NamedTuple):
    kind: MachineKind
    provider: str
    provider_ref: str
    driver: str


_MACHINE = Query(
    select(Machine.kind, Machine.provider, Machine.provider_ref, Provider.driver)
    .join(Provider, col(Provider.name) == col(Machine.provider))
    .where(col(Machine.id) == sa.bindparam("machine_id"), col(Machine.tenant) == sa.bindparam("tenant")),
    _InventoryMachine,
)


@dataclass(frozen=True, slots=True)
class Behavior:
    """The duration of a machine's tasks in seconds, and the fault that its calls meet, if any."""

    latency: float
    fault: Mapping[str, Any] | None

    def __str__(self) -> str:
        fault = "none" if self.fault is None else orjson.dumps(self.fault).decode()
        return f"latency {self.latency:g} s, fault {fault}"


def parse_fault(text: str) -> Mapping[str, Any] | None:
    """Parses the option `--fault`, described in `driver.py`. `none` removes the fault. Raises InvalidInput."""
    if text == "none":
        return None
    try:
        fault = orjson.loads(text)
    except orjson.JSONDecodeError:
        fault = None
    if not isinstance(fault, dict):
        raise InvalidInput('The fault must be none or a JSON object such as {"on": "create", "kind": "refuse"}.')
    if unknown := sorted(fault.keys() - {"on", "kind", "message", "times"}):
        raise InvalidInput(f"The fault has an unknown member {unknown[0]!r}. It may have on, kind, message and times.")
    if fault.get("on", "any") not in _VERBS:
        raise InvalidInput(f"The member 'on' of the fault must be one of {', '.join(_VERBS)}.")
    if fault.get("kind") not in _KINDS:
        raise InvalidInput(f"The member 'kind' of the fault must be one of {', '.join(_KINDS)}.")
    if not isinstance(fault.get("message", ""), str):
        raise InvalidInput("The member 'message' of the fault must be text.")
    times = fault.get("times")
    if times is not None and (type(times) is not int or times < 1):
        raise InvalidInput(
            "The member 'times' of the fault must be a whole number of at least 1, or null for no limit."
        )
    return fault


def check_latency(seconds: float) -> None:
    """Raises InvalidInput if the latency is negative, over 86400 seconds, or not a number."""
    if not 0 <= seconds <= MAX_LATENCY:
        raise InvalidInput(f"The latency must be between 0 and {MAX_LATENCY:g} seconds, not {seconds:g}.")


async def simulate(database: Database, tenant: str, machine: str, latency: float | None, fault: str | None) -> Behavior:
    """Sets the latency in seconds and the fault, and returns the machine's behavior. None leaves a value unchanged.

    Raises InvalidInput, NotFound, or Unsupported if the machine's provider is not simulated.
    """
    if latency is not None:
        check_latency(latency)
    new_fault = parse_fault(fault) if fault is not None else None
    ref = await _reference(database, tenant, machine)
    world = SimulatedWorld(database)
    before = await _behavior(world, machine, ref)
    if latency is None and fault is None:
        return before
    milliseconds = None if latency is None else round(latency * 1_000)
    await world.set_behavior(ref, milliseconds, before.fault if fault is None else new_fault)
    return await _behavior(world, machine, ref)


async def _behavior(world: SimulatedWorld, machine: str, ref: str) -> Behavior:
    contents = await world.contents(ref)
    if contents is None:
        raise NotFound(f"Machine '{machine}' no longer exists at its provider.")
    row = contents[0]
    return Behavior(row.latency_ms / 1_000, None if row.fault is None else orjson.loads(row.fault))


async def _reference(database: Database, tenant: str, machine: str) -> str:
    """The provider's reference of the machine with this public id."""
    id_ = parse_id(machine)
    row = None
    if id_.noun == "machine":
        row = await database.read(lambda tx: tx.first(_MACHINE, machine_id=id_.number, tenant=tenant), single=True)
    if row is None or row.kind is not id_.kind:
        raise NotFound(f"Machine '{machine}' was not found.")
    if row.driver != "simulated":
        raise Unsupported(
            f"Machine '{machine}' is not simulated: its provider {row.provider!r} has the driver {row.driver!r}."
        )
    return row.provider_ref
