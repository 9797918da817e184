"""The tables of the `simulated` driver, and the types of their rows. They are separate from the gateway's inventory."""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import BigInteger, Index
from sqlmodel import Field, SQLModel

from gateway.columns import Text, UtcDateTime
from gateway.models import MachineKind, PowerState, enum_column, optional_column


class Verb(StrEnum):
    """What a task does."""

    CREATE = "create"
    REVERT = "revert"
    DELETE = "delete"


class SimulatedMachine(SQLModel, table=True):
    """A machine at a simulated provider. The inventory has its own row for the same machine."""

    __tablename__: ClassVar[Any] = "simulated_machine"

    ref: str = Field(primary_key=True, sa_type=Text)
    provider: str = Field(sa_type=Text, index=True)
    kind: MachineKind = Field(sa_type=enum_column(MachineKind))
    name: str = Field(sa_type=Text)
    description: str | None = optional_column()
    power_state: PowerState = Field(sa_type=enum_column(PowerState))
    host: str | None = optional_column()
    flavor: str | None = optional_column()
    availability_zone: str | None = optional_column()
    created_at: datetime = Field(sa_type=UtcDateTime)
    current_ref: str | None = optional_column()
    latency_ms: int = Field(default=1_500)  # duration of each task
    fault: str | None = optional_column()  # JSON: see drivers/simulator/driver.py


class SimulatedSnapshot(SQLModel, table=True):
    """A snapshot at a simulated provider."""

    __tablename__: ClassVar[Any] = "simulated_snapshot"

    ref: str = Field(primary_key=True, sa_type=Text)
    machine_ref: str = Field(sa_type=Text, index=True)
    token: str | None = optional_column()
    name: str = Field(sa_type=Text)
    description: str | None = optional_column()
    memory: bool = False
    parent_ref: str | None = optional_column()
    size_bytes: int | None = optional_column(BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)


class SimulatedTask(SQLModel, table=True):
    """A task of a simulated provider. It completes at `done_at`, whether or not a driver waits for it."""

    __tablename__: ClassVar[Any] = "simulated_task"
    __table_args__ = (Index("ix_simulated_task_machine", "machine_ref", "applied", "done_at"),)

    ref: str = Field(primary_key=True, sa_type=Text)
    machine_ref: str = Field(sa_type=Text)
    token: str = Field(sa_type=Text, index=True)
    verb: str = Field(sa_type=Text)  # the value of a Verb
    argument: str = Field(sa_type=Text)  # JSON
    started_at: datetime = Field(sa_type=UtcDateTime)
    done_at: datetime = Field(sa_type=UtcDateTime)
    applied: bool = False  # whether its effect is stored in the tables above
    error: str | None = optional_column()  # the error message with which the task ends; null if it succeeds


class MachineRow(NamedTuple):
    """A row of `simulated_machine`."""

    ref: str
    provider: str
    kind: MachineKind
    name: str
    description: str | None
    power_state: PowerState
    host: str | None
    flavor: str | None
    availability_zone: str | None
    created_at: datetime
    current_ref: str | None
    latency_ms: int
    fault: str | None


class SnapshotRow(NamedTuple):
    """A row of `simulated_snapshot`."""

    ref: str
    machine_ref: str
    token: str | None
    name: str
    description: str | None
    memory: bool
    parent_ref: str | None
    size_bytes: int | None
    created_at: datetime


class TaskRow(NamedTuple):
    """A row of `simulated_task`."""

    ref: str
    machine_ref: str
    token: str
    verb: str
    argument: str
    started_at: datetime
    done_at: datetime
    applied: bool = False
    error: str | None = None
