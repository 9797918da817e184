"""One login at a vCenter or ESXi host, for the `vsphere` driver: blocking calls, and what their troubles mean.

Nothing is read property by property: every question is one round trip of the property collector. A call that could not
be sent is known from one whose answer was lost, so what changes something is never said to have failed in doubt.
"""

import contextlib
import hashlib
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from typing import Any, TypeVar

from pyVmomi import SoapStubAdapter, vim, vmodl

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

T = TypeVar("T")

_API = "vim.version.version12"  # vSphere 6.7: the first that says when a machine was made
_PAGE = 1_000  # objects in one answer
_IDLE = 30  # seconds after which a connection is not used again, lest the provider has closed it

# What a fault means: the first that fits.
_MEANINGS: tuple[tuple[Any, type[ProviderError], str], ...] = (
    (vim.fault.NotAuthenticated, ProviderUnavailable, "the provider has ended the session"),
    (vim.fault.InvalidLogin, ProviderDenied, "the provider does not accept the gateway's user and password"),
    (vim.fault.NoPermission, ProviderDenied, "the provider does not allow this to the gateway's user"),
    (vmodl.fault.ManagedObjectNotFound, ProviderMissing, "the provider has no such machine or snapshot"),
    (
        (vim.fault.TaskInProgress, vim.fault.ConcurrentAccess),
        ProviderBusy,
        "the provider is doing other work on this machine",
    ),
    (vim.fault.InvalidPowerState, ProviderRefused, "the machine's power state does not allow this"),
    (vim.fault.InvalidState, ProviderBusy, "the machine is in a state that does not allow this now"),
    (
        (vim.fault.NoDiskSpace, vim.fault.InsufficientResourcesFault, vim.fault.TooManySnapshotLevels),
        ProviderFull,
        "the provider has no room for this",
    ),
    (vmodl.fault.HostNotConnected, ProviderUnavailable, "the machine's host is not connected"),
    (vmodl.fault.HostCommunication, ProviderUnavailable, "the provider cannot reach the machine's host"),
    (vmodl.fault.RequestCanceled, ProviderRefused, "the work was stopped on the provider"),
    (vmodl.MethodFault, ProviderRefused, "the provider refused"),
)

Query = vmodl.query.PropertyCollector


@dataclass(frozen=True, slots=True)
class Found:
    """One object of an answer: its reference, its type, and those of its properties that are set."""

    ref: str
    type: Any
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Login:
    """What is made of a login is of no use after it has expired."""

    stub: Any
    content: Any
    view: Any  # of all machines

    def machine(self, ref: str) -> Any:
        return vim.VirtualMachine(ref, self.stub)

    def snapshot(self, ref: str) -> Any:
        return vim.vm.Snapshot(ref, self.stub)

    def task(self, ref: str) -> Any:
        return vim.Task(ref, self.stub)

    def collect(self, start: Any, step: Any, *wanted: tuple[Any, Sequence[str]]) -> list[Found]:
        """The properties `wanted` of each type, of `start` and of what `step` leads to from there."""
        collector, options = self.content.propertyCollector, Query.RetrieveOptions(maxObjects=_PAGE)
        found: list[Found] = []
        page = collector.RetrievePropertiesEx([selection(start, step, *wanted)], options)
        while page is not None:
            found += [_found(thing) for thing in page.objects if not _is_gone(thing)]
            page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
        return found

    def values(self, start: Any, wanted: tuple[Any, Sequence[str]]) -> dict[str, Any]:
        """The properties `wanted` of one object."""
        for found in self.collect(start, None, wanted):
            return found.values
        raise ProviderMissing("the provider has no such machine or snapshot")


class Session:
    """The login that all threads share: made by the first call, and anew by one that finds it expired."""

    def __init__(self, stub: Callable[[], "Stub"], user: str, password: str) -> None:
        self._stub = stub
        self._user = user
        self._password = password
        self._lock = threading.Lock()
        self._login: Login | None = None

    def ask(self, question: Callable[[Login], T]) -> T:
        """Calls what changes nothing."""
        login = self._enter(None)
        with placing(ProviderUnavailable):
            try:
                return question(login)
            except ConnectionError:  # it had been idle, and the provider had closed it; the next one is new
                return question(login)
            except vim.fault.NotAuthenticated:
                return question(self._enter(login))
            except vmodl.fault.ManagedObjectNotFound as fault:
                if fault.obj != login.view:  # which ends with its session
                    raise
                return question(self._enter(login))

    def tell(self, begin: Callable[[Login], T]) -> T:
        """Calls what changes something. Raises OutcomeUnknown when the answer is lost."""
        login = self._enter(None)
        with placing(OutcomeUnknown):
            try:
                return begin(login)
            except vim.fault.NotAuthenticated:
                return begin(self._enter(login))

    def end(self) -> None:
        """Logs out, if anybody is logged in."""
        with self._lock:
            login, self._login = self._login, None
        if login is not None:
            try:
                with placing(ProviderUnavailable):
                    login.content.sessionManager.Logout()
            finally:
                login.stub.retire()

    def _enter(self, expired: Login | None) -> Login:
        with self._lock:
            if self._login is None or self._login is expired:
                if expired is not None:
                    expired.stub.retire()
                self._login = None
                self._login = self._log_in()
            return self._login

    def _log_in(self) -> Login:
        stub = self._stub()
        try:
            with placing(ProviderUnavailable):
                content = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
                content.sessionManager.Login(self._user, self._password, None)
                view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
        except ProviderError:
            stub.retire()
            raise
        return Login(stub, content, view)


