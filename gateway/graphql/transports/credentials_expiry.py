"""When the credentials behind a stream end: by the clock when they expire, by asking again now and then when they are
revoked.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf
from time import time

from gateway.access.caller import Caller
from gateway.errors import BadCredentials, Unauthenticated

RECHECK_AFTER = 10.0  # seconds

log = logging.getLogger(__name__)


async def credentials_end(
    ask: Callable[[], Awaitable[Caller]], caller: Caller, recheck_after: float
) -> Unauthenticated:
    """Waits until `caller`'s credentials are not good any more; what would be said to them if they came now."""
    while True:
        left = inf if caller.expires_at is None else caller.expires_at - time()
        if left <= 0:
            return BadCredentials("The token has expired.")
        await asyncio.sleep(min(left, recheck_after))
        try:
            caller = await ask()
        except Unauthenticated as refusal:
            return refusal
        except Exception:
            # What cannot be asked now ends nothing: it is asked again.
            log.debug("credentials could not be checked again", exc_info=True)
