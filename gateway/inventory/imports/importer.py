"""Implements `gateway import FILE…`: imports ManageIQ's Vms, Instances and snapshots from the responses of its API.

Runs in a process of its own, while gateways may be serving. It reads all files into temporary tables and checks them
first, and locks out other writers only for the merge. An odd record costs itself: it is left out and reported. A file
that is not understood refuses the whole import.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.access.origin import os_user
from gateway.columns import now
from gateway.inventory.counts import ImportProgress, MergeCounts
from gateway.inventory.imports import manageiq
from gateway.inventory.imports.checks import (
    check_staged,
    missing_machines,
    remove_snapshots_without_machine,
    snapshot_position,
)
from gateway.inventory.imports.dump_file import DumpFile
from gateway.inventory.imports.merge import merge
from gateway.inventory.imports.problems import Consequence, ImportRefused, Problems
from gateway.inventory.imports.records import ImportedPage, ImportRecord, records
from gateway.inventory.imports.staging import ImportSession, StagedRow, open_session

_BATCH = 5_000  # rows per insert into a staging table
_REPORT_INTERVAL = 1.0  # seconds between progress reports
_UNEXPANDED = {"href", "id", "snapshots"}  # the only attributes of a resource that was requested without `expand`


@dataclass(slots=True)
class ImportResult(MergeCounts):
    """The numbers of rows that an import changed, and what it left out or changed in the files."""

    problems: Problems = field(default_factory=Problems)

    def __str__(self) -> str:
        return MergeCounts.__str__(self)


def import_files(
    url: str,
    paths: Sequence[Path],
    *,
    tenant: str,
    provider: str = "manageiq",
    report: Callable[[ImportProgress], None] = lambda progress: None,
) -> ImportResult:
    """Imports the files into the migrated database at `url`. Blocks. May be repeated, and run while a gateway serves.

    The machines belong to `provider`, which has no driver. Snapshots that are missing from the complete list of an
    imported machine are removed. Machines that are not in the files, and machines that a driver manages, are not
    changed. Invalid records are left out, see `ImportResult.problems`.

    Raises ImportRefused, with nothing written, when a file is not understood or no machine is valid, and StartupError
    when the database cannot be used.
    """
    size = sum(map(_file_size, paths))
    names = [path.name for path in paths]
    labels = names if len(set(names)) == len(names) else list(map(str, paths))
    problems = Problems()
    with open_session(url) as session:
        stager = _Stager(session, problems, size, report)
        for path, label in zip(paths, labels, strict=True):
            stager.stage_file(path, label)
        stager.finish()
        check_staged(session, problems)
        report(stager.progress(merging=True))
        counts = merge(session, problems, tenant=tenant, provider=provider, user=os_user(), now=now())
        return ImportResult(counts.machines, counts.snapshots, problems)


class _Stager:
    """Reads files into the staging tables, in batches."""

    def __init__(
        self, session: ImportSession, problems: Problems, size: int, report: Callable[[ImportProgress], None]
    ) -> None:
        self._session = session
        self._problems = problems
        self._size = size
        self._report = report
        self._reported = time.monotonic()
        self._bytes = 0  # of the files that have been read
        self._machine = 0  # number of the machine that is being read
        self._machine_snapshots = 0  # snapshots of it, and whether all of them are valid
        self._machine_valid = True
        self._snapshots = 0
        self._left_out: Counter[str | None] = Counter()  # invalid machines by collection
        self._pages: dict[str | None, tuple[str, int]] = {}  # by collection: the first file, and the total of machines
        self._pending: dict[str, list[StagedRow]] = {"staged_machine": [], "staged_snapshot": []}

    def progress(self, bytes_read: int = 0, *, merging: bool = False) -> ImportProgress:
        return ImportProgress(self._bytes + bytes_read, self._size, self._machine, self._snapshots, merging)

    def stage_file(self, path: Path, label: str) -> None:
        """Stages the valid records of a file. Raises ImportRefused when the file is not understood."""
        try:
            file = path.open("rb")
        except OSError as error:
            raise _unreadable(path, error) from None
        try:
            with file:
                dump = DumpFile(file)
                for record in _records(dump):
                    self._stage(record, label)
                    self._flush_full(dump)
                self._bytes += dump.bytes_read
        except ImportRefused as refused:
            where = f"{label}: {refused.position}" if refused.position else label
            raise ImportRefused(where, refused.reason) from None

    def finish(self) -> None:
        """Stages what is pending, and reports the machines that are missing from the pages of their collection."""
        for table in self._pending:
            self._flush(table)
        if self._left_out:
            self._problems.snapshots_of_machines += remove_snapshots_without_machine(self._session)
        for collection, (label, total) in self._pages.items():
            left_out = self._left_out[collection]
            if missing := missing_machines(self._session, collection, total, left_out):
                reason = (
                    f"The files contain {total - missing:,} of the {total:,} machines of the collection."
                    " Request its other pages too, with limit and offset."
                )
                self._problems.add(label, reason, Consequence.INCOMPLETE)

    def _stage(self, record: ImportRecord | ImportedPage, label: str) -> None:
        if isinstance(record, ImportedPage):
            if record.total is not None:
                first, total = self._pages.get(record.collection, (label, 0))
                self._pages[record.collection] = (first, max(total, record.total))
        elif record.snapshot is not None:
            self._stage_snapshot(record, record.snapshot, label)
        else:
            self._stage_machine(record, label)
            self._machine += 1
            self._machine_snapshots, self._machine_valid = 0, True

    def _stage_snapshot(self, record: ImportRecord, place: int, label: str) -> None:
        if _is_reference(record.attributes):
            raise _unexpanded(snapshot_position(record.position, place), "snapshot")
        self._machine_snapshots += 1
        self._snapshots += 1
        try:
            row = (self._machine, place, *manageiq.snapshot(record.valid_attributes()))
        except ValueError as error:
            position = snapshot_position(f"{label}: {record.position}", place)
            self._problems.add(position, str(error), Consequence.SNAPSHOT)
            self._machine_valid = False
        else:
            self._pending["staged_snapshot"].append(row)

    def _stage_machine(self, record: ImportRecord, label: str) -> None:
        if not record.listed and _is_reference(record.attributes):
            raise _unexpanded(record.position, "machine")
        position = f"{label}: {record.position}"
        try:
            machine = manageiq.machine(record.valid_attributes(), record.collection)
        except ValueError as error:
            self._problems.add(position, str(error), Consequence.MACHINE)
            self._left_out[record.collection] += 1
            return
        complete = record.listed and self._machine_valid
        total = record.attributes.get("v_total_snapshots")
        if record.listed and isinstance(total, int) and total > self._machine_snapshots:
            reason = f"The list has {self._machine_snapshots:,} of the machine's {total:,} snapshots."
            self._problems.add(position, reason, Consequence.INCOMPLETE)
            complete = False
        self._pending["staged_machine"].append((self._machine, position, record.collection, complete, *machine))

    def _flush_full(self, dump: DumpFile) -> None:
        for table, rows in self._pending.items():
            if len(rows) >= _BATCH:
                self._flush(table)
                if time.monotonic() - self._reported >= _REPORT_INTERVAL:
                    self._reported = time.monotonic()
                    self._report(self.progress(dump.bytes_read))

    def _flush(self, table: str) -> None:
        if self._pending[table]:
            self._session.append(table, self._pending[table])
            self._pending[table].clear()


def _records(dump: DumpFile) -> Iterator[ImportRecord | ImportedPage]:
    """The records of a file. Gives a JSON error the position after the last complete machine."""
    last = ""
    try:
        for record in records(dump):
            yield record
            if isinstance(record, ImportRecord) and record.snapshot is None:
                last = record.position
    except ImportRefused as refused:
        if refused.position or not last:
            raise
        raise ImportRefused(f"after {last}", refused.reason) from None


def _is_reference(attributes: Mapping[str, object]) -> bool:
    """Whether a resource is only a link. All others of the response are too, so the file is refused."""
    return "href" in attributes and attributes.keys() <= _UNEXPANDED


def _unexpanded(position: str, noun: str) -> ImportRefused:
    reason = f"The {noun} has no attributes. Request the collection from ManageIQ with expand=resources,snapshots."
    return ImportRefused(position, reason)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ImportRefused:
    return ImportRefused(str(path), f"The file cannot be opened: {error.strerror or error}.")
