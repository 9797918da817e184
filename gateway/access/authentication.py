"""Who is asking: whose the credential of a request is, and what has lately been found out about others.

Where nobody has been given any identity, whoever can reach the gateway is its one caller. That ends for good when the
first token is made, within the time that verified credentials are trusted for.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from hashlib import sha256
from time import monotonic, time
from typing import Any, NamedTuple

from gateway.access import opaque
from gateway.access.caller import Caller, local_caller
from gateway.access.credentials import presented, token_in
from gateway.access.opaque import Opaque
from gateway.access.roles import Roles
from gateway.access.sessions import end_session, issue_session, session_caller, touch_session
from gateway.access.tokens import any_token, token_caller, touch_token
from gateway.config import Settings
from gateway.errors import BadCredentials, StartupError, Unauthenticated
from gateway.store.database import Database

MOST_KNOWN = 10_000  # credentials; the one verified longest ago makes way

log = logging.getLogger(__name__)


class _Known(NamedTuple):
    caller: Caller
    until: float  # of time.monotonic()


class Authenticator:
    """Verifies credentials, and trusts what it has verified for some seconds."""

    def __init__(self, database: Database, roles: Roles, settings: Settings) -> None:
        self._database = database
        self._roles = roles
        self._trusted_for = settings.credentials_trusted
        self._local = local_caller(settings.tenant)
        self._host = None if settings.on_loopback else settings.host
        self._asks = False
        # By a hash: one look finds an entry whatever the credential is, and no dump of the memory has any in it.
        self._known: dict[bytes, _Known] = {}
        self._later: set[asyncio.Task[None]] = set()

    @property
    def asks(self) -> bool:
        """Whether everybody is asked who they are."""
        return self._asks

    async def start(self) -> None:
        """Raises StartupError when the gateway would serve others than this machine, and knows nobody."""
        if await self._asking() or self._host is None:
            return
        raise StartupError(
            f"{self._host} can be reached from other machines, and no identities are configured to say who may do what:"
            " make a token (gateway token create), or listen on 127.0.0.1 or ::1"
        )

    async def stop(self) -> None:
        """Waits for what is still to be kept of the tokens that were used."""
        await asyncio.gather(*self._later)

    async def authenticate(self, scope: Mapping[str, Any], payload: Mapping[str, Any]) -> Caller:
        """Who sent this request, or this handshake and `connection_init`. Raises Unauthenticated."""
        credential = presented(scope, payload)
        digest = sha256(credential).digest()
        known = self._known.get(digest)
        if known is not None and known.until > monotonic():
            return known.caller
        try:
            caller = await self._verified(credential)
        except Unauthenticated:
            self._known.pop(digest, None)
            raise
        self._trust(digest, caller)
        return caller

    async def begin_session(self, caller: Caller) -> str:
        """A token that stands for `caller` for a while. Raises Unauthenticated when they may not come in any more."""
        if caller is self._local:
            return Opaque(opaque.SESSION, 1, opaque.new_secret()).text()  # nobody looks at it
        return await issue_session(self._database, caller)

    async def end_session(self, scope: Mapping[str, Any], caller: Caller) -> bool:
        """Ends the session that this request of `caller`'s came by, here at once; whether it came by one."""
        session = opaque.parse(token_in(presented(scope, {})))
        if session is None or session.prefix != opaque.SESSION or caller is self._local:
            return caller is self._local
        await end_session(self._database, session)
        for digest in [digest for digest, known in self._known.items() if known.caller.key == caller.key]:
            del self._known[digest]
        return True

    async def _verified(self, credential: bytes) -> Caller:
        if not await self._asking():
            return self._local
        if not credential:
            raise Unauthenticated("Send a token: `Authorization: Bearer …`.")
        token = opaque.parse(token_in(credential))
        if token is None:
            raise BadCredentials
        find, touch = (session_caller, touch_session) if token.prefix == opaque.SESSION else (token_caller, touch_token)
        caller, due = await find(self._database, self._roles, token)
        if due:
            self._soon(touch(self._database, token))
        return caller

    async def _asking(self) -> bool:
        if not self._asks and await any_token(self._database):
            self._asks = True
            log.info("there are API tokens: from now on everybody is asked for one")
        return self._asks

    def _trust(self, digest: bytes, caller: Caller) -> None:
        seconds = self._trusted_for
        if caller.expires_at is not None:
            seconds = min(seconds, caller.expires_at - time())
        self._known.pop(digest, None)
        self._known[digest] = _Known(caller, monotonic() + seconds)
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` beside the request, which does not wait for a commit."""
        task = asyncio.create_task(_logged(work))
        self._later.add(task)
        task.add_done_callback(self._later.discard)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.warning("the use of a token could not be kept", exc_info=True)
