"""Runs each attack against a gateway of its own, and prints what the attacker got and what others noticed.

A measurement has four processes beside the database: the gateway as shipped (`gateway serve` with default settings, one
process), the attacker, the victims (50 requests per second at fixed times; see `victims`), and this one, which probes
`/healthz`, `/readyz`, `/metrics` and the memory of the gateway. All share the monotonic clock and a schedule: a second
of warm-up, a quiet time, the attack, and a second after it, which counts as part of the attack. The attacker has a low
priority (nice 10), so that on two cores it takes CPU time neither from the gateway nor from the victims.
"""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from tests.cli.programs import Program
from tests.databases import KINDS, Databases
from tests.limits.test_tls import write_certificate, write_key
from tests.soak.attacks.attacker import Attacker
from tests.soak.attacks.catalog import ATTACKS, LoadAttack
from tests.soak.attacks.child import Child
from tests.soak.attacks.schedule import Schedule
from tests.soak.attacks.target import HERE, ProviderEndpoint, Target, World, write_dump
from tests.soak.attacks.victims import Sample, run_victims
from tests.soak.attacks.watch import Watched, watch
from tests.soak.raw_client import percentile, raise_open_file_limit

MAX_P99 = 0.1  # seconds of the victims, or three times the quiet value
MAX_HEALTH = 0.25  # seconds
MAX_MEMORY = 600_000_000  # bytes without file mappings

_NICE = 10
_METRICS_URL = re.compile(r"http://\S+/metrics")
_BUG = re.compile(r"^500|INTERNAL_SERVER_ERROR")
_HEADER = (
    f"  {'attack':24}{'':8}{'p50':>7}{'p99':>8}{'quiet p99':>11}{'refused':>9}{'healthz':>9}{'memory':>9}"
    f"{'attacker':>10}{'gateway':>9}  what the attacker got\n"
    f"  {'':24}{'':8}{'ms':>7}{'ms':>8}{'ms':>11}{'':>9}{'ms':>9}{'MB':>9}{'CPU s':>10}{'CPU s':>9}"
)


@dataclass(frozen=True, slots=True)
class AttackPlan:
    """Which attacks run on which databases, the number of snapshots of the inventory, and durations in seconds.

    `before`: another checkout, which is attacked first.
    """

    quiet: float = 3.0
    seconds: float = 9.0
    snapshots: int = 100_000
    names: Sequence[str] = tuple(ATTACKS)
    kinds: Sequence[str] = KINDS
    before: Path | None = None

    @classmethod
    def short(cls) -> "AttackPlan":
        """A few attacks of 3 s on a small inventory."""
        names = tuple(name for name, attack in ATTACKS.items() if attack.is_short)
        return cls(quiet=1.0, seconds=3.0, snapshots=20_000, names=names)


class AttackerResult(NamedTuple):
    """What an attacker got: outcomes of requests, and bytes. `cpu`: the CPU seconds that it used."""

    got: Counter[str]
    received: int
    cpu: float


@dataclass(frozen=True, slots=True)
class AttackResult:
    """The result of one attack. Latencies of victims are in seconds."""

    attack: str
    obtained: AttackerResult
    watched: Watched
    quiet: list[float]
    latencies: list[float]
    failures: Counter[str]

    def broken(self, *, durations: bool = True) -> list[str]:
        """The requirements that are not met. `durations`: also those that need an idle host."""
        failures = Counter({"victims": self.failures.total()})
        failures += Counter({f"/{path}": probed.failures.total() for path, probed in self.watched.probes.items()})
        found = [f"{name}: {number} refused" for name, number in failures.items()]
        if bugs := sum(number for outcome, number in self.obtained.got.items() if _BUG.search(outcome)):
            found.append(f"{bugs} internal errors")
        if self.watched.memory >= MAX_MEMORY:
            found.append(f"memory {self.watched.memory / 1e6:.0f} MB")
        if durations:
            longest_p99 = max(1_000 * MAX_P99, 3 * percentile(self.quiet, 99))
            if (p99 := percentile(self.latencies, 99)) > longest_p99:
                found.append(f"p99 {p99:.0f} ms, more than {longest_p99:.0f} ms")
            found += [
                f"/{path} took {1_000 * probed.longest:.0f} ms"
                for path, probed in self.watched.probes.items()
                if probed.longest >= MAX_HEALTH and path != "readyz"  # it waits for the database
            ]
        return [f"{self.attack}: {failure}" for failure in found]

    def describe(self, label: str) -> str:
        """The row of the table."""
        healthz = 1_000 * self.watched.probes["healthz"].longest
        more = [f"{_counts(self.failures)} refused to victims"] if self.failures else []
        more += [
            f"/{path} {1_000 * probed.longest:.0f} ms {_counts(probed.failures)}".rstrip()
            for path, probed in self.watched.probes.items()
            if path != "healthz" and (probed.failures or path == "metrics")
        ]
        if percentile(self.quiet, 99) > 1_000 * MAX_P99:
            more.append("the host was busy before the attack: the latencies mean nothing")
        memory = self.watched.memory / 1e6
        got = f"{_counts(self.obtained.got) or 'nothing'}, {self.obtained.received / 1e6:.1f} MB"
        return (
            f"  {self.attack:24}{label:8}{percentile(self.latencies, 50):>7.1f}{percentile(self.latencies, 99):>8.1f}"
            f"{percentile(self.quiet, 99):>11.1f}{self.failures.total():>9}{healthz:>9.0f}{memory:>9.0f}"
            f"{self.obtained.cpu:>10.1f}{self.watched.cpu:>9.1f}  {'; '.join([got, *more])}"
        )


