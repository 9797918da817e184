"""Who is asking: whose the credential of a request is, and what has lately been found out about others.

Where nobody has been given any identity, whoever can reach the gateway is its one caller. That ends for good when the
first token is made, within the time that verified credentials are trusted for.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from hashlib import sha256
from time import monotonic, time
from typing import Any, NamedTuple, TypeVar

from gateway.access import opaque_tokens
from gateway.access.caller import CALLER, Caller, local_caller
from gateway.access.credentials import presented, token_in
from gateway.access.jwts import Jwts
from gateway.access.login_throttle import LoginThrottle
from gateway.access.opaque_tokens import Opaque
from gateway.access.roles import Roles
from gateway.access.sessions import end_session, issue_session, session_caller, touch_session
from gateway.access.tokens import any_token, token_caller, touch_token
from gateway.config import Settings
from gateway.errors import BadCredentials, GatewayError, StartupError, Throttled, Unauthenticated
from gateway.store.database import Database

MOST_KNOWN = 10_000  # credentials; the one verified longest ago makes way
MOST_REFUSED = 1_000
REFUSED_FOR = 2.0  # seconds for which a wrong credential is not looked at again

T = TypeVar("T")

log = logging.getLogger(__name__)


OnRefusal = Callable[[Mapping[str, Any], GatewayError], Awaitable[None]]  # is told of everybody who may not come in


async def nobody(_scope: Mapping[str, Any], _error: GatewayError) -> None:
    """Where refusals need not be told."""


class _Known(NamedTuple):
    caller: Caller
    until: float  # of time.monotonic()


class _Refused(NamedTuple):
    message: str
    until: float


class Authenticator:
    """Verifies credentials, and trusts what it has verified for some seconds."""

    def __init__(
        self, database: Database, roles: Roles, jwts: Jwts | None, settings: Settings, on_refusal: OnRefusal = nobody
    ) -> None:
        self._database = database
        self._on_refusal = on_refusal
        self._roles = roles
        self._jwts = jwts
        self._trusted_for = settings.credentials_trusted
        self._local = local_caller(settings.tenant)
        self._host = None if settings.on_loopback else settings.host
        self._asks = jwts is not None
        self._throttle = LoginThrottle()
        # By a hash: one look finds an entry however long the credential is, and no dump of the memory has any in it.
        # What has been good stays until it makes way: who had it is not slowed down by others at their address.
        self._known: dict[bytes, _Known] = {}
        self._refused: dict[bytes, _Refused] = {}
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
            " make a token (gateway token create), name an issuer of JWTs, or listen on 127.0.0.1 or ::1"
        )

    async def stop(self) -> None:
        """Waits for what is still to be kept of the tokens that were used."""
        await asyncio.gather(*self._later)
        if self._jwts is not None:
            await self._jwts.close()

    async def authenticate(self, scope: Mapping[str, Any], payload: Mapping[str, Any]) -> Caller:
        """Who sent this request, or this handshake and `connection_init`. Raises Unauthenticated."""
        credential = presented(scope, payload)
        digest = sha256(credential).digest()
        known = self._known.get(digest)
        if known is not None and known.until > monotonic():
            CALLER.set(known.caller.name)
            return known.caller
        refused = self._refused.get(digest)
        if refused is not None and refused.until > monotonic():
            error = BadCredentials(refused.message)
            await self._on_refusal(scope, error)
            raise error
        try:
            caller = await self._look(scope, credential, trusted=known is not None)
        except Throttled as error:
            await self._on_refusal(scope, error)
            raise
        except Unauthenticated as error:
            await self._on_refusal(scope, error)
            self._known.pop(digest, None)
            if isinstance(error, BadCredentials):
                _keep(self._refused, digest, _Refused(error.message, monotonic() + REFUSED_FOR), MOST_REFUSED)
            raise
        seconds = self._trusted_for
        if caller.expires_at is not None:
            seconds = min(seconds, caller.expires_at - time())
        _keep(self._known, digest, _Known(caller, monotonic() + seconds), MOST_KNOWN)
        CALLER.set(caller.name)
        return caller

    async def begin_session(self, caller: Caller) -> str:
        """A token that stands for `caller` for a while. Raises Unauthenticated when they may not come in any more."""
        if caller is self._local:
            return Opaque(opaque_tokens.SESSION, 1, opaque_tokens.new_secret()).text()  # nobody looks at it
        return await issue_session(self._database, caller)

    async def end_session(self, scope: Mapping[str, Any], caller: Caller) -> bool:
        """Ends the session that this request of `caller`'s came by, here at once; whether it came by one."""
        if caller is self._local:
            return True
        session = opaque_tokens.parse(token_in(presented(scope, {})))
        if session is None or session.prefix != opaque_tokens.SESSION:
            return False
        await end_session(self._database, session)
        for digest in [digest for digest, known in self._known.items() if known.caller.key == caller.key]:
            del self._known[digest]
        return True

    async def _look(self, scope: Mapping[str, Any], credential: bytes, *, trusted: bool) -> Caller:
        """Looks at a credential anew, unless too many are tried. `trusted`: it has been good before."""
        if not await self._asking():
            return self._local
        if not credential:
            raise Unauthenticated("Send a token: `Authorization: Bearer …`.")
        address, name = (scope.get("client") or ("unknown",))[0], None
        try:
            text = token_in(credential)
            token = opaque_tokens.parse(text)
            name = None if token is None else str(token)
            if not trusted:
                self._throttle.check(address, name)
            return await (self._of_jwt(text) if token is None else self._of_token(token))
        except BadCredentials as error:
            self._throttle.failed(address, name)
            request_id = scope.get("state", {}).get("request_id", "-")
            which = name or "credentials"
            log.warning("a log-in from %s with %s failed: %s Request id %s", address, which, error, request_id)
            raise

    async def _of_jwt(self, text: str) -> Caller:
        if self._jwts is None or text.count(".") != 2:
            raise BadCredentials
        return await self._jwts.caller(text)

    async def _of_token(self, token: Opaque) -> Caller:
        find, touch = (
            (session_caller, touch_session) if token.prefix == opaque_tokens.SESSION else (token_caller, touch_token)
        )
        caller, due = await find(self._database, self._roles, token)
        if due:
            self._soon(touch(self._database, token))
        return caller

    async def _asking(self) -> bool:
        if not self._asks and await any_token(self._database):
            self._asks = True
            self._known.clear()
            log.info("there are API tokens: from now on everybody is asked for one")
        return self._asks

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` beside the request, which does not wait for a commit."""
        task = asyncio.create_task(_logged(work))
        self._later.add(task)
        task.add_done_callback(self._later.discard)


def _keep(entries: dict[bytes, T], digest: bytes, entry: T, most: int) -> None:
    """Puts the entry last; when there are too many, the first makes way."""
    entries.pop(digest, None)
    entries[digest] = entry
    if len(entries) > most:
        del entries[next(iter(entries))]


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.warning("the use of a token could not be kept", exc_info=True)
