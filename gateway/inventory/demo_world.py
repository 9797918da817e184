"""The contents of the demo world. Pure.

Vm 11 with snapshots 3, 4 and 5, and Instance 201 with snapshots 7 and 8, are those of the ManageIQ guide. 52 more
machines have a generated history, which is always the same. Times are relative to the time of loading.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from gateway.models import MachineKind, PowerState

VMS = "lab"  # the provider of the Vms
INSTANCES = "cloud"  # the provider of the Instances

_GIB = 1 << 30
_DAY = timedelta(days=1)
_PEOPLE = ("alice", "bob", "carol", "nightly-backup")
_VM_NAMES = ("db", "web", "cache", "build", "mail", "queue", "erp", "Storage")
_INSTANCE_NAMES = ("api", "worker", "proxy", "search", "batch")
_FLAVORS = ("m1.small", "m1.medium", "m1.large", "c2.xlarge")
_REASONS = (
    "before-upgrade",
    "before-patch",
    "nightly",
    "weekly",
    "test-restore",
    "test-config",
    "pre-migration",
    "golden",
)
_DESCRIPTIONS = (
    None,
    None,
    None,
    "Taken by the nightly job",
    "Ask the owner before deleting",
    "Rückfall vor dem Umbau",
)
_POWER = (PowerState.ON,) * 6 + (PowerState.OFF,) * 2 + (PowerState.SUSPENDED,)


@dataclass(slots=True)
class DemoSnapshot:
    """One snapshot. `parent` is the parent's index in the machine's list of snapshots."""

    id: int
    name: str
    age: timedelta
    parent: int | None = None
    memory: bool = False
    description: str | None = None
    size_bytes: int = _GIB
    created_by: str | None = None


@dataclass(slots=True)
class DemoMachine:
    """One machine and its snapshots, parents before children. `current` is the index of the current snapshot."""

    id: int
    kind: MachineKind
    name: str
    ref: str
    age: timedelta
    power_state: PowerState = PowerState.ON
    description: str | None = None
    host: str | None = None
    flavor: str | None = None
    availability_zone: str | None = None
    snapshots: list[DemoSnapshot] = field(default_factory=list)
    current: int | None = None

    @property
    def provider(self) -> str:
        return VMS if self.kind is MachineKind.VM else INSTANCES


def demo_machines() -> Iterator[DemoMachine]:
    """All machines of the demo world."""
    chance = random.Random(2017)  # noqa: S311 - a fixed seed, so that the world is always the same
    yield _vm_11()
    yield _instance_201()
    next_snapshot = 301
    for number in range(29):
        machine = _vm(chance, 12 + number, number)
        next_snapshot = _make_history(chance, machine, next_snapshot)
        yield machine
    for number in range(23):
        machine = _instance(chance, 202 + number, number)
        next_snapshot = _make_history(chance, machine, next_snapshot)
        yield machine


def _vm_11() -> DemoMachine:
    return DemoMachine(
        id=11,
        kind=MachineKind.VM,
        name="web-01",
        ref="vm-1011",
        age=400 * _DAY,
        description="Front end of the shop",
        host="esx-01",
        snapshots=[
            DemoSnapshot(3, "test-base", 40 * _DAY, size_bytes=12 * _GIB, created_by="alice"),
            DemoSnapshot(
                4,
                "test-before-upgrade",
                21 * _DAY,
                parent=0,
                memory=True,
                description="Before the upgrade to 2.0",
                size_bytes=18 * _GIB,
                created_by="alice",
            ),
            DemoSnapshot(5, "test-new-driver", 9 * _DAY, parent=0, size_bytes=13 * _GIB, created_by="bob"),
        ],
        current=1,
    )


def _instance_201() -> DemoMachine:
    return DemoMachine(
        id=201,
        kind=MachineKind.INSTANCE,
        name="api-01",
        ref=str(UUID(int=201, version=4)),
        age=300 * _DAY,
        flavor="m1.medium",
        availability_zone="zone-a",
        snapshots=[
            DemoSnapshot(7, "before-release", 14 * _DAY, size_bytes=8 * _GIB, created_by="carol"),
            DemoSnapshot(8, "test-image", 3 * _DAY, description="For the staging cloud", size_bytes=9 * _GIB),
        ],
    )


def _vm(chance: random.Random, id: int, number: int) -> DemoMachine:
    name = _VM_NAMES[number % len(_VM_NAMES)]
    return DemoMachine(
        id=id,
        kind=MachineKind.VM,
        name=f"{name}-{number // len(_VM_NAMES) + (2 if name == 'web' else 1):02}",  # Vm 11 is web-01
        ref=f"vm-{1000 + id}",
        age=chance.randrange(370, 1_500) * _DAY,
        power_state=chance.choice(_POWER),
        description=chance.choice(_DESCRIPTIONS[:4]),
        host=f"esx-{chance.randrange(1, 7):02}",
    )


def _instance(chance: random.Random, id: int, number: int) -> DemoMachine:
    name = _INSTANCE_NAMES[number % len(_INSTANCE_NAMES)]
    return DemoMachine(
        id=id,
        kind=MachineKind.INSTANCE,
        name=f"{name}-{number // len(_INSTANCE_NAMES) + (2 if name == 'api' else 1):02}",  # Instance 201 is api-01
        ref=str(UUID(int=chance.getrandbits(128), version=4)),
        age=chance.randrange(370, 900) * _DAY,
        power_state=chance.choice(_POWER),
        flavor=chance.choice(_FLAVORS),
        availability_zone=f"zone-{chance.choice('abc')}",
    )


def _make_history(chance: random.Random, machine: DemoMachine, first: int) -> int:
    """Adds 0 to 12 snapshots of the last year to the machine, oldest first. Returns the next unused snapshot id."""
    count = chance.randrange(13)
    ages = sorted((timedelta(minutes=chance.randrange(60, 525_000)) for _ in range(count)), reverse=True)
    tree = machine.kind is MachineKind.VM
    on = machine.power_state is PowerState.ON
    for index, age in enumerate(ages):
        memory = tree and on and chance.random() < 0.15
        parent = index - 1 if chance.random() < 0.8 else chance.randrange(max(index, 1))
        machine.snapshots.append(
            DemoSnapshot(
                id=first + index,
                name=f"{chance.choice(_REASONS)}-{first + index}",
                age=age,
                parent=parent if tree and index > 0 else None,
                memory=memory,
                description=chance.choice(_DESCRIPTIONS),
                size_bytes=chance.randrange(_GIB, 40 * _GIB) // 4_096 * 4_096 + (4 * _GIB if memory else 0),
                created_by=chance.choice((*_PEOPLE, None)),
            )
        )
    if tree and count:
        machine.current = count - 1 if chance.random() < 0.75 else chance.randrange(count)
    return first + count
