"""Implements `gateway import FILE`: imports ManageIQ's Vms, Instances and snapshots, the whole file or nothing.

Runs in a process of its own, while gateways may be serving. It reads the whole file into temporary tables and checks
it first, and locks out other writers only for the merge.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from gateway.access.origin import os_user
from gateway.columns import now
from gateway.inventory.counts import ImportProgress, MergeCounts
from gateway.inventory.imports import manageiq
from gateway.inventory.imports.checks import check_staged
from gateway.inventory.imports.merge import merge
from gateway.inventory.imports.records import ImportRecord, ImportRefused, records
from gateway.inventory.imports.staging import ImportSession, StagedRow, open_session

_BATCH = 5_000  # rows per insert into a staging table
_REPORT_INTERVAL = 1.0  # seconds between progress reports
_UNEXPANDED = {"href", "id"}  # the only attributes of a machine when the collection was requested without `expand`


def import_file(
    url: str,
    path: Path,
    *,
    tenant: str,
    provider: str = "manageiq",
    report: Callable[[ImportProgress], None] = lambda progress: None,
) -> MergeCounts:
    """Imports the file into the migrated database at `url`. Blocks. May be repeated, and run while a gateway serves.

    The machines belong to `provider`, which has no driver. Snapshots that are missing from the list of an imported
    machine are removed. Machines that are not in the file, and machines that a driver manages, are not changed.

    Raises ImportRefused, with nothing written, when the file is invalid or an id belongs to another machine or
    snapshot, and StartupError when the database cannot be used.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ImportRefused(str(path), f"The file cannot be opened: {error.strerror or error}.") from None
    try:
        with file, open_session(url) as session:
            stager = _Stager(session, file, path.stat().st_size, report)
            stager.run()
            check_staged(session)
            report(stager.progress(merging=True))
            return merge(session, tenant=tenant, provider=provider, user=os_user(), now=now())
    except ImportRefused as refused:
        where = f"{path.name}: {refused.position}" if refused.position else path.name
        raise ImportRefused(where, refused.reason) from None


class _Stager:
    """Reads a file into the staging tables, in batches."""

    def __init__(
        self, session: ImportSession, file: IO[bytes], size: int, report: Callable[[ImportProgress], None]
    ) -> None:
        self._session = session
        self._file = file
        self._size = size
        self._report = report
        self._machines = 0
        self._snapshots = 0
        self._pending: dict[str, list[StagedRow]] = {"staged_machine": [], "staged_snapshot": []}

    def progress(self, *, merging: bool = False) -> ImportProgress:
        return ImportProgress(self._file.tell(), self._size, self._machines, self._snapshots, merging)

    def run(self) -> None:
        """Stages all records. Raises ImportRefused for the first invalid one."""
        reported = time.monotonic()
        for record in self._records():
            try:
                table = self._stage(record)
            except ValueError as error:
                place = "" if record.snapshot is None else f".snapshots[{record.snapshot}]"
                raise ImportRefused(record.position + place, str(error)) from None
            if len(self._pending[table]) >= _BATCH:
                self._flush(table)
                if time.monotonic() - reported >= _REPORT_INTERVAL:
                    reported = time.monotonic()
                    self._report(self.progress())
        for table in self._pending:
            self._flush(table)

    def _records(self) -> Iterator[ImportRecord]:
        """The records of the file. Gives a JSON error the position after the last complete machine."""
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

    def _stage(self, record: ImportRecord) -> str:
        """Adds the record to the pending rows and returns the name of its table. Raises ValueError if it is invalid."""
        if record.snapshot is not None:
            self._snapshots += 1
            row = (self._machines, record.snapshot, *manageiq.snapshot(record.attributes))
            self._pending["staged_snapshot"].append(row)
            return "staged_snapshot"
        if not record.listed and "href" in record.attributes and record.attributes.keys() <= _UNEXPANDED:
            raise ValueError(
                "The machine has no attributes. Request the collection from ManageIQ with expand=resources,snapshots."
            )
        machine = manageiq.machine(record.attributes, record.collection)
        self._pending["staged_machine"].append((self._machines, record.position, record.listed, *machine))
        self._machines += 1
        return "staged_machine"

    def _flush(self, table: str) -> None:
        if self._pending[table]:
            self._session.append(table, self._pending[table])
            self._pending[table].clear()
