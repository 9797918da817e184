"""Logs what is rejected because of its host or origin, within a bound, because any client can send any of them."""

import logging
import time
from collections.abc import Callable

_PERIOD = 3_600.0  # seconds in which a value is logged once
_MAX_VALUES = 20  # in a period
_MAX_LENGTH = 255  # characters; the rest of a value is cut off

log = logging.getLogger(__name__)


class RejectionLog:
    """The log of one kind of rejection. `clock` returns monotonic seconds.

    A value, such as an origin, is logged at most once an hour, and at most 20 values are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._values: set[str] = set()

    def write(self, event: str, name: str, value: str, setting: str | None) -> None:
        """Writes a line about the event, such as "Rejected a request of another origin".

        `name` is that of the field with the value; `setting` is the one that would permit it, None if there is none.
        """
        if self._clock() - self._since >= _PERIOD:
            self._since = self._clock()
            self._values.clear()
        value = value[:_MAX_LENGTH]
        if value in self._values or len(self._values) > _MAX_VALUES:
            return
        if len(self._values) == _MAX_VALUES:
            log.warning("%s; further ones are not logged for an hour", event)
        else:
            log.warning(event, extra={"fields": {name: value, "setting": setting}})
        self._values.add(value)
