"""A cache of parsed filters. Fetch nodes cache statements by condition, so cached filters reuse statements, too."""

from collections.abc import Sequence
from datetime import datetime

from gateway.bounded_cache import BoundedCache
from gateway.columns import now
from gateway.rest.classes import ResourceClass
from gateway.rest.filters import Filter, parse_filters

_MAX_ENTRIES = 256
_MAX_LENGTH = 2_000  # characters of the filters of one request; longer ones are not cached


class FilterCache:
    """Caches the results of `parse_filters` that do not depend on the time or on stored rows."""

    def __init__(self) -> None:
        self._cached = BoundedCache[tuple[str, ...], Filter](_MAX_ENTRIES)

    def parse(self, class_: ResourceClass, texts: Sequence[str]) -> Filter | None:
        """The filters of a request. None without any. Raises RestError and InvalidInput."""
        key = (class_.collection, *texts)
        cached = self._cached.get(key)
        if cached is not None:
            return cached
        clock_used = False

        def clock() -> datetime:
            nonlocal clock_used
            clock_used = True
            return now()

        parsed = parse_filters(class_, texts, clock)
        # The condition of a regular expression holds the rows that matched, which differ from request to request.
        if parsed is not None and not clock_used and not parsed.regexes and sum(map(len, texts)) <= _MAX_LENGTH:
            parsed.cached = True
            self._cached.put(key, parsed)
        return parsed
