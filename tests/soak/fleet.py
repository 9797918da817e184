"""Several gateways on one database, and injected faults: kills, freezes, cut connections, provider failures."""

import asyncio
import random
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson

from gateway.config import Settings
from tests.crash.world import Home
from tests.forked_gateway import Prepare, restarted
from tests.tcp_relay import TcpRelay

LEASE = 2.0
_PROVIDER_FAULTS = ("refuse", "unavailable", "busy", "lost")


class Member:
    """One gateway, which is replaced when it is killed. On PostgreSQL it connects through its own TCP relay."""

    def __init__(self, settings: Settings, home: Home, prepare: Prepare | None, log: Path | None) -> None:
        self._relay = TcpRelay(home.server.port) if home.server else None
        if self._relay:
            settings = replace(settings, database_url=self._relay.url("world"))
        self._arguments = (settings, prepare, log)
        self._gateway = restarted(*self._arguments)

    @property
    def url(self) -> str:
        return self._gateway.url

    @property
    def pid(self) -> int:
        return self._gateway.pid

    def kill(self) -> None:
        """Kills the gateway and starts another one."""
        self._gateway.kill()
        self._gateway = restarted(*self._arguments)

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
    """`size` gateways. `prepare` is called in the process of each."""

    def __init__(self, home: Home, size: int, *, prepare: Prepare | None = None, logs: Path | None = None) -> None:
        settings = replace(home.rows.settings, operation_lease=LEASE, write_timeout=LEASE, refresh_interval=15.0)
        files = [None if logs is None else logs / f"gateway-{number}.log" for number in range(size)]
        self.members = [Member(settings, home, prepare, log) for log in files]

    def close(self) -> None:
        for member in self.members:
            member.close()


class FaultInjector:
    """Injects random faults until it is stopped, then removes the provider faults. `injected` counts them by kind."""

    def __init__(self, fleet: Fleet, home: Home, machines: list[int], seed: int, only: str | None = None) -> None:
        self._fleet = fleet
        self._home = home
        self._machines = machines
        self._chance = random.Random(seed)
        self._only = only
        self.injected: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Injects faults until `stop`."""
        chance = self._chance
        while not stop.is_set():
            await asyncio.sleep(chance.uniform(0.2, 1.0))
            member = chance.choice(self._fleet.members)
            kinds = ["kill", "freeze", "freeze", "cut", "swallow", "provider", "provider", "slow"]
            kind = self._only or chance.choice(kinds)
            self.injected[kind] += 1
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
        await asyncio.to_thread(self._clear_faults)

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

    def _clear_faults(self) -> None:
        self._home.rows("UPDATE simulated_machine SET fault = NULL, latency_ms = 20")
