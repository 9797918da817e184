"""Prints a table of what the gateway does about hostile providers. Exits with 1 if it does what it must not.

Usage: python -m tests.drivers.hostile [--kind KIND] [--attack TEXT]
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.databases import Databases
from tests.drivers.hostile.kinds import KINDS
from tests.drivers.hostile.rows import rows

_TIMEOUT = 1.0  # seconds, of the drivers
_HEAD = f"{'provider':<16} {'attack':<52} {'s':>5} {'MB':>5} {'loop ms':>7}  result"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, help="print this kind of provider alone")
    parser.add_argument("--attack", default="", help="print the attacks whose name contains this text alone")
    given = parser.parse_args()
    failed = False
    print(_HEAD)
    for name in [given.kind] if given.kind else KINDS:
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place)
            url = Databases(directory).new("sqlite")
            with KINDS[name](name, directory, _TIMEOUT) as kind:
                for row in rows(kind, url, lambda attack: given.attack in attack):
                    measured = f"{row.seconds:5.1f} {row.growth / 2**20:5.0f} {row.blocked * 1_000:7.0f}"
                    faults = "".join(f"  FAULT: {fault}" for fault in row.faults)
                    print(f"{row.kind:<16} {row.attack:<52} {measured}  {row.result[:150]}{faults}", flush=True)
                    failed = failed or bool(row.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
