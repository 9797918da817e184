"""Authenticates requests: verifies the credential of a request and caches the result for some seconds.

Without API tokens and a JWT issuer, authentication is not required, and every request has the local caller. The first
API token makes authentication required permanently: immediately when that token is used, otherwise as soon as the
cached result of the local caller expires.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from hashlib import sha256
from time import monotonic, time
from typing import Any

from gateway.access import opaque_tokens
from gateway.access.caller import CALLER, Caller, local_caller
from gateway.access.credentials import credentials_from_request, is_basic, token_from_credential
from gateway.access.jwts import JwtVerifier
from gateway.access.login_throttle import LoginThrottle
from gateway.access.lookup_batch import LookupBatch
from gateway.access.opaque_tokens import OpaqueToken
from gateway.access.roles import Roles
from gateway.access.sessions import FIND_SESSIONS, create_session, end_session, session_caller, touch_session
from gateway.access.tokens import FIND_TOKENS, any_token_exists, token_caller, touch_token
from gateway.bounded_cache import BoundedCache
from gateway.config import Settings
from gateway.errors import BadCredentials, GatewayError, StartupError, Throttled, Unauthenticated
from gateway.store.database import Database

MAX_VERIFIED = 10_000  # cached credentials
MAX_REJECTED = 1_000
REJECTED_TTL = 2.0  # seconds for which a rejected credential is rejected again without verifying it

# It holds for every password that is no token, so it discloses nothing.
_NOT_OF_THE_GATEWAY = (
    "The credentials are not valid. The password must be an API token of this gateway, or a JWT, not a password of"
    " ManageIQ. Create a token with `gateway token create`."
)
_MAX_SHOWN = 255  # characters of a group's name, in a message

log = logging.getLogger(__name__)


OnRefusal = Callable[[Mapping[str, Any], GatewayError], Awaitable[None]]  # called for every refused authentication


async def ignore_refusal(_scope: Mapping[str, Any], _error: GatewayError) -> None:
    """The `OnRefusal` that records nothing."""


class Authenticator:
    """Verifies credentials. A verified credential is trusted for `GATEWAY_CREDENTIALS_TRUSTED` seconds.

    `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        roles: Roles,
        jwts: JwtVerifier | None,
        settings: Settings,
        *,
        on_refusal: OnRefusal = ignore_refusal,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._database = database
        self._on_refusal = on_refusal
        self._roles = roles
        self._jwts = jwts
        self._trust_seconds = settings.credentials_trusted
        self._local = local_caller(settings.tenant)
        self._public_host = None if settings.listens_on_loopback else settings.host
        self._proxy_setting = _proxy_setting(settings)
        self._requires_authentication = jwts is not None
        self._login_throttle = LoginThrottle(clock)
        self._tokens = LookupBatch(database, FIND_TOKENS)
        self._sessions = LookupBatch(database, FIND_SESSIONS)
        # Both caches are keyed by the SHA-256 of the credential, so that a lookup costs the same for every length and
        # no credential stays in memory.
        self._verified = BoundedCache[bytes, Caller](MAX_VERIFIED, clock=clock)
        self._rejected = BoundedCache[bytes, str](MAX_REJECTED, clock=clock)  # the messages of the errors
        self._background: set[asyncio.Task[None]] = set()

    @property
    def requires_authentication(self) -> bool:
        """Whether requests without valid credentials are refused."""
        return self._requires_authentication

    def known_caller(self, scope: Mapping[str, Any]) -> Caller | None:
        """Return the caller of a request whose credential was verified before, and has not been rejected since."""
        try:
            credential = credentials_from_request(scope, {}).credential
        except BadCredentials:
            return None
        return self._verified.peek(_digest(scope, credential))

    async def start(self) -> None:
        """Raises StartupError if other machines can reach the gateway and authentication is not configured."""
        if not await self.is_open():
            return
        if self._public_host is not None:
            raise StartupError(
                f"GATEWAY_HOST {self._public_host!r} can be reached from other machines, but authentication is not"
                " configured. Create a token with `gateway token create`, name a JWT issuer with GATEWAY_JWT_ISSUER, or"
                " listen on 127.0.0.1 or ::1."
            )
        if self._proxy_setting is not None:
            raise StartupError(
                f"{self._proxy_setting} is set for a proxy, but authentication is not configured, so every client of"
                " the proxy would have full access. Create a token with `gateway token create`, name a JWT issuer with"
                f" GATEWAY_JWT_ISSUER, or remove {self._proxy_setting}."
            )

    async def is_open(self) -> bool:
        """Return whether requests need no credentials. Reads the database until they do."""
        return not await self._check_requirement()

    async def stop(self) -> None:
        """Wait until the last uses of tokens are recorded, and close the key source of the JWT verifier."""
        await asyncio.gather(*self._background)
        if self._jwts is not None:
            await self._jwts.close()

    async def authenticate(self, scope: Mapping[str, Any], payload: Mapping[str, Any]) -> Caller:
        """Return the caller of an HTTP request, or of a WebSocket handshake and its `connection_init` payload.

        Raises Unauthenticated, Throttled, and Unavailable while the keys of the JWT issuer cannot be fetched.
        """
        try:
            sent = credentials_from_request(scope, payload)
            caller = await self._caller(scope, sent.credential)
            if sent.group and sent.group not in caller.groups:
                raise BadCredentials(f"Invalid Authorization Group {sent.group[:_MAX_SHOWN]} specified")
        except (Throttled, Unauthenticated) as error:
            await self._on_refusal(scope, error)
            raise
        CALLER.set(caller.name)
        return caller

    async def _caller(self, scope: Mapping[str, Any], credential: bytes) -> Caller:
        """Return the caller whose credential it is, from the cache if it was verified before."""
        digest = _digest(scope, credential)
        caller = self._verified.get(digest)
        if caller is None and scope["type"] == "websocket":  # which accepts all that HTTP does
            caller = self._verified.get(sha256(credential).digest())
        if caller is not None:
            return caller
        try:
            caller = await self._verify(scope, credential, digest)
        except (Throttled, Unauthenticated):
            self._verified.pop(digest)
            raise
        seconds = self._trust_seconds
        if caller.expires_at is not None:
            seconds = min(seconds, caller.expires_at - time())
        self._verified.put(digest, caller, seconds)
        return caller

    async def create_session(self, caller: Caller, prefix: str = opaque_tokens.SESSION_PREFIX) -> str:
        """Return a session token for `caller`. Raises Unauthenticated if the caller's API token was revoked.

        `prefix`: SESSION_PREFIX, or WEBSOCKET_PREFIX for a token that is valid for WebSockets only.
        """
        if caller is self._local:
            return OpaqueToken(prefix, 1, opaque_tokens.new_secret()).text()  # is never verified
        return await create_session(self._database, caller, prefix)

    async def end_session(self, scope: Mapping[str, Any], caller: Caller) -> bool:
        """End the session that the request was sent with. Return False if it was sent with another credential.

        This process stops accepting the session immediately, other processes when their cached results expire.
        """
        if caller is self._local:
            return True
        session = opaque_tokens.parse(token_from_credential(credentials_from_request(scope, {}).credential))
        if session is None or session.prefix != opaque_tokens.SESSION_PREFIX:
            return False
        await end_session(self._database, session)
        self._verified.remove_where(lambda verified: verified.key == caller.key)
        return True

    async def _verify(self, scope: Mapping[str, Any], credential: bytes, digest: bytes) -> Caller:
        """Verify a credential. Only one that is wrong is subject to the login throttle."""
        if not await self._check_requirement():
            return self._local
        if not credential:
            raise Unauthenticated("Authentication is required. Send the header `Authorization: Bearer TOKEN`.")
        address = (scope.get("client") or ("unknown",))[0]
        if (message := self._rejected.get(digest)) is not None:
            self._login_throttle.check(address)
            raise BadCredentials(message)
        token: OpaqueToken | None = None
        try:
            text = token_from_credential(credential)
            token = opaque_tokens.parse(text)
            if token is not None:
                return await self._opaque_token_caller(scope, token)
            return await self._jwt_caller(text, is_password=is_basic(credential))
        except BadCredentials as error:
            self._rejected.put(digest, error.message, REJECTED_TTL)
            self._login_throttle.record_failure(address)
            log.warning(
                "Authentication failed address=%s token=%s request_id=%s error=%s",
                address,
                token or "-",
                scope.get("state", {}).get("request_id", "-"),
                error,
            )
            raise

    async def _jwt_caller(self, text: str, *, is_password: bool) -> Caller:
        is_jwt = text.count(".") == 2
        if is_password and not is_jwt:
            raise BadCredentials(_NOT_OF_THE_GATEWAY)
        if self._jwts is None or not is_jwt:
            raise BadCredentials
        return await self._jwts.caller(text)

    async def _opaque_token_caller(self, scope: Mapping[str, Any], token: OpaqueToken) -> Caller:
        is_session = token.prefix != opaque_tokens.TOKEN_PREFIX
        if token.prefix == opaque_tokens.WEBSOCKET_PREFIX and scope["type"] != "websocket":
            raise BadCredentials("The token is valid for WebSockets only.")
        caller, due = await (
            session_caller(self._sessions, self._roles, token)
            if is_session
            else token_caller(self._tokens, self._roles, token)
        )
        if due:
            touch = touch_session if is_session else touch_token
            self._run_in_background(touch(self._database, token))
        return caller

    async def _check_requirement(self) -> bool:
        """Return whether authentication is required. Reads the database until it is."""
        if not self._requires_authentication and await any_token_exists(self._database):
            self._requires_authentication = True
            self._verified.clear()
            log.info("Found an API token: authentication is required from now on")
        return self._requires_authentication

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in a task, so that the request does not wait for its commit."""
        task = asyncio.create_task(_logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _digest(scope: Mapping[str, Any], credential: bytes) -> bytes:
    """The key of a credential in the caches. A WebSocket has its own, because some tokens are valid only there."""
    return sha256(b"websocket " + credential if scope["type"] == "websocket" else credential).digest()


def _proxy_setting(settings: Settings) -> str | None:
    """The name of a setting that is used only behind a proxy, or None if none is set."""
    if settings.trusted_proxies:
        return "GATEWAY_TRUSTED_PROXIES"
    return "GATEWAY_PUBLIC_URL" if settings.public_url else None


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.warning("Recording the last use of a token failed", exc_info=True)
