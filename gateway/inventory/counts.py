"""What an import or a refresh did, in numbers, and how far an import has come."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """What became of the rows of one kind."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: int = 0  # a driver manages them, so a file has no say

    def __str__(self) -> str:
        parts = [f"{self.created:,} created", f"{self.updated:,} updated", f"{self.unchanged:,} unchanged"]
        if self.removed:
            parts.append(f"{self.removed:,} removed")
        if self.skipped:
            parts.append(f"{self.skipped:,} managed by a driver, skipped")
        return ", ".join(parts)

    def add(self, other: "Tally") -> None:
        self.created += other.created
        self.updated += other.updated
        self.unchanged += other.unchanged
        self.removed += other.removed
        self.skipped += other.skipped


@dataclass(slots=True)
class Counts:
    """What became of machines and of snapshots."""

    machines: Tally = field(default_factory=Tally)
    snapshots: Tally = field(default_factory=Tally)

    def __str__(self) -> str:
        return f"machines: {self.machines}; snapshots: {self.snapshots}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import has come. `merging` begins when the whole file has been read and found good."""

    bytes_read: int
    bytes_total: int
    machines: int
    snapshots: int
    merging: bool = False
