"""A query root whose fields have every kind of source that the production schema uses rarely or not at all.

The fields are declared as those of `gateway.graphql.schema` are, and read the rows of a World.
"""

from collections.abc import Mapping
from typing import Any

import strawberry
from graphql import GraphQLSchema
from strawberry import ID

from gateway.errors import InvalidInput
from gateway.graphql.schema.build import build_schema, executable
from gateway.graphql.schema.fields import column, sourced
from gateway.graphql.schema.filters import MachineFilter, StringFilter
from gateway.graphql.schema.query import Query
from gateway.graphql.schema.scalars import BigInt, Moment
from gateway.graphql.schema.types import Machine, Snapshot
from gateway.models import MachineKind, PowerState, SnapshotState
from gateway.reads.context import TENANT, Context, StatementTemplate
from gateway.reads.entities import ENTITIES
from gateway.reads.ids import Id, parse_id
from gateway.reads.selection import Arguments
from gateway.reads.sorts import SortField, SortKey, enum_rank
from gateway.reads.sources import (
    Aggregate,
    BoundedRows,
    Computed,
    ComputedRoot,
    GroupedRows,
    Inline,
    PayloadRow,
    PayloadValue,
    ToOne,
)

BOUND = 20  # of the lists below a machine: some machines of a World have more snapshots, some fewer
FEW = 2  # of the lists below a snapshot
ADVICE = "Use `snapshots` instead."


@strawberry.type(description="An object that is computed from columns and arguments.")
class Label:
    text: str = strawberry.field(description="The text.")
    number: int | None = strawberry.field(description="Its number. Null if the row has no size.")


def checked_count(arguments: Arguments) -> int:
    """The argument `count`, 0 to 3."""
    count: int = arguments["count"]
    if not 0 <= count <= 3:
        raise InvalidInput(f"`count` must be between 0 and 3, not {count}.", path=("count",))
    return count


def labels(_context: Context, count: int, name: str, size: int | None) -> list[Mapping[str, Any]]:
    return [{"text": f"{name} {number}", "number": size and size % 100} for number in range(count)]


def label(_context: Context, arguments: Arguments, name: str, size: int | None) -> Mapping[str, Any] | None:
    return None if size is None else {"text": f"{arguments.get('prefix')}{name}", "number": size % 100}


def spelled(_context: Context, count: int, name: str) -> list[str]:
    return list(name[:count])


@strawberry.type(description="Columns of the same row as another object.")
class Origin:
    created_by: str = column("created_by", "Who created the snapshot.")
    followers: list["InspectedSnapshot"] = sourced(
        BoundedRows("snapshot", bound=FEW, match="parent_id"), "The snapshots based on this one."
    )


@strawberry.type(description="A snapshot as a type of its own.")
class InspectedSnapshot:
    name: str = column("name", "The name.")
    created_at: Moment = column("created_at", "When it was created.")
    labels: list[Label] = sourced(
        Computed(("name", "size_bytes"), labels, bind=checked_count), "Computed objects.", count=(int, "How many.")
    )
    label: Label | None = sourced(
        Computed(("name", "size_bytes"), label, bind=lambda arguments: arguments),
        "A computed object.",
        prefix=(str | None, "What its text begins with."),
    )
    letters: list[str] = sourced(
        Computed(("name",), spelled, bind=checked_count), "Computed leaves.", count=(int, "How many.")
    )
    origin: Origin | None = sourced(Inline("created_by"), "Its origin. Null if it is unknown.")
    machine: Machine = sourced(ToOne("machine", "machine_id"), "Its machine.")
    followers: list["InspectedSnapshot"] = sourced(
        BoundedRows("snapshot", bound=FEW, match="parent_id", advice=ADVICE), "The snapshots based on this one."
    )
    twins: list["InspectedSnapshot"] = sourced(
        BoundedRows(
            "snapshot",
            bound=100,
            where="{t}.name = (SELECT s.name FROM snapshot s WHERE s.id = {parent}) OR {t}.parent_id = {parent}",
            order=(SortKey(SortField("machine.name", "text"), descending=True), SortKey(SortField("id", "number"))),
        ),
        "The snapshots of that name and those based on this one, in the order of the names of their machines.",
    )


@strawberry.type(description="A machine as a type of its own.")
class InspectedMachine:
    name: str = column("name", "The name.")
    kind: MachineKind = column("kind", "The kind.")
    current: InspectedSnapshot | None = sourced(
        ToOne("snapshot", "id", match="machine_id", where="{t}.is_current"), "The current snapshot."
    )
    snapshots: list[InspectedSnapshot] = sourced(
        BoundedRows("snapshot", bound=BOUND, match="machine_id"), "The snapshots, newest first."
    )
    some_snapshots: list[Snapshot] | None = sourced(
        BoundedRows("snapshot", bound=BOUND, match="machine_id"), "The same, or null if they are too many."
    )


