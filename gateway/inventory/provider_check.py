"""Checks a provider by reading from it as the gateway does, and prints the results. Changes nothing."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from gateway.drivers.base import Driver, ReportedMachine, ReportedSnapshots
from gateway.errors import ProviderError
from gateway.models import MachineKind, PowerState, SnapshotAction
from gateway.printable_text import printable

T = TypeVar("T")

_TIMEOUT = 60.0  # seconds, for each request to the provider
_MAX_MACHINES = 5  # machines whose snapshots are read

_NOUNS = {MachineKind.VM: "Vms", MachineKind.INSTANCE: "Instances"}


async def check_provider(driver: Driver, print_line: Callable[[str], None]) -> bool:
    """Checks that the provider answers and that its machines and snapshots can be read, and prints a line per check.

    Also prints the snapshot actions that the provider supports. Returns whether all checks passed; closes the driver.
    """
    try:
        if await _check("connection", _health(driver), lambda _: "ok", print_line) is None:
            return False
        machines = await _check("machines", driver.machines(), _count, print_line)
        if machines is None:
            return False
        passed = True
        for machine in machines[:_MAX_MACHINES]:
            if machine.unreadable is not None:
                print_line(f"machine {machine.ref!r}: FAILED: {machine.unreadable}")
                passed = False
                continue
            if machine.problem is not None:
                print_line(f"machine {machine.ref!r}: read in part: {printable(machine.problem)}")
            name = f"snapshots of {machine.name!r}"
            reported = await _check(name, driver.snapshots(machine.ref), _count_snapshots, print_line)
            passed = passed and reported is not None
        for kind, power in sorted({(machine.kind, machine.power_state) for machine in machines}):
            _print_capabilities(driver, kind, power, print_line)
        return passed
    finally:
        await driver.close()


async def _health(driver: Driver) -> bool:
    await driver.health()
    return True


async def _check(
    name: str, request: Awaitable[T], describe: Callable[[T], str], print_line: Callable[[str], None]
) -> T | None:
    """Awaits the request and prints the result. Returns None when it failed."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            result = await request
    except TimeoutError:
        print_line(f"{name}: FAILED: The provider did not answer within {_TIMEOUT:g} seconds.")
    except ProviderError as error:
        details = f" ({printable(error.provider_message)})" if error.provider_message else ""
        print_line(f"{name}: FAILED: {error.message}{details}")
    else:
        print_line(f"{name}: {describe(result)}")
        return result
    return None


def _count(machines: Sequence[ReportedMachine]) -> str:
    states = Counter(f"{machine.kind.value.lower()} {machine.power_state.value.lower()}" for machine in machines)
    each = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return f"{len(machines)}" + (f" ({each})" if each else "")


def _count_snapshots(found: ReportedSnapshots) -> str:
    return f"{len(found.snapshots)}" + (f" (read in part: {printable(found.problem)})" if found.problem else "")


def _print_capabilities(
    driver: Driver, kind: MachineKind, power: PowerState, print_line: Callable[[str], None]
) -> None:
    for action in SnapshotAction:
        if action is SnapshotAction.READ:
            continue  # every driver supports it
        name = action.lower().replace("_", " ")
        reason = driver.matrix(kind).unsupported_reason(action, power)
        print_line(f"{_NOUNS[kind]} that are {power.value}: {name}: {'yes' if reason is None else f'no. {reason}'}")
