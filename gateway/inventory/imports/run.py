"""`gateway import FILE`: ManageIQ's Vms, Instances and snapshots into the inventory, whole or not at all.

For a process of its own, beside a serving gateway or not: it reads and checks the whole file into temporary tables
first, and only then keeps writers out for one short merge.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from gateway.access.origin import account
from gateway.columns import now
from gateway.inventory.counts import Counts, Progress
from gateway.inventory.imports import manageiq
from gateway.inventory.imports.checks import check_staged
from gateway.inventory.imports.merge import merge
from gateway.inventory.imports.records import ImportRefused, Record, records
from gateway.inventory.imports.staging import Session, open_session

_BATCH = 5_000  # rows handed to the database at once
_EVERY = 1.0  # seconds between reports
_UNEXPANDED = {"href", "id"}  # all that a machine has when the collection was not expanded


def import_file(
    url: str,
    path: Path,
    *,
    tenant: str,
    provider: str = "manageiq",
    report: Callable[[Progress], None] = lambda progress: None,
) -> Counts:
    """Imports the file into the migrated database behind `url`. Blocks; may be run again, and beside a gateway.

    Machines get `provider`, which has no driver. What vanished from an imported machine's list of snapshots is
    removed; machines that are not in the file, and those that a driver manages, stay as they are.

    Raises ImportRefused when the file is not good or a number is taken, with nothing written, and StartupError when
    the database cannot be used.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ImportRefused(str(path), (error.strerror or "cannot be read").lower()) from None
    try:
        with file, open_session(url) as session:
            reading = _Reading(session, file, path.stat().st_size, report)
            reading.run()
            check_staged(session)
            report(reading.progress(merging=True))
            return merge(session, tenant=tenant, provider=provider, user=account(), now=now())
    except ImportRefused as refused:
        where = f"{path.name}: {refused.position}" if refused.position else path.name
        raise ImportRefused(where, refused.reason) from None


class _Reading:
    """Stages a file, in batches."""

    def __init__(self, session: Session, file: IO[bytes], size: int, report: Callable[[Progress], None]) -> None:
        self._session = session
        self._file = file
        self._size = size
        self._report = report
        self._machines = 0
        self._snapshots = 0
        self._pending: dict[str, list[tuple[Any, ...]]] = {"staged_machine": [], "staged_snapshot": []}

    def progress(self, *, merging: bool = False) -> Progress:
        return Progress(self._file.tell(), self._size, self._machines, self._snapshots, merging)

    def run(self) -> None:
        """Raises ImportRefused for the first record that is not good."""
        reported = time.monotonic()
        for record in self._positioned():
            try:
                table = self._stage(record)
            except ValueError as error:
                place = "" if record.snapshot is None else f".snapshots[{record.snapshot}]"
                raise ImportRefused(record.position + place, str(error)) from None
            if len(self._pending[table]) >= _BATCH:
                self._flush(table)
                if time.monotonic() - reported >= _EVERY:
                    reported = time.monotonic()
                    self._report(self.progress())
        for table in self._pending:
            self._flush(table)

    def _positioned(self) -> Iterator[Record]:
        """The records; broken JSON is said to come after the last whole machine."""
        last = ""
        try:
            for record in records(self._file):
                yield record
                if record.snapshot is None:
                    last = record.position
        except ImportRefused as refused:
            if refused.position or not last:
                raise
            raise ImportRefused(f"after {last}", refused.reason) from None

    def _stage(self, record: Record) -> str:
        """Raises ValueError."""
        if record.snapshot is not None:
            self._snapshots += 1
            row = (self._machines, record.snapshot, *manageiq.snapshot(record.attributes))
            self._pending["staged_snapshot"].append(row)
            return "staged_snapshot"
        if not record.listed and "href" in record.attributes and record.attributes.keys() <= _UNEXPANDED:
            raise ValueError("is only a reference: ask ManageIQ with expand=resources,snapshots")
        machine = manageiq.machine(record.attributes, record.collection)
        self._pending["staged_machine"].append((self._machines, record.position, record.listed, *machine))
        self._machines += 1
        return "staged_machine"

    def _flush(self, table: str) -> None:
        if self._pending[table]:
            self._session.fill(table, self._pending[table])
            self._pending[table].clear()
