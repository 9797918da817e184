"""Runs the long tests one after the other and prints what they measured. Exits with 1 when a test fails."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tests.crash.table import run_table
from tests.crash.world import home
from tests.databases import KINDS, Databases
from tests.soak.attacks.catalog import ATTACKS
from tests.soak.attacks.run import AttackPlan, run_attacks
from tests.soak.bulk_delete import run_bulk_delete
from tests.soak.endurance import run_endurance
from tests.soak.history_run import RunPlan, run_history
from tests.soak.job_runs import failures, random_faults, run_jobs
from tests.soak.overload import run_overload
from tests.soak.raw_client import percentile
from tests.soak.subscribers import run_subscribers

_MAX_GROWTH = 3.0  # MiB in a third of the time, for fragmentation of the allocator


@dataclass(frozen=True, slots=True)
class Size:
    """The sizes of all tests. Durations are in seconds."""

    stride: int
    seconds: float
    seconds_sqlite: float
    subscriptions: int
    operations: int
    overload: float
    snapshots: int
    endurance: float
    jobs: float
    attacks: AttackPlan


FULL = Size(1, 600, 120, 1_000, 200, 300, 20_000, 3_600, 600, AttackPlan())
QUICK = Size(20, 20, 10, 200, 40, 15, 2_000, 60, 30, AttackPlan.short())


class Failed(Exception):
    """A requirement is not met."""


def crashes(databases: Databases, size: Size) -> None:
    """Injects every fault at every step of every operation."""
    run_table(databases, print, size.stride)


def history(databases: Databases, size: Size) -> None:
    """Kills, freezes and disconnects gateways, and checks what clients observed against a model."""
    seed = int(time.time())
    plans = {
        "postgresql": RunPlan(gateways=4, clients=32, machines=8, seconds=size.seconds, seed=seed),
        "sqlite": RunPlan(gateways=2, clients=8, machines=4, seconds=size.seconds_sqlite, seed=seed),
    }
    for kind, plan in plans.items():
        with home(kind, databases) as place:
            _, violations = run_history(place, plan, print)
        if violations:
            raise Failed("\n".join(violations[:50]))


def jobs(databases: Databases, size: Size) -> None:
    """Kills and freezes four gateways on one PostgreSQL. Each cluster job runs once at a time, and in time."""
    seed = int(os.environ.get("GATEWAY_TEST_SEED", int(time.time())))
    with home("postgresql", databases) as place:
        found = failures(run_jobs(place, random_faults(size.jobs, seed), print))
    _require(not found, "\n".join(found))


def subscriptions(databases: Databases, size: Size) -> None:
    """Every subscriber receives the end of every operation."""
    with home("postgresql", databases) as place:
        result = run_subscribers(place, size.subscriptions, size.operations, print)
    first, second = result.memory["after round 1"], result.memory["after round 2"]
    _require(result.missing == 0, "a subscriber missed the end of an operation")
    _require(all(b < a * 1.1 + 5 for a, b in zip(first, second, strict=True)), "memory grows with every round")


def load(databases: Databases, size: Size) -> None:
    """Sends twice the load that can be served. The excess is rejected immediately and the rest answered in time."""
    for kind in KINDS:
        with home(kind, databases) as place:
            result = run_overload(place, size.overload, print)
        longest = 1_000 * place.rows.settings.longest_wait
        refused = [latency for status, some in result.twice.by_status.items() if status != 200 for latency in some]
        _require(not result.twice.lost, "requests got no response")
        _require(percentile(refused, 50) < longest / 10, "rejections are slow")
        _require(percentile(result.twice.by_status[200], 99) < 4 * longest, "accepted requests are answered too late")
        _require(1_000 * result.first_after < longest, "the gateway does not recover immediately")
        _require(result.twice.without_retry_after == 0, "a rejection has no Retry-After header")
        _require(set(result.twice.by_status) <= {200, 429, 503}, "unexpected response statuses")


def attacks(databases: Databases, size: Size) -> None:
    """Attacks gateways, mostly as a viewer. Other callers are answered, health checks in time, memory is bounded."""
    with tempfile.TemporaryDirectory(prefix="gateway-attacks-") as folder:
        results = run_attacks(databases, size.attacks, Path(folder), print)
    _require(not (broken := [failure for result in results for failure in result.broken()]), "\n".join(broken))


def deletes(databases: Databases, size: Size) -> None:
    """Deletes many snapshots while clients read. Reads and deletes take at most twice as long as each alone."""
    results = {}
    for kind in KINDS:
        with home(kind, databases) as place:
            results[kind] = run_bulk_delete(place, size.snapshots, print)
    for kind, result in results.items():
        _require(result.left == 0, f"{kind}: not all snapshots were deleted")
        _require(result.rate * 2 >= result.rate_alone, f"{kind}: deletes take more than twice as long during reads")
        _require(result.busy[0] <= 2 * result.quiet[0], f"{kind}: reads take more than twice as long during deletes")


def memory(databases: Databases, size: Size) -> None:
    """The memory of gateways does not grow, on both databases at the same time."""
    with ExitStack() as stack:
        homes = [stack.enter_context(home(kind, databases)) for kind in KINDS]
        for kind, growth in run_endurance(homes, size.endurance, print).items():
            _require(growth <= _MAX_GROWTH, f"{kind}: memory grew by {growth:.1f} MiB")


TESTS: dict[str, Callable[[Databases, Size], None]] = {
    test.__name__: test for test in (crashes, history, jobs, subscriptions, load, attacks, deletes, memory)
}


def _require(condition: bool, failure: str) -> None:
    if not condition:
        raise Failed(failure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("test", nargs="*", help=f"the tests to run: {', '.join(TESTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="use small sizes and short durations")
    of_attacks = parser.add_argument_group("of the test `attacks`")
    of_attacks.add_argument("--only", action="append", choices=ATTACKS, help="run this attack; can be repeated")
    of_attacks.add_argument("--checkout", type=Path, help="attack the gateway of this checkout first, to compare")
    of_attacks.add_argument("--snapshots", type=int, help="snapshots in the inventory; default: 100,000")
    arguments = parser.parse_args()
    if unknown := set(arguments.test) - TESTS.keys():
        parser.error(f"unknown test: {', '.join(sorted(unknown))}")
    size = QUICK if arguments.quick else FULL
    plan = replace(
        size.attacks,
        names=arguments.only or size.attacks.names,
        snapshots=arguments.snapshots or size.attacks.snapshots,
        before=arguments.checkout,
    )
    size = replace(size, attacks=plan)
    failed = []
    with tempfile.TemporaryDirectory(prefix="gateway-soak-") as folder:
        databases = Databases(Path(folder))
        for name in arguments.test or TESTS:
            started = time.monotonic()
            print(f"== {name}: {TESTS[name].__doc__}")
            try:
                TESTS[name](databases, size)
            except (Failed, AssertionError) as error:
                failed.append(name)
                print(f"FAILED: {error}")
            print(f"  {time.monotonic() - started:.0f} s\n")
        databases.close()
    print(f"failed: {', '.join(failed)}" if failed else "all tests passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
