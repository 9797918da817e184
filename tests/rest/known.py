"""Whoever a test says, however they ask: stands where a gateway authenticates."""

from collections.abc import Mapping
from typing import Any

from starlette.types import Scope

from gateway.access.caller import Caller
from gateway.errors import Unauthenticated


class Known:
    """Everybody is this caller; None is nobody. It knows no sessions."""

    def __init__(self, caller: Caller | None) -> None:
        self._caller = caller

    async def authenticate(self, _scope: Scope, _payload: Mapping[str, Any]) -> Caller:
        if self._caller is None:
            raise Unauthenticated("Invalid credentials")
        return self._caller

    async def begin_session(self, _caller: Caller) -> str:
        raise Unauthenticated("there are no sessions here")

    async def end_session(self, _scope: Scope, _caller: Caller) -> bool:
        return False
