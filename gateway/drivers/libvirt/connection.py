"""A connection to libvirt: opening, authentication, events and keepalive; and the translation of libvirt's errors."""

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

PARTIAL_FAILURE = "The provider failed, and may have executed a part of the operation."

_KEEPALIVE = (5, 3)  # probe after 5 seconds without traffic; the connection is dead after 3 unanswered probes

_NAMES = {libvirt.VIR_CRED_USERNAME, libvirt.VIR_CRED_AUTHNAME}
_PASSWORDS = {libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT}

_BUSY = "The provider is executing another task on this machine."
_DENIED = "The provider does not accept the gateway's credentials, or they lack a right."
_ERRORS: dict[int, tuple[type[ProviderError], str]] = {
    libvirt.VIR_ERR_NO_DOMAIN: (ProviderMissing, "The provider has no such machine."),
    libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT: (ProviderMissing, "The machine has no such snapshot."),
    libvirt.VIR_ERR_OPERATION_TIMEOUT: (ProviderBusy, _BUSY),  # libvirt waited for the domain's lock and did nothing
    libvirt.VIR_ERR_RESOURCE_BUSY: (ProviderBusy, _BUSY),
    libvirt.VIR_ERR_AUTH_FAILED: (ProviderDenied, _DENIED),
    libvirt.VIR_ERR_AUTH_CANCELLED: (ProviderDenied, _DENIED),
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: (ProviderDenied, _DENIED),
    libvirt.VIR_ERR_ACCESS_DENIED: (ProviderDenied, _DENIED),
    libvirt.VIR_ERR_OPERATION_DENIED: (ProviderDenied, _DENIED),
}
_REFUSALS = {  # libvirt raises these before it changes anything
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_INVALID_ARG,
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_SNAPSHOT_REVERT_RISKY,
}
_TRANSPORT_DOMAINS = {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE}
_DISK_FULL = ("No space left on device", "Disk quota exceeded")
_NAME_TAKEN = "already exists"
_MEMORY_NOT_WRITTEN = "while writing VM"  # QEMU's text, which does not include the reason

_event_loop_lock = threading.Lock()
_event_loop_started = False


def translate_error(error: libvirt.libvirtError, *, sent: bool, may_be_partial: bool = False) -> ProviderError:
    """The ProviderError for an error of the library.

    `sent`: the failed call was a change. Without an answer, its outcome is unknown.
    `may_be_partial`: the change may be executed in part when it fails, which libvirt does not report.
    """
    text = _message(error)
    if error.get_error_code() in _ERRORS:
        kind, message = _ERRORS[error.get_error_code()]
        return kind(message, provider_message=text)
    if error.get_error_domain() in _TRANSPORT_DOMAINS:
        lost = OutcomeUnknown if sent else ProviderUnavailable
        return lost("The connection to the provider was lost.", provider_message=text)
    if sent and may_be_partial and error.get_error_code() not in _REFUSALS:
        return OutcomeUnknown(PARTIAL_FAILURE, provider_message=text)
    if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED and _NAME_TAKEN in text:  # after names were listed
        return ProviderBusy("Another client has just created a snapshot with the same name.", provider_message=text)
    if any(full in text for full in _DISK_FULL):
        return ProviderFull("The provider's disk is full, or its disk quota is reached.", provider_message=text)
    if _MEMORY_NOT_WRITTEN in text:
        message = "The machine's memory could not be written to its disk. Check whether the storage is full."
        return ProviderRefused(message, provider_message=text)
    return ProviderRefused("The provider reported an error.", provider_message=text)


class LibvirtConnection:
    """An open connection.

    `on_event` is called with the ref of each domain that has a lifecycle event, and with None when the connection
    breaks. It is called in the library's event thread.
    """

    def __init__(
        self, address: str, user: str | None, password: str | None, on_event: Callable[[str | None], None] | None
    ) -> None:
        """Connects. Raises ProviderDenied and ProviderUnavailable."""
        _start_event_loop()

        def answer(prompts: list[list[Any]], _: object) -> int:
            for prompt in prompts:
                prompt[4] = user if prompt[0] in _NAMES else password
            return -1 if user is None else 0

        try:
            self.connection = libvirt.openAuth(address, [[*_NAMES, *_PASSWORDS], answer, None], 0)
            self.host, self.version = self.connection.getHostname(), self.connection.getLibVersion()
            self._register_callbacks(on_event or (lambda _: None))
        except libvirt.libvirtError as error:
            found = translate_error(error, sent=False)
            if not isinstance(found, ProviderDenied):
                found = ProviderUnavailable("The provider cannot be reached.", provider_message=_message(error))
            raise found from None

    def _register_callbacks(self, on_event: Callable[[str | None], None]) -> None:
        try:
            self.connection.setKeepAlive(*_KEEPALIVE)
            self.is_remote = True
        except libvirt.libvirtError:  # a hypervisor driver in this process has no transport to keep alive
            self.is_remote = False
        self.connection.registerCloseCallback(lambda *_: on_event(None), None)
        self._handle = self.connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda _, domain, *__: on_event(domain.UUIDString()), None
        )

    def domain(self, machine_ref: str) -> libvirt.virDomain:
        """Looks up a domain. Raises ProviderMissing if the ref is not a UUID in libvirt's notation."""
        try:
            is_uuid = str(UUID(machine_ref)) == machine_ref
        except ValueError:
            is_uuid = False
        if not is_uuid:
            raise ProviderMissing("The provider has no such machine.")
        return self.connection.lookupByUUIDString(machine_ref)

    def is_alive(self) -> bool:
        """Whether the connection was open at the last traffic or keepalive probe."""
        return bool(self.connection.isAlive())

    def close(self) -> None:
        """Closes the connection. The callbacks hold references to it, so they are deregistered first."""
        for release in (
            lambda: self.connection.domainEventDeregisterAny(self._handle),
            self.connection.unregisterCloseCallback,
            self.connection.close,
        ):
            with contextlib.suppress(libvirt.libvirtError):
                release()


def _start_event_loop() -> None:
    """Starts the library's event loop, once per process and before the first connection. Keepalive needs it."""
    global _event_loop_started  # noqa: PLW0603 - the library has one event loop per process
    with _event_loop_lock:
        if not _event_loop_started:
            libvirt.registerErrorHandler(lambda *_: None, None)  # the library would also print the errors it raises
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run_event_loop, name="libvirt events", daemon=True).start()
            _event_loop_started = True


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _message(error: libvirt.libvirtError) -> str:
    return str(error.get_error_message() or error)
