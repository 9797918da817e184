"""One connection to libvirt for the `libvirt` driver: opening and hearing it, and what its errors mean."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import libvirt

from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)

FAILED_MIDWAY = "the provider failed when it may have begun"

_KEEPALIVE = (5, 3)  # a probe after so many silent seconds; dead after so many without an answer

_NAMES = {libvirt.VIR_CRED_USERNAME, libvirt.VIR_CRED_AUTHNAME}
_PASSWORDS = {libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT}

_BUSY = "the provider is doing other work on this machine"
_DENIED = "the provider does not accept the gateway's credentials, or they lack the right"
_MEANINGS: dict[int, tuple[type[ProviderError], str]] = {
    libvirt.VIR_ERR_NO_DOMAIN: (ProviderMissing, "the provider has no such machine"),
    libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT: (ProviderMissing, "the machine has no such snapshot"),
    libvirt.VIR_ERR_OPERATION_TIMEOUT: (ProviderBusy, _BUSY),  # it waited for the domain, and nothing was begun
    libvirt.VIR_ERR_RESOURCE_BUSY: (ProviderBusy, _BUSY),
    libvirt.VIR_ERR_AUTH_FAILED: (ProviderDenied, _DENIED),
    libvirt.VIR_ERR_AUTH_CANCELLED: (ProviderDenied, _DENIED),
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: (ProviderDenied, _DENIED),
    libvirt.VIR_ERR_ACCESS_DENIED: (ProviderDenied, _DENIED),
    libvirt.VIR_ERR_OPERATION_DENIED: (ProviderDenied, _DENIED),
}
_REFUSALS = {  # said before anything is done
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_INVALID_ARG,
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_SNAPSHOT_REVERT_RISKY,
}
_OF_THE_LINE = {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE}
_FULL = ("No space left on device", "Disk quota exceeded")
_TAKEN = "already exists"
_NOT_WRITTEN = "while writing VM"  # QEMU does not say why

_events = threading.Lock()
_events_begun = False


def failure(error: libvirt.libvirtError, *, handed_over: bool, harmful: bool = False) -> ProviderError:
    """What an error of the library means, when work had been handed over with the call or not.

    `harmful`: the work may be half done when it fails, and nobody tells.
    """
    words = _words(error)
    if error.get_error_code() in _MEANINGS:
        kind, message = _MEANINGS[error.get_error_code()]
        return kind(message, provider_message=words)
    if error.get_error_domain() in _OF_THE_LINE:
        lost = OutcomeUnknown if handed_over else ProviderUnavailable
        return lost("the connection to the provider was lost", provider_message=words)
    if handed_over and harmful and error.get_error_code() not in _REFUSALS:
        return OutcomeUnknown(FAILED_MIDWAY, provider_message=words)
    if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED and _TAKEN in words:  # since names were looked at
        return ProviderBusy("a snapshot of that name was just made by somebody else", provider_message=words)
    if any(full in words for full in _FULL):
        return ProviderFull("the provider has no room for it", provider_message=words)
    if _NOT_WRITTEN in words:
        message = "the machine's memory could not be written to its disk; see whether the storage is full"
        return ProviderRefused(message, provider_message=words)
    return ProviderRefused("the provider reported an error", provider_message=words)


class LibvirtConnection:
    """A connection. `hear` is told the ref of each domain that something happens to, and None when it breaks."""

    def __init__(
        self, address: str, user: str | None, password: str | None, hear: Callable[[str | None], None] | None
    ) -> None:
        """Raises ProviderDenied and ProviderUnavailable."""
        _begin_events()

        def answer(questions: list[list[Any]], _: object) -> int:
            for question in questions:
                question[4] = user if question[0] in _NAMES else password
            return -1 if user is None else 0

        try:
            self.connection = libvirt.openAuth(address, [[*_NAMES, *_PASSWORDS], answer, None], 0)
            self.host, self.version = self.connection.getHostname(), self.connection.getLibVersion()
            self._listen(hear or (lambda _: None))
        except libvirt.libvirtError as error:
            found = failure(error, handed_over=False)
            if not isinstance(found, ProviderDenied):
                found = ProviderUnavailable("the provider cannot be reached", provider_message=_words(error))
            raise found from None

    def _listen(self, hear: Callable[[str | None], None]) -> None:
        try:
            self.connection.setKeepAlive(*_KEEPALIVE)
            self.is_remote = True
        except libvirt.libvirtError:  # within this process there is nothing to keep alive
            self.is_remote = False
        self.connection.registerCloseCallback(lambda *_: hear(None), None)
        self._handle = self.connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda _, domain, *__: hear(domain.UUIDString()), None
        )

    def domain(self, machine_ref: str) -> libvirt.virDomain:
        """Raises ProviderMissing for what is no UUID as libvirt writes it."""
        try:
            known = str(UUID(machine_ref)) == machine_ref
        except ValueError:
            known = False
        if not known:
            raise ProviderMissing("the provider has no such machine")
        return self.connection.lookupByUUIDString(machine_ref)

    def is_alive(self) -> bool:
        """Whether it was when it was last heard of."""
        return bool(self.connection.isAlive())

    def close(self) -> None:
        """Lets go of it. What is registered would hold it open."""
        for let_go in (
            lambda: self.connection.domainEventDeregisterAny(self._handle),
            self.connection.unregisterCloseCallback,
            self.connection.close,
        ):
            with contextlib.suppress(libvirt.libvirtError):
                let_go()


def _begin_events() -> None:
    """Runs the library's event loop, once in a process and before any connection: it keeps connections alive."""
    global _events_begun  # noqa: PLW0603 - the library has one for the process
    with _events:
        if not _events_begun:
            libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; it would print them as well
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run_events, name="libvirt events", daemon=True).start()
            _events_begun = True


def _run_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _words(error: libvirt.libvirtError) -> str:
    return str(error.get_error_message() or error)