@strawberry.type(description="A number of snapshots.")
class SnapshotCount:
    state: SnapshotState = column("state", "Their state.")
    memory: bool = column("memory", "Whether they include the memory.")
    count: int = sourced(Aggregate("count", "TRUE"), "How many.")
    named_count: int = sourced(Aggregate("count", "{t}.name <> ''"), "How many have a name.")
    total_bytes: BigInt = sourced(Aggregate("sum", "{t}.size_bytes"), "The sum of their sizes.")


@strawberry.type(description="One step of a simulation.")
class SimulatedStep:
    at: int = sourced(PayloadValue("at"), "When.")
    kept: list[str] = sourced(PayloadValue("kept"), "What is kept.")


@strawberry.type(description="What a function computes from its arguments and from rows.")
class Simulation:
    machine: Machine | None = sourced(PayloadRow("machine", "machine"), "The machine.")
    snapshot_count: int = sourced(PayloadValue("snapshotCount"), "The number of its snapshots that the caller sees.")
    steps: list[SimulatedStep] = sourced(PayloadValue("steps"), "The steps.")
    last: SimulatedStep | None = sourced(PayloadValue("last"), "The last step. Null without steps.")


def simulation_input(arguments: Arguments) -> tuple[Id, int]:
    return parse_id(arguments["machineId"], ("machineId",)), checked_count(arguments)


async def simulate(context: Context, bound: tuple[Id, int]) -> Mapping[str, Any]:
    id_, count = bound
    frame = context.frame()
    where = f"t.machine_id = {frame.parameters(id_.number)} AND {ENTITIES['snapshot'].visible(frame, TENANT)}"
    sql = f"SELECT count(*) FROM snapshot t{frame.joins()} WHERE {where}"
    ((found,),) = await context.fetch(StatementTemplate(sql, frame.parameters.values))
    steps = [{"at": at, "kept": [f"{found}-{kept}" for kept in range(at)]} for at in range(count)]
    return {
        "machine": id_.number if id_.noun == "machine" else None,
        "snapshotCount": found,
        "steps": steps,
        "last": steps[-1] if steps else None,
    }


def simulations(_context: Context, count: int) -> list[Mapping[str, Any]]:
    return [{"machine": number, "snapshotCount": 0, "steps": [], "last": None} for number in range(1, count + 1)]


def echo(context: Context, text: str | None) -> list[str] | None:
    return None if text is None else [context.caller.name, text]


_BY_NAME = (SortKey(SortField("power_state", "text")), SortKey(SortField("id", "number")))


@strawberry.type(name="Query", description="The query root.")
class DeclaredSources(Query):
    all_machines: list[InspectedMachine] = sourced(
        BoundedRows("machine", bound=8, where="{t}.name <> 'none'", order=_BY_NAME), "All machines of a World."
    )
    too_many_machines: list[InspectedMachine] = sourced(BoundedRows("machine", bound=7), "More than are allowed.")
    some_machines: list[InspectedMachine] | None = sourced(BoundedRows("machine", bound=7), "The same, or null.")
    snapshot_counts: list[SnapshotCount] = sourced(
        GroupedRows(
            "snapshot",
            ("state", "memory"),
            bound=10,
            order=(SortKey(enum_rank("state", SnapshotState), descending=True), SortKey(SortField("memory", "number"))),
        ),
        "The snapshots by state and memory.",
        machine=(MachineFilter | None, "Only those of these machines."),
        name=(StringFilter | None, "Only those with these names."),
    )
    power_counts: list["PowerCount"] = sourced(
        GroupedRows("machine", ("power_state",), bound=10), "The machines by power state."
    )
    too_many_counts: list[SnapshotCount] | None = sourced(
        GroupedRows("snapshot", ("state", "memory"), bound=9), "Null: World has all ten combinations."
    )
    simulate: Simulation = sourced(
        ComputedRoot(simulate, bind=simulation_input, cost=5),
        "Computed by a function that sends a statement.",
        machine_id=(ID, "The machine."),
        count=(int, "The number of steps."),
    )
    simulations: list[Simulation] = sourced(
        ComputedRoot(simulations, bind=checked_count), "Computed without a statement.", count=(int, "How many.")
    )
    echo: list[str] | None = sourced(
        ComputedRoot(echo, bind=lambda arguments: arguments.get("text")),
        "A leaf that is computed.",
        text=(str | None, "The text."),
    )


@strawberry.type(description="A number of machines.")
class PowerCount:
    power_state: PowerState = column("power_state", "Their power state.")
    count: int = sourced(Aggregate("count", "TRUE"), "How many.")


def declared_schema() -> GraphQLSchema:
    """The executable schema with this query root."""
    return executable(build_schema(DeclaredSources))
