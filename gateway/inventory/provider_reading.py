"""What one refresh of a provider finds about its machines, and the text of the provider's `problem`."""

from collections.abc import Iterator, Mapping
from itertools import chain

from gateway.errors import ProviderError, Unavailable, Unconfirmed, shortened
from gateway.inventory.counts import MergeCounts
from gateway.inventory.listing import MachineListing, quoted, shown

_BUG = "An internal error occurred. See the gateway's log."


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
        errors = {
            ref: error.message if isinstance(error, ProviderError) else _BUG for ref, error in self.errors.items()
        }
        oddities = {ref: text for ref, text in self._oddities.items() if ref not in errors}
        total = len(listed.keys() | self.unlisted | errors.keys()) + len(without_ref)
        failed = len(errors) + len(without_ref)
        unlisted = (f"Machine {quoted(ref)}." for ref in sorted(self.unlisted))
        parts = [
            (failed, f"{failed:,} of {total:,} machines could not be read", chain(self._texts(errors), without_ref)),
            (
                len(oddities),
                f"{len(oddities):,} of {total:,} machines have data that could not be read",
                self._texts(oddities),
            ),
            (len(self.unlisted), f"The list of machines lacked {len(self.unlisted):,} that exist", unlisted),
        ]
        return " ".join(f"{title}: {shown(texts, number)}" for number, title, texts in parts if number) or None

    def _texts(self, reasons: Mapping[str, str]) -> Iterator[str]:
        """A sentence per machine, in the order of the listing. Only the first few are used."""
        listed = self.listing.machines
        for ref in chain((ref for ref in listed if ref in reasons), (ref for ref in reasons if ref not in listed)):
            yield f"Machine {self._label(ref)}: {shortened(reasons[ref])}"

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
