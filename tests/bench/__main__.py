"""`python -m tests.bench`: creates the data, measures the systems, prints the tables. `--quick` takes five minutes."""

import argparse
import shlex
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from tests.bench import floor, machine, measuring, report
from tests.bench.data import FULL, QUICK, SMALL, Data, Database
from tests.bench.machine import Cores
from tests.bench.postgres import OPTIONS, Postgres
from tests.bench.processes import Failed
from tests.bench.systems import EXPERIMENTS, SYSTEMS, baseline
from tests.bench.workloads import WORKLOADS

_HERE = Path(__file__).absolute().parent

_APART = "One core for the server, one for the load and PostgreSQL."
_SHARED = "Server, load and PostgreSQL share both cores."


def main() -> int:
    given = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        _run(given)
    except Failed as failed:
        print(f"bench: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 130
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, short rounds")
    parser.add_argument("--systems", type=_names(SYSTEMS), default=list(SYSTEMS), help=", ".join(SYSTEMS))
    parser.add_argument("--workloads", type=_names(WORKLOADS), default=list(WORKLOADS), help=", ".join(WORKLOADS))
    for name, experiment in EXPERIMENTS.items():
        parser.add_argument(f"--{name}", dest="experiment", action="store_const", const=name, help=experiment.about)
    parser.add_argument("--baseline", type=Path, help="another checkout, whose gateway to compare this one with")
    parser.add_argument("--seconds", type=float, help="of each measurement (5; quick: 0.7)")
    parser.add_argument("--rounds", type=int, help="A B A B (5; quick: 2)")
    parser.add_argument("--no-floor", action="store_true", help="leave out the echo and the bare SQL")
    parser.add_argument("--cache", type=Path, default=_HERE / ".cache", help="where the data stay")
    parser.add_argument("--results", type=Path, default=_HERE / "results", help="where the tables go")
    given = parser.parse_args()
    given.systems = [SYSTEMS[name] for name in given.systems]
    if given.experiment:
        experiment = EXPERIMENTS[given.experiment]
        given.systems, given.workloads, given.no_floor = experiment.systems, experiment.workloads, True
    if given.baseline:
        gateways = [system for system in given.systems if system.gateway]
        given.systems, given.no_floor = [*gateways, *baseline(given.baseline.resolve())], True
    given.seconds = given.seconds or (0.7 if given.quick else 5.0)
    given.rounds = given.rounds or (2 if given.quick else 5)
    if not (0 < given.seconds <= 60 and 0 < given.rounds <= 20):
        parser.error("--seconds is at most 60, --rounds at most 20")
    return given


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:

    def parse(text: str) -> list[str]:
        """A member of the list may be a prefix of several names: `gateway`, `plain`."""
        wanted = [part.strip() for part in text.split(",")]
        for part in wanted:
            if part not in known and not any(name.startswith(part + "-") for name in known):
                raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(known)}")
        return [name for name in known if any(part in (name, name.rpartition("-")[0]) for part in wanted)]

    return parse


def _databases(given: argparse.Namespace, cores: Cores, stack: ExitStack) -> tuple[dict[str, Database], list[int]]:
    """The databases of the systems, created if missing, by name; and the processes of PostgreSQL."""
    wanted = {system.database for system in given.systems}
    if "sqlite-token" in wanted:
        wanted.add("sqlite")
    databases, processes = {}, []
    for ending, size in (("", QUICK if given.quick else FULL), ("-small", SMALL)):
        data = Data(given.cache, size, _say)
        kinds = {kind for kind in ("sqlite", "postgresql") if kind + ending in wanted}
        if kinds:
            data.prepare(kinds, cores)
        if "sqlite" in kinds:
            databases["sqlite" + ending] = Database(data.sqlite_url, size)
        if "postgresql" in kinds:
            server = stack.enter_context(Postgres(data.postgres, cores=cores.load))
            databases["postgresql" + ending] = Database(server.url, size)
            processes.append(server.pid)
    if "sqlite-token" in wanted:
        copy = _copy(databases["sqlite"], stack.enter_context(TemporaryDirectory(dir=given.cache)))
        databases["sqlite-token"] = databases["sqlite"]._replace(url=copy)
    return databases, processes


def _copy(database: Database, folder: str) -> str:
    """By SQLite itself: opening and closing its file by other means releases this process's locks (POSIX)."""
    copy = Path(folder, "gateway.db")
    with closing(sqlite3.connect(database.file)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    return f"sqlite:///{copy}"


def _run(given: argparse.Namespace) -> None:
    cores = Cores.find()
    heading = [f"`make bench{_argument_text()}`, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "", machine.description()]
    if cores.server == cores.load:
        _say("There is one core: server, load and PostgreSQL share it, and the figures say little.")
    logs = given.cache / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        databases, postgres = _databases(given, cores, stack)
        stack.enter_context(machine.on(cores.load))
        plan = measuring.Plan(
            systems=given.systems,
            workloads=[WORKLOADS[name] for name in given.workloads],
            databases=databases,
            tokens={system.name: system.token(databases[system.database].url) for system in given.systems},
            postgres=postgres,
            cores=cores,
            logs=logs,
            seconds=given.seconds,
            rounds=given.rounds,
            say=_say,
        )
        results = measuring.measure(plan)
        floors = {} if given.no_floor else floor.measure(plan, results)
    sizes = dict.fromkeys(str(database.size) for database in databases.values())
    placing = _SHARED if any(system.workers for system in given.systems) else _APART
    minutes = (time.monotonic() - _BEGUN) / 60
    heading += [
        f"{'; and '.join(sizes)}; {given.rounds} rounds of {given.seconds:g} s, {minutes:.0f} minutes in all.",
        f"{placing} PostgreSQL: {', '.join(OPTIONS[:2])}, else its defaults.",
    ]
    text = report.markdown(plan, results, floors, heading)
    given.results.mkdir(parents=True, exist_ok=True)
    file = given.results / f"{datetime.now(UTC):%Y%m%d-%H%M%S}{'-quick' if given.quick else ''}.md"
    file.write_text(text, encoding="utf-8")
    print("\n" + text)
    _say(f"Written to {file}")


def _argument_text() -> str:
    return f' ARGS="{shlex.join(sys.argv[1:])}"' if sys.argv[1:] else ""


_BEGUN = time.monotonic()


def _say(text: str) -> None:
    print(f"{time.monotonic() - _BEGUN:5.0f} s  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