class _Connection(HTTPSConnection):
    """Compares the certificate each time it connects; pyvmomi would the first time only."""

    def __init__(self, *arguments: Any, thumbprint: str | None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._thumbprint = thumbprint

    def connect(self) -> None:
        super().connect()
        if self._thumbprint is None:
            return
        certificate = self.sock.getpeercert(binary_form=True)
        if hashlib.sha256(certificate or b"").hexdigest() != self._thumbprint:
            self.close()
            raise ssl.SSLCertVerificationError("it has another thumbprint")


class Stub(SoapStubAdapter):  # type: ignore[misc]
    """The connections of one login. `thumbprint`: hexadecimal digits of the only certificate that is accepted."""

    def __init__(
        self, host: str, port: int, *, ca_file: str | None, thumbprint: str | None, timeout: float, connections: int
    ) -> None:
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise ProviderUnavailable("the file of certificates to trust cannot be read") from error
        if thumbprint is not None:  # it says more than a chain of certificates does
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        super().__init__(
            host=host,
            port=port,
            version=_API,
            poolSize=connections,
            sslContext=context,
            httpConnectionTimeout=timeout,
            connectionPoolTimeout=_IDLE,
        )
        self.scheme = _Connection
        self.schemeArgs["thumbprint"] = thumbprint

    def retire(self) -> None:
        """Closes the connections; those that are in use close when they are given back."""
        self.poolSize = 0
        self.DropConnections()

    def GetConnection(self) -> Any:  # noqa: N802 - pyvmomi's name
        with placing(ProviderUnavailable, "the provider cannot be reached"):
            return super().GetConnection()


def selection(start: Any, step: Any, *wanted: tuple[Any, Sequence[str]]) -> Any:
    """What the property collector is asked: see `Login.collect`."""
    return Query.FilterSpec(
        objectSet=[Query.ObjectSpec(obj=start, skip=False, selectSet=[] if step is None else [step])],
        propSet=[Query.PropertySpec(type=type_, all=False, pathSet=list(paths)) for type_, paths in wanted],
    )


def ref_of(managed: Any) -> str:
    """The provider's own identifier of an object, such as vm-123."""
    ref: str = managed._GetMoId()  # noqa: SLF001 - pyvmomi has no other name for it
    return ref


def _is_gone(thing: Any) -> bool:
    """Whether it was deleted while the answer was made."""
    return any(isinstance(missing.fault, vmodl.fault.ManagedObjectNotFound) for missing in thing.missingSet)


def _found(thing: Any) -> Found:
    for missing in thing.missingSet:
        if isinstance(missing.fault, vim.fault.NotAuthenticated):
            raise missing.fault
        if isinstance(missing.fault, vim.fault.NoPermission) and not isinstance(thing.obj, vim.HostSystem):
            raise missing.fault  # a host's name is worth little; a machine that is half known is worse than none
    return Found(ref_of(thing.obj), type(thing.obj), {changed.name: changed.val for changed in thing.propSet})


@contextlib.contextmanager
def placing(lost: type[ProviderError], words: str = "the connection to the provider was lost") -> Iterator[None]:
    """Says what the troubles of a call mean; `lost` when there was no answer that could be understood."""
    try:
        yield
    except ProviderError:
        raise
    except vmodl.MethodFault as fault:
        raise meaning(fault) from fault
    except ssl.SSLCertVerificationError as error:
        reason = getattr(error, "verify_message", None) or str(error)
        raise lost("the provider's certificate is not trusted", provider_message=reason) from error
    except TimeoutError as error:
        raise lost("the provider did not answer in time") from error
    except (OSError, HTTPException) as error:
        raise lost(words, provider_message=str(error) or None) from error
    except Exception as error:  # whatever pyvmomi makes of nonsense
        raise lost("the provider's answer makes no sense") from error


def meaning(fault: Any) -> ProviderError:
    """The error that a fault of the provider's is, with all that the fault says."""
    kind, words = next((kind, words) for type_, kind, words in _MEANINGS if isinstance(fault, type_))
    told = [fault.msg, *(detail.message for detail in fault.faultMessage or ()), getattr(fault, "privilegeId", None)]
    name = type(fault).__name__.rpartition(".")[2]
    return kind(words, provider_message="; ".join(dict.fromkeys(filter(None, told))) or name)