def run_attacks(
    databases: Databases, plan: AttackPlan, directory: Path, print_line: Callable[[str], None]
) -> list[AttackResult]:
    """Runs the attacks. Returns the results of this checkout. `directory` is for the inventory and logs."""
    dump = directory / "inventory.json"
    write_dump(dump, plan.snapshots)
    results = []
    for kind in plan.kinds:
        print_line(f"{kind}: {plan.snapshots:,} snapshots, {plan.seconds:g} s for each attack")
        checkouts = {"": HERE} if plan.before is None else {"before": plan.before.resolve(), "after": HERE}
        worlds = {label: World(databases, kind, checkout, dump) for label, checkout in checkouts.items()}
        print_line(_HEADER)
        for attack in (ATTACKS[name] for name in plan.names):
            for label, world in worlds.items():
                result = _run_attack(world, attack, plan, directory)
                print_line(result.describe(label))
                if world.checkout == HERE:
                    results.append(result)
    return results


def _run_attack(world: World, attack: LoadAttack, plan: AttackPlan, directory: Path) -> AttackResult:
    provider = ProviderEndpoint.open(directory) if attack.is_provider else None
    settings = {**attack.settings, **(provider.settings() if provider else {})}
    if attack.has_tls:
        certificate, key = directory / "gateway.pem", directory / "gateway.key"
        write_certificate(certificate, write_key(key))
        settings |= {"tls_certificate": str(certificate), "tls_key": str(key)}
    if attack.documents:
        manifest = directory / "documents.json"
        manifest.write_bytes(orjson.dumps(attack.documents))
        settings["documents_files"] = str(manifest)
    try:
        with world.serving(settings) as (program, target):
            return _measure(program, target, attack, plan, provider)
    finally:
        if provider is not None:
            provider.listening.close()


def _measure(
    program: Program, target: Target, attack: LoadAttack, plan: AttackPlan, provider: ProviderEndpoint | None
) -> AttackResult:
    urls = [f"{target.url}/healthz", f"{target.url}/readyz", *_METRICS_URL.findall(program.greeting)]
    with (
        Child[list[Sample]](run_victims, target) as victims,
        Child[AttackerResult](run_attacker, target, attack.name, provider) as attacker,
    ):
        victims.await_ready()
        attacker.await_ready()
        schedule = Schedule.from_now(plan.quiet, plan.seconds)
        victims.start(schedule)
        attacker.start(schedule)
        watched = asyncio.run(watch(schedule, urls, program.process.pid))
        samples, obtained = victims.result(), attacker.result()
    quiet = [each for each in samples if schedule.quiet_begins <= each.due < schedule.attack_begins]
    during = [each for each in samples if schedule.attack_begins <= each.due]
    return AttackResult(
        attack.name,
        obtained,
        watched,
        [each.latency for each in quiet],
        [each.latency for each in during],
        Counter(each.failure for each in (*quiet, *during) if each.failure is not None),
    )


def run_attacker(schedule: Schedule, target: Target, name: str, provider: ProviderEndpoint | None) -> AttackerResult:
    """The process of an attacker."""
    os.nice(_NICE)
    raise_open_file_limit()
    return asyncio.run(_attack(schedule, Attacker(target, schedule.attack_ends, provider), ATTACKS[name]))


async def _attack(schedule: Schedule, attacker: Attacker, attack: LoadAttack) -> AttackerResult:
    await asyncio.sleep(schedule.attack_begins - time.monotonic())
    cpu = time.process_time()
    try:
        async with asyncio.timeout_at(schedule.attack_ends):  # the clock of the event loop is the monotonic one
            await attack.run(attacker)
    except TimeoutError:
        pass
    return AttackerResult(attacker.got, attacker.received, time.process_time() - cpu)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counter.most_common())
