"""The times of one measurement, which the attacker, the victims and the probes share."""

import time
from dataclasses import dataclass

_START_SECONDS = 0.5  # until the processes have received the schedule
_WARM_UP_SECONDS = 1.0  # of the victims, which is not measured
_AFTER_SECONDS = 1.0  # in which the gateway cleans up after the attacker


@dataclass(frozen=True, slots=True)
class Schedule:
    """Moments of the monotonic clock, which is the same in all processes: warm-up, quiet time, attack, end."""

    begins: float
    quiet_begins: float
    attack_begins: float
    attack_ends: float
    ends: float

    @classmethod
    def from_now(cls, quiet: float, attack: float) -> "Schedule":
        """A schedule that begins now, with these durations in seconds."""
        begins = time.monotonic() + _START_SECONDS
        attack_begins = begins + _WARM_UP_SECONDS + quiet
        attack_ends = attack_begins + attack
        return cls(begins, begins + _WARM_UP_SECONDS, attack_begins, attack_ends, attack_ends + _AFTER_SECONDS)
