"""How a machine of the demo world behaves: set by the machine's id, for people who try out what goes wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlmodel import col, select

from gateway.drivers.simulator.world import SimulatedWorld
from gateway.errors import InvalidInput, NotFound, Unsupported
from gateway.models import Machine, Provider
from gateway.reads.ids import parse_id
from gateway.store.database import Database
from gateway.store.statements import Statement

LONGEST_LATENCY = 86_400.0  # seconds

_VERBS = ("create", "revert", "delete", "any", "read")
_KINDS = ("refuse", "unavailable", "busy", "lost", "hang")

_MACHINE = Statement(
    select(Machine.kind, Machine.provider, Machine.provider_ref, Provider.driver)
    .join(Provider, col(Provider.name) == col(Machine.provider))
    .where(col(Machine.id) == sa.bindparam("machine_id"), col(Machine.tenant) == sa.bindparam("tenant"))
)


@dataclass(frozen=True, slots=True)
class Behavior:
    """How long each piece of work takes, in seconds, and what goes wrong with it, if anything."""

    latency: float
    fault: Mapping[str, Any] | None

    def __str__(self) -> str:
        fault = "none" if self.fault is None else orjson.dumps(self.fault).decode()
        return f"latency {self.latency:g} s, fault {fault}"


def parse_fault(text: str) -> Mapping[str, Any] | None:
    """What `--fault` means; see `drivers/simulated.py`. `none` takes the fault away. Raises InvalidInput."""
    if text == "none":
        return None
    try:
        fault = orjson.loads(text)
    except orjson.JSONDecodeError:
        fault = None
    if not isinstance(fault, dict):
        raise InvalidInput('the fault must be none or a JSON object, such as {"on": "create", "kind": "refuse"}')
    if unknown := sorted(fault.keys() - {"on", "kind", "message", "times"}):
        raise InvalidInput(f"the fault has a member {unknown[0]!r}; it may have on, kind, message and times")
    if fault.get("on", "any") not in _VERBS:
        raise InvalidInput(f"the fault's `on` must be one of {', '.join(_VERBS)}")
    if fault.get("kind") not in _KINDS:
        raise InvalidInput(f"the fault's `kind` must be one of {', '.join(_KINDS)}")
    if not isinstance(fault.get("message", ""), str):
        raise InvalidInput("the fault's `message` must be text")
    times = fault.get("times")
    if times is not None and (type(times) is not int or times < 1):
        raise InvalidInput("the fault's `times` must be a whole number of at least 1, or null for ever")
    return fault


def check_latency(seconds: float) -> None:
    """Raises InvalidInput for a latency that makes no sense."""
    if not 0 <= seconds <= LONGEST_LATENCY:
        raise InvalidInput(f"the latency must be between 0 and {LONGEST_LATENCY:g} seconds, not {seconds:g}")


async def simulate(database: Database, tenant: str, machine: str, latency: float | None, fault: str | None) -> Behavior:
    """Sets the latency in seconds and the fault, each unless None; how the machine behaves then.

    Raises InvalidInput, NotFound, and Unsupported for a machine that no simulated provider runs.
    """
    if latency is not None:
        check_latency(latency)
    wished = parse_fault(fault) if fault is not None else None
    ref = await _reference(database, tenant, machine)
    simulation = SimulatedWorld(database)
    before = await _behavior(simulation, machine, ref)
    if latency is None and fault is None:
        return before
    milliseconds = None if latency is None else round(latency * 1_000)
    await simulation.set_behavior(ref, milliseconds, before.fault if fault is None else wished)
    return await _behavior(simulation, machine, ref)


async def _behavior(simulation: SimulatedWorld, machine: str, ref: str) -> Behavior:
    contents = await simulation.contents(ref)
    if contents is None:
        raise NotFound(f"{machine} is gone: its provider no longer has it")
    row = contents[0]
    return Behavior(row.latency_ms / 1_000, None if row.fault is None else orjson.loads(row.fault))


async def _reference(database: Database, tenant: str, machine: str) -> str:
    """The provider's name for the machine with this id."""
    id_ = parse_id(machine)
    row = None
    if id_.noun == "machine":
        row = await database.read(lambda tx: tx.first(_MACHINE, machine_id=id_.number, tenant=tenant), single=True)
    if row is None or row.kind is not id_.kind:
        raise NotFound(f"there is no machine {machine}")
    if row.driver != "simulated":
        raise Unsupported(f"{machine} is not simulated: its provider {row.provider!r} has the driver {row.driver!r}")
    reference: str = row.provider_ref
    return reference
