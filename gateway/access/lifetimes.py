"""How long a token is good for, as people write it."""

import re
from datetime import timedelta

from gateway.errors import InvalidInput

_LIFETIME = re.compile(r"(\d{1,5})([dhm])", re.ASCII)
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
LONGEST = timedelta(days=3_650)


def parse_lifetime(text: str) -> timedelta | None:
    """`90d`, `12h` or `30m`; None for `never`. Raises InvalidInput."""
    if text == "never":
        return None
    match = _LIFETIME.fullmatch(text)
    lifetime = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < lifetime <= LONGEST:
        raise InvalidInput(f"a token can expire after a time such as 90d, 12h or 30m, up to {LONGEST.days}d, or never")
    return lifetime
