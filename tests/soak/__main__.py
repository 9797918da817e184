"""`python -m tests.soak`: the long proofs, one after the other, with what they measured. Exit code 1 when one fails."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.crash.table import fill_all
from tests.crash.world import home
from tests.databases import KINDS, Databases
from tests.soak.asking import percentile
from tests.soak.deleting import delete
from tests.soak.endurance import endure
from tests.soak.overload import overload
from tests.soak.running import Plan, play
from tests.soak.subscribers import follow

_MAY_GROW = 3.0  # MiB in a third of the time: what the allocator scatters


@dataclass(frozen=True, slots=True)
class Size:
    """How long, and how many."""

    stride: int
    seconds: float
    seconds_sqlite: float
    subscriptions: int
    operations: int
    overload: float
    snapshots: int
    endurance: float


FULL = Size(1, 600, 120, 1_000, 200, 300, 20_000, 3_600)
QUICK = Size(20, 20, 10, 200, 40, 15, 2_000, 60)


class Failed(Exception):
    """Something that was promised is not so."""


def crashes(databases: Databases, size: Size) -> None:
    """Every fault at every step of every operation."""
    fill_all(databases, print, size.stride)


def history(databases: Databases, size: Size) -> None:
    """Gateways that are killed, frozen and cut off, and what clients saw of it."""
    seed = int(time.time())
    plans = {
        "postgresql": Plan(gateways=4, clients=32, machines=8, seconds=size.seconds, seed=seed),
        "sqlite": Plan(gateways=2, clients=8, machines=4, seconds=size.seconds_sqlite, seed=seed),
    }
    for kind, plan in plans.items():
        with home(kind, databases) as place:
            _, found = play(place, plan, print)
        if found:
            raise Failed("\n".join(found[:50]))


def subscriptions(databases: Databases, size: Size) -> None:
    """Each subscriber sees every end."""
    with home("postgresql", databases) as place:
        seen = follow(place, size.subscriptions, size.operations, print)
    first, second = seen.memory["after round 1"], seen.memory["after round 2"]
    _require(seen.missing == 0, "somebody missed an end")
    _require(all(b < a * 1.1 + 5 for a, b in zip(first, second, strict=True)), "memory grows with every round")


def load(databases: Databases, size: Size) -> None:
    """Twice as much as can be served: the rest is refused at once, what is accepted is answered in time."""
    for kind in KINDS:
        with home(kind, databases) as place:
            found = overload(place, size.overload, print)
        longest = 1_000 * place.rows.settings.longest_wait
        refused = [latency for status, some in found.twice.by_status.items() if status != 200 for latency in some]
        _require(not found.twice.lost, "requests got no answer")
        _require(percentile(refused, 50) < longest / 10, "refusals are slow")
        _require(percentile(found.twice.by_status[200], 99) < 4 * longest, "what is accepted is answered too late")
        _require(1_000 * found.first_after < longest, "it does not recover at once")
        _require(found.twice.without_retry_after == 0, "a refusal that does not say when to come again")
        _require(set(found.twice.by_status) <= {200, 429, 503}, "answers that were not expected")


def deletes(databases: Databases, size: Size) -> None:
    """Reads stay quick, and the whole ends within twice what the engine's own rate allows."""
    results = {}
    for kind in KINDS:
        with home(kind, databases) as place:
            results[kind] = delete(place, size.snapshots, print)
    for kind, found in results.items():
        _require(found.left == 0, f"{kind}: snapshots were left")
        _require(found.rate * 2 >= found.engine_rate, f"{kind}: deletes beside readers take more than twice as long")
        _require(found.busy[0] <= 2 * found.quiet[0], f"{kind}: reads take more than twice as long")


def memory(databases: Databases, size: Size) -> None:
    """It stays as large as it is, on both databases at the same time."""
    with ExitStack() as stack:
        homes = [stack.enter_context(home(kind, databases)) for kind in KINDS]
        for kind, grown in endure(homes, size.endurance, print).items():
            _require(grown <= _MAY_GROW, f"{kind}: grew by {grown:.1f} MiB")


PROOFS: dict[str, Callable[[Databases, Size], None]] = {
    proof.__name__: proof for proof in (crashes, history, subscriptions, load, deletes, memory)
}


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("proof", nargs="*", help=f"some of {', '.join(PROOFS)}; all of them by default")
    parser.add_argument("--quick", action="store_true", help="small and short")
    given = parser.parse_args()
    if unknown := set(given.proof) - PROOFS.keys():
        parser.error(f"there is no proof {', '.join(sorted(unknown))}")
    failed = []
    with tempfile.TemporaryDirectory(prefix="gateway-soak-") as folder:
        databases = Databases(Path(folder))
        for name in given.proof or PROOFS:
            begun = time.monotonic()
            print(f"== {name}: {PROOFS[name].__doc__}")
            try:
                PROOFS[name](databases, QUICK if given.quick else FULL)
            except (Failed, AssertionError) as error:
                failed.append(name)
                print(f"FAILED: {error}")
            print(f"  {time.monotonic() - begun:.0f} s\n")
        databases.close()
    print(f"failed: {', '.join(failed)}" if failed else "all as promised")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
