"""Filters that come again and again are understood once; the levels then keep their statements, too."""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime

from gateway.columns import now
from gateway.rest.classes import Class
from gateway.rest.filters import Filter, parse_filters

_MOST = 256
_LONGEST = 2_000  # characters of filters that are worth the memory


class FilterCache:
    """What `parse_filters` gives, kept where it is the same at every time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], Filter] = OrderedDict()

    def parse(self, class_: Class, texts: Sequence[str]) -> Filter | None:
        """Raises RestError and InvalidInput."""
        key = (class_.collection, *texts)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        asked = False

        def clock() -> datetime:
            nonlocal asked
            asked = True
            return now()

        found = parse_filters(class_, texts, clock)
        # What a regular expression found is kept in its condition, and is another thing each time.
        if found is not None and not asked and not found.matchings and sum(map(len, texts)) <= _LONGEST:
            self._kept[key] = found
            if len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return found
