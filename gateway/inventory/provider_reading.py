"""What one refresh of a provider finds about its machines, and the text of the provider's `problem`."""

from collections.abc import Mapping

from gateway.errors import ProviderError, Unavailable, Unconfirmed
from gateway.inventory.counts import MergeCounts
from gateway.inventory.listing import MachineListing, quoted, shown


class ProviderReading:
    """The results of reading machines one by one: those of a listing, or single ones. Identified by their refs."""

    def __init__(self, listing: MachineListing | None = None) -> None:
        self.listing = MachineListing() if listing is None else listing
        self.counts = MergeCounts()
        self.missing: set[str] = set()  # listed machines that the provider then did not have
        self.gone: list[int] = []  # ids of machines that two readings lacked
        self.unlisted: set[str] = set()  # machines that were read although the listing lacked them
        self.errors: dict[str, Exception] = {}  # why machines could not be read
        self._oddities: dict[str, str] = dict(self.listing.problems)

    def note(self, machine_ref: str, oddity: str | None) -> None:
        """Notes what is odd about a machine that was read."""
        known = self._oddities.get(machine_ref)
        if oddity is not None:
            self._oddities[machine_ref] = oddity if known is None else f"{known} {oddity}"

    @property
    def is_complete(self) -> bool:
        """Whether all machines could be read."""
        return not (self.errors or self.unlisted or self.listing.without_ref)

    @property
    def failures(self) -> dict[str, str]:
        """Why the provider could not say what machines are like, by their refs."""
        return {ref: error.message for ref, error in self.errors.items() if isinstance(error, ProviderError)}

    @property
    def problem(self) -> str | None:
        """What could not be read, and what is odd: the first few machines by name, and the number of the others."""
        listed, without_ref = self.listing.machines, self.listing.without_ref
        errors = {ref: str(error) for ref, error in self.errors.items()}
        failures = [*self._texts(errors), *without_ref]
        total = len(listed.keys() | self.unlisted | errors.keys()) + len(without_ref)
        oddities = self._texts({ref: text for ref, text in self._oddities.items() if ref not in errors})
        unlisted = [f"Machine {quoted(ref)}." for ref in sorted(self.unlisted)]
        parts = [
            (failures, f"{len(failures):,} of {total:,} machines could not be read"),
            (oddities, f"{len(oddities):,} of {total:,} machines have data that could not be read"),
            (unlisted, f"The list of machines lacked {len(unlisted):,} that exist"),
        ]
        return " ".join(f"{title}: {shown(texts)}" for texts, title in parts if texts) or None

    def _texts(self, reasons: Mapping[str, str]) -> list[str]:
        """A sentence per machine, in the order of the listing."""
        listed = self.listing.machines
        refs = [*(ref for ref in listed if ref in reasons), *(ref for ref in reasons if ref not in listed)]
        return [f"Machine {self._label(ref)}: {reasons[ref]}" for ref in refs]

    def _label(self, machine_ref: str) -> str:
        machine = self.listing.machines.get(machine_ref)
        if machine is None or machine.name == machine_ref:
            return quoted(machine_ref)
        return f"{quoted(machine.name)} ({quoted(machine_ref)})"

    def raise_database_error(self) -> None:
        """Raises the first error of the database, which says nothing about the provider."""
        for error in self.errors.values():
            if isinstance(error, Unavailable | Unconfirmed):
                raise error

    def raise_bugs(self) -> None:
        """Raises the errors that are no errors of the provider, as a group. Each has the machine as a note."""
        bugs = {ref: error for ref, error in self.errors.items() if not isinstance(error, ProviderError)}
        for ref, error in bugs.items():
            error.add_note(f"Machine {quoted(ref)}")
        if bugs:
            raise ExceptionGroup("Some machines could not be read.", list(bugs.values()))
