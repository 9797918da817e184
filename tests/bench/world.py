"""The machines of the write workloads: a simulated provider so slow that no operation ends.

Imported machines are read-only. The rows of the provider and of the inventory agree, so that a refresh changes nothing.
Bursts are small enough for the default queue limits; `undo` removes one.
"""

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from gateway.columns import now
from gateway.drivers.simulator.tables import SimulatedMachine, SimulatedSnapshot
from gateway.inventory.imports.sequences import ADVANCE_SEQUENCES
from gateway.models import Machine, MachineKind, PowerState, Provider, Snapshot, SnapshotState

PROVIDER = "bench"
TENANT = "default"

_FIRST = 200_000  # above the ids of imported machines
_FIRST_SNAPSHOT = 10_000_000
CREATED_ON = range(_FIRST, _FIRST + 120)
DELETED_ON = range(_FIRST + 1_000, _FIRST + 1_100)
HOLDER = _FIRST + 2_000  # its one operation keeps the gateway's worker busy
_PER_MACHINE = 90  # snapshots to delete: under the 100 unfinished operations that a machine may have

_SLOW = 10 * 3_600_000  # milliseconds


def engine(url: str) -> sa.Engine:
    if url.startswith("sqlite"):
        return sa.create_engine(url, connect_args={"timeout": 30})
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def deletable(machine: int) -> range:
    """The numbers of the machine's snapshots."""
    first = _FIRST_SNAPSHOT + (machine - DELETED_ON.start) * _PER_MACHINE
    return range(first, first + _PER_MACHINE)


def add(url: str) -> None:
    """Adds the provider, its machines and their snapshots to an imported database."""
    moment = now().replace(microsecond=0)
    with engine(url).begin() as connection:
        connection.execute(
            sa.insert(_table(Provider)), [{"name": PROVIDER, "tenant": TENANT, "driver": "simulated", "problem": None}]
        )
        machines = [_machine(number, moment) for number in (*CREATED_ON, *DELETED_ON, HOLDER)]
        connection.execute(sa.insert(_table(Machine)), [row for row, _ in machines])
        connection.execute(sa.insert(_table(SimulatedMachine)), [row for _, row in machines])
        snapshots = [_snapshot(machine, number, moment) for machine in DELETED_ON for number in deletable(machine)]
        connection.execute(sa.insert(_table(Snapshot)), [row for row, _ in snapshots])
        connection.execute(sa.insert(_table(SimulatedSnapshot)), [row for _, row in snapshots])
        for statement in ADVANCE_SEQUENCES[connection.dialect.name]:
            connection.exec_driver_sql(statement)


_SINCE = f"machine_id BETWEEN {CREATED_ON.start} AND {DELETED_ON.stop - 1}"


def undo(connection: sa.Connection) -> None:
    """Removes created snapshots and operations, except those of the holder. Commits."""
    if connection.dialect.name == "postgresql":
        # Without triggers: counters are corrected by hand, and the changes need no events.
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
    connection.exec_driver_sql(f"DELETE FROM operation WHERE {_SINCE}")
    connection.exec_driver_sql(f"DELETE FROM snapshot WHERE {_SINCE} AND state = 'CREATING'")
    connection.exec_driver_sql(f"UPDATE snapshot SET state = 'READY' WHERE {_SINCE} AND state = 'DELETING'")
    connection.exec_driver_sql("DELETE FROM event")
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "UPDATE machine SET snapshot_count = (SELECT count(*) FROM snapshot s WHERE s.machine_id = machine.id)"
            f" WHERE id BETWEEN {CREATED_ON.start} AND {DELETED_ON.stop - 1}"
        )
    connection.commit()


def undo_all(connection: sa.Connection) -> None:
    """Also those of the holder, for the next system. The gateway must not run. Commits."""
    connection.exec_driver_sql("DELETE FROM simulated_task")
    connection.exec_driver_sql(f"DELETE FROM operation WHERE machine_id = {HOLDER}")
    connection.exec_driver_sql(f"DELETE FROM snapshot WHERE machine_id = {HOLDER}")
    connection.commit()
    undo(connection)


def written(connection: sa.Connection) -> tuple[int, int, int]:
    """Numbers of snapshots being created and deleted, and of queued operations, without those of the holder."""
    row = connection.exec_driver_sql(
        f"SELECT (SELECT count(*) FROM snapshot WHERE {_SINCE} AND state = 'CREATING'),"
        f" (SELECT count(*) FROM snapshot WHERE {_SINCE} AND state = 'DELETING'),"
        f" (SELECT count(*) FROM operation WHERE {_SINCE} AND state = 'QUEUED')"
    ).one()
    connection.commit()
    return row[0], row[1], row[2]


def held(connection: sa.Connection) -> bool:
    """Whether the worker runs the operation of the holder, and hence no other."""
    running = connection.exec_driver_sql(
        f"SELECT 1 FROM operation WHERE machine_id = {HOLDER} AND state = 'RUNNING' AND task_ref IS NOT NULL"
    ).first()
    connection.commit()
    return running is not None


def make_refresh_due(connection: sa.Connection) -> None:
    """Makes the next gateway refresh the provider when it starts. Before gateways had jobs, each did so anyway."""
    if sa.inspect(connection).has_table("job_lease"):
        connection.exec_driver_sql("DELETE FROM job_lease")
    connection.commit()


def observed(connection: sa.Connection) -> Any:
    """When the provider was last refreshed completely."""
    at = connection.exec_driver_sql(f"SELECT observed_at FROM provider WHERE name = '{PROVIDER}'").scalar()
    connection.commit()
    return at


def _table(model: Any) -> sa.Table:
    table: sa.Table = model.__table__
    return table


def _machine(number: int, moment: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    name, ref = f"zz-bench-{number}", f"bench-{number}"  # last by name
    common: dict[str, Any] = {"kind": MachineKind.VM, "name": name, "provider": PROVIDER, "power_state": PowerState.ON}
    common |= {"created_at": moment - timedelta(days=30), "description": None, "host": None}
    common |= {"flavor": None, "availability_zone": None}
    inventory = {
        "id": number,
        "tenant": TENANT,
        "name_folded": name,
        "provider_folded": PROVIDER,
        "provider_ref": ref,
        "provider_ref_folded": ref,
        "imported": False,
        "updated_at": moment,
        "observed_at": moment,
    }
    return common | inventory, common | {"ref": ref, "current_ref": None, "latency_ms": _SLOW, "fault": None}


def _snapshot(machine: int, number: int, moment: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    name, ref = f"old-{number}", f"bench-snapshot-{number}"
    common = {"name": name, "memory": False, "created_at": moment - timedelta(days=1, seconds=number % 80_000)}
    common |= {"description": None, "size_bytes": 1 << 30}
    inventory = {
        "id": number,
        "tenant": TENANT,
        "machine_id": machine,
        "name_folded": name,
        "state": SnapshotState.READY,
        "is_current": False,
        "provider_ref": ref,
        "provider_ref_folded": ref,
        "observed_at": moment,
    }
    provider = {"ref": ref, "machine_ref": f"bench-{machine}", "token": None, "parent_ref": None}
    return common | inventory, common | provider
