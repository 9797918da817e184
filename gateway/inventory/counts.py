"""The numbers of rows that an import or a refresh changed, and the progress of an import."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class RowCounts:
    """The number of rows of one table by what happened to them."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: int = 0  # managed by a driver, so an import does not change them
    left_out: int = 0  # invalid, so an import did not read them

    def __str__(self) -> str:
        parts = [f"{self.created:,} created", f"{self.updated:,} updated", f"{self.unchanged:,} unchanged"]
        if self.removed:
            parts.append(f"{self.removed:,} removed")
        if self.skipped:
            parts.append(f"{self.skipped:,} skipped (managed by a driver)")
        if self.left_out:
            parts.append(f"{self.left_out:,} left out")
        return ", ".join(parts)

    def add(self, other: "RowCounts") -> None:
        """Adds the counts of `other`."""
        self.created += other.created
        self.updated += other.updated
        self.unchanged += other.unchanged
        self.removed += other.removed
        self.skipped += other.skipped
        self.left_out += other.left_out


@dataclass(slots=True)
class MergeCounts:
    """The result of an import or a refresh."""

    machines: RowCounts = field(default_factory=RowCounts)
    snapshots: RowCounts = field(default_factory=RowCounts)

    def __str__(self) -> str:
        return f"machines: {self.machines}; snapshots: {self.snapshots}"


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How much of the files has been imported. `merging` is true once all files have been read and validated."""

    bytes_read: int
    bytes_total: int
    machines: int
    snapshots: int
    merging: bool = False
