"""An authenticator for tests."""

from collections.abc import Mapping
from typing import Any

from starlette.types import Scope

from gateway.access.caller import Caller
from gateway.errors import Unauthenticated


class FixedCaller:
    """Authenticates every request as `caller`. With None it refuses every request. It issues no sessions."""

    def __init__(self, caller: Caller | None) -> None:
        self._caller = caller

    async def authenticate(self, _scope: Scope, _payload: Mapping[str, Any]) -> Caller:
        if self._caller is None:
            raise Unauthenticated("Invalid credentials")
        return self._caller

    async def create_session(self, _caller: Caller, _prefix: str) -> str:
        raise Unauthenticated("This authenticator issues no sessions.")

    async def end_session(self, _scope: Scope, _caller: Caller) -> bool:
        return False
