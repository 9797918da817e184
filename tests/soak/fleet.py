"""Several gateways on one database, and what befalls them: kills, freezes, cut connections, a provider that fails."""

import asyncio
import random
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson

from gateway.config import Settings
from tests.crash.world import Home
from tests.cutting import Relay
from tests.forked import Forked, Prepare

LEASE = 2.0
_PROVIDER_FAULTS = ("refuse", "unavailable", "busy", "lost")


class Member:
    """A place for one gateway: when it is killed another takes it. On PostgreSQL it has a relay of its own."""

    def __init__(self, settings: Settings, home: Home, prepare: Prepare | None, log: Path | None) -> None:
        self._relay = Relay(home.server.port) if home.server else None
        if self._relay:
            settings = replace(settings, database_url=self._relay.url("world"))
        self._made = (settings, prepare, log)
        self._gateway = Forked(*self._made)

    @property
    def url(self) -> str:
        return self._gateway.url

    @property
    def pid(self) -> int:
        return self._gateway.pid

    def kill(self) -> None:
        """And starts another."""
        self._gateway.kill()
        self._gateway = Forked(*self._made)

    def signal(self, number: signal.Signals) -> None:
        self._gateway.signal(number)

    def cut(self, *, swallow: bool) -> None:
        if self._relay is not None:
            (self._relay.swallow if swallow else self._relay.cut)()

    def close(self) -> None:
        self._gateway.kill()
        if self._relay is not None:
            self._relay.close()


class Fleet:
    """So many members. `prepare` is done in each of them."""

    def __init__(self, home: Home, size: int, *, prepare: Prepare | None = None, logs: Path | None = None) -> None:
        settings = replace(home.rows.settings, operation_lease=LEASE, write_timeout=LEASE, refresh_interval=15.0)
        places = [None if logs is None else logs / f"gateway-{number}.log" for number in range(size)]
        self.members = [Member(settings, home, prepare, log) for log in places]

    def close(self) -> None:
        for member in self.members:
            member.close()


class Misfortune:
    """Does harm until it is told to stop, and then takes it all back. `done` counts what it did."""

    def __init__(self, fleet: Fleet, home: Home, machines: list[int], seed: int, only: str | None = None) -> None:
        self._fleet = fleet
        self._home = home
        self._machines = machines
        self._chance = random.Random(seed)
        self._only = only
        self.done: Counter[str] = Counter()

    async def strike(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        chance = self._chance
        while not stop.is_set():
            await asyncio.sleep(chance.uniform(0.2, 1.0))
            member = chance.choice(self._fleet.members)
            kinds = ["kill", "freeze", "freeze", "cut", "swallow", "provider", "provider", "slow"]
            kind = self._only or chance.choice(kinds)
            self.done[kind] += 1
            match kind:
                case "kill":
                    await asyncio.to_thread(member.kill)
                case "freeze":
                    member.signal(signal.SIGSTOP)
                    await asyncio.sleep(LEASE * chance.uniform(0.5, 2.0))
                    member.signal(signal.SIGCONT)
                case "cut" | "swallow":
                    await asyncio.to_thread(member.cut, swallow=kind == "swallow")
                case "provider":
                    await asyncio.to_thread(self._set_fault, chance.choice(self._machines))
                case "slow":
                    await asyncio.to_thread(self._set_latency, chance.choice(self._machines))
        await asyncio.to_thread(self._relent)

    def _set_fault(self, machine: int) -> None:
        fault = {"on": "any", "kind": self._chance.choice(_PROVIDER_FAULTS), "times": self._chance.randint(1, 2)}
        self._home.rows(
            f"UPDATE simulated_machine SET fault = '{orjson.dumps(fault).decode()}'"
            f" WHERE ref = (SELECT provider_ref FROM machine WHERE id = {machine})"
        )

    def _set_latency(self, machine: int) -> None:
        self._home.rows(
            f"UPDATE simulated_machine SET latency_ms = {self._chance.choice((0, 20, 100, 500, 2_500))}"
            f" WHERE ref = (SELECT provider_ref FROM machine WHERE id = {machine})"
        )

    def _relent(self) -> None:
        self._home.rows("UPDATE simulated_machine SET fault = NULL, latency_ms = 20")
