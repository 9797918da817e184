"""Prints what the gateway shows of fleets with odd machines. Exits with 1 if that is not what is expected.

Usage: python -m tests.drivers.odd_fleet [--driver NAME] [--oddity TEXT] [--size NUMBER]
"""

import argparse
import pkgutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from tests.databases import Databases
from tests.drivers import odd
from tests.drivers.odd_fleet.rows import Row, row_of_all, rows

_NAMES = sorted(module.name for module in pkgutil.iter_modules(odd.__path__))
_HEAD = f"{'driver':<10} {'oddity':<50} {'others':>7} {'gone':>4}  {'shown of the odd machine':<48} problem"


def _print(driver: str, row: Row) -> bool:
    """Prints a row. Returns whether it has faults."""
    others, gone = f"{row.listed}/{row.expected}", "yes" if row.gone_noticed else "NO"
    faults = "".join(f"  FAULT: {fault}" for fault in row.faults)
    problem = "none" if row.problem is None else row.problem
    print(f"{driver:<10} {row.oddity:<50} {others:>7} {gone:>4}  {row.shown:<48} {problem}{faults}", flush=True)
    return bool(row.faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver", choices=_NAMES, help="print the fleet of this driver alone")
    parser.add_argument("--oddity", default="", help="print the oddities whose name contains this text alone")
    parser.add_argument("--size", type=int, default=60, help="machines in the fleet")
    given = parser.parse_args()
    failed = False
    print(_HEAD)
    for name in [given.driver] if given.driver else _NAMES:
        module = import_module(f"tests.drivers.odd.{name}")
        if reason := module.lacking():
            print(f"{name:<10} cannot run here: {reason}")
            continue
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place)
            databases = Databases(directory)
            for row in rows(module, directory, databases.new("sqlite"), given.size, lambda odd: given.oddity in odd):
                failed = _print(name, row) or failed
            if not given.oddity:
                failed = _print(name, row_of_all(module, directory, databases.new("sqlite"), given.size)) or failed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
