"""Talks to one provider as the gateway would, and tells a person what works. Changes nothing."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from gateway.drivers.base import Driver, ReportedMachine
from gateway.errors import ProviderError
from gateway.models import MachineKind, PowerState, SnapshotAction

T = TypeVar("T")

_PATIENCE = 60.0  # seconds for each question
_MACHINES = 5  # whose snapshots are read

_WORDS = {
    SnapshotAction.CREATE: "create",
    SnapshotAction.CREATE_WITH_MEMORY: "create with memory",
    SnapshotAction.REVERT: "revert",
    SnapshotAction.DELETE: "delete",
}
_NOUNS = {MachineKind.VM: "Vms", MachineKind.INSTANCE: "Instances"}


async def check_provider(driver: Driver, say: Callable[[str], None]) -> bool:
    """Whether the provider answers, and its machines and snapshots can be read; says so line by line."""
    try:
        if await _ask("answers", _health(driver), lambda _: "yes", say) is None:
            return False
        machines = await _ask("machines", driver.machines(), _count, say)
        if machines is None:
            return False
        fine = True
        for machine in machines[:_MACHINES]:
            what = f"snapshots of {machine.name!r}"
            seen = await _ask(what, driver.snapshots(machine.ref), lambda seen: str(len(seen.snapshots)), say)
            fine = fine and seen is not None
        for kind, power in sorted({(machine.kind, machine.power_state) for machine in machines}):
            _tell_capabilities(driver, kind, power, say)
        return fine
    finally:
        await driver.close()


async def _health(driver: Driver) -> bool:
    await driver.health()
    return True


async def _ask(what: str, question: Awaitable[T], words: Callable[[T], str], say: Callable[[str], None]) -> T | None:
    """The answer, or None when there is none; says which."""
    try:
        async with asyncio.timeout(_PATIENCE):
            answer = await question
    except TimeoutError:
        say(f"{what}: FAILED: no answer within {_PATIENCE:g} seconds")
    except ProviderError as error:
        own = f" ({error.provider_message})" if error.provider_message else ""
        say(f"{what}: FAILED: {error.message}{own}")
    else:
        say(f"{what}: {words(answer)}")
        return answer
    return None


def _count(machines: Sequence[ReportedMachine]) -> str:
    states = Counter(f"{machine.kind.value.lower()} {machine.power_state.value.lower()}" for machine in machines)
    each = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return f"{len(machines)}" + (f" ({each})" if each else "")


def _tell_capabilities(driver: Driver, kind: MachineKind, power: PowerState, say: Callable[[str], None]) -> None:
    for action, words in _WORDS.items():
        reason = driver.matrix(kind).reason_against(action, power)
        say(f"{_NOUNS[kind]} that are {power.value}: {words}: {'yes' if reason is None else f'no, {reason}'}")
