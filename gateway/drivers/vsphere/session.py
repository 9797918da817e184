"""A session at a vCenter or ESXi host for the `vsphere` driver: login, calls, reads of properties, and errors.

Session. All threads share one login. Objects at the provider that belong to it, the view of all machines and the
property collectors, end with it. The first call logs in. A call that finds the login expired logs in again and is
repeated once; if several threads find the same login expired, one of them logs in.

Property collector. pyVmomi reads each property of a managed object with a separate request. The driver reads properties
only through the property collector, which returns many properties of many objects in one request, in pages of up to
1,000 objects. A *filter spec* says which: a start object, a traversal from it to other objects, and the properties of
each type. `Login.collect` sends it.

Errors. A read may be repeated, a write may not, so it matters whether a call was sent:

* `Stub.GetConnection` fails before the call is sent: ProviderUnavailable, for reads and writes.
* The connection fails afterwards: ProviderUnavailable for a read. OutcomeUnknown for a write, because it may have been
  executed.
* A read is repeated once after a ConnectionError: the provider may have closed an idle connection.
* A fault is the provider's answer: the call was received and refused. After the fault NotAuthenticated a write is
  repeated with a new login, because it was not executed.
"""

import contextlib
import hashlib
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from time import monotonic
from typing import Any, TypeVar

from pyVmomi import SoapStubAdapter, vim, vmodl

from gateway.drivers.base import count_listed
from gateway.drivers.vsphere.deserializer import accept_odd_values, skipped_in
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
from gateway.http_client.responses import LimitedResponse, ResponseRejected

accept_odd_values()

T = TypeVar("T")

_API_VERSION = "vim.version.version12"  # vSphere 6.7, the first version with the creation date of machines
_PAGE_SIZE = 1_000  # objects
_MAX_COLLECT = 60.0  # seconds for all pages of a read
_MAX_IDLE = 30  # seconds; an idle connection is then closed, because the provider may have closed it

_MALFORMED = "The provider's response is malformed."
_NOT_TRUSTED = "The provider's certificate is not trusted. Check the options 'ca_file' and 'thumbprint'."

# Types of faults and the errors that they stand for. The first match counts, so subtypes precede their supertypes.
_FAULTS: tuple[tuple[Any, type[ProviderError], str], ...] = (
    (vim.fault.NotAuthenticated, ProviderUnavailable, "The provider has ended the session."),
    (vim.fault.InvalidLogin, ProviderDenied, "The provider does not accept the gateway's credentials."),
    (vim.fault.NoPermission, ProviderDenied, "The gateway's user lacks a permission at the provider."),
    (vmodl.fault.ManagedObjectNotFound, ProviderMissing, "The provider has no such machine or snapshot."),
    (
        (vim.fault.TaskInProgress, vim.fault.ConcurrentAccess),
        ProviderBusy,
        "The provider is executing another task on this machine.",
    ),
    (vim.fault.InvalidPowerState, ProviderRefused, "The machine's power state does not allow this operation."),
    (vim.fault.InvalidState, ProviderBusy, "The machine's present state does not allow this operation."),
    (
        (vim.fault.NoDiskSpace, vim.fault.InsufficientResourcesFault, vim.fault.TooManySnapshotLevels),
        ProviderFull,
        "The provider has not enough space or resources, or the machine has too many levels of snapshots.",
    ),
    (vmodl.fault.HostNotConnected, ProviderUnavailable, "The machine's host is not connected."),
    (vmodl.fault.HostCommunication, ProviderUnavailable, "The provider cannot reach the machine's host."),
    (vmodl.fault.RequestCanceled, ProviderRefused, "The task was canceled at the provider."),
    (vmodl.MethodFault, ProviderRefused, "The provider refused the request."),
)

PropertyCollector = vmodl.query.PropertyCollector


@dataclass(frozen=True, slots=True)
class CollectedObject:
    """An object that the property collector returned: its ref, its type, and those of the properties that are set.

    A value that is malformed is text. `skipped` has the names of the elements and properties that could not be read, so
    that the values are incomplete. `fault` is why the user may not read all properties.
    """

    ref: str
    type: Any
    values: dict[str, Any]
    skipped: Sequence[str] = ()
    fault: Any = None


_UNIDENTIFIED = CollectedObject("", None, {})  # an object of a response that may be any


@dataclass(frozen=True, slots=True)
class Login:
    """A login and its objects at the provider. They cannot be used after it has expired."""

    stub: Any
    content: Any
    view: Any  # the container view of all machines

    def machine(self, ref: str) -> Any:
        return vim.VirtualMachine(ref, self.stub)

    def snapshot(self, ref: str) -> Any:
        return vim.vm.Snapshot(ref, self.stub)

    def task(self, ref: str) -> Any:
        return vim.Task(ref, self.stub)

    def collect(self, start: Any, traversal: Any, *properties: tuple[Any, Sequence[str]]) -> list[CollectedObject]:
        """Reads `properties`, pairs of a type and paths, of `start` and of the objects that `traversal` leads to.

        Objects that are deleted during the read are left out. `properties` include one of the type of `start`, so that
        it is always in the answer: pyVmomi takes a malformed answer for an empty one. Raises ProviderUnavailable, and
        the fault if the user may not read all properties of an object.
        """
        found = self.list_all(start, traversal, *properties)
        for each in found:
            if each.fault is not None:
                raise each.fault
            if each.type is None:
                raise ProviderUnavailable(_MALFORMED)
        return found

    def list_all(self, start: Any, traversal: Any, *properties: tuple[Any, Sequence[str]]) -> list[CollectedObject]:
        """As `collect`, but objects that cannot be read are in the list."""
        collector, options = self.content.propertyCollector, PropertyCollector.RetrieveOptions(maxObjects=_PAGE_SIZE)
        found: list[CollectedObject] = []
        types = {type_ for type_, _ in properties}
        total, complete, deadline = 0, False, monotonic() + _MAX_COLLECT
        page = collector.RetrievePropertiesEx([filter_spec(start, traversal, *properties)], options)
        while page is not None:
            total = count_listed(total, page.objects)
            complete = complete or any(content.obj == start for content in page.objects)
            found += [_collected_object(content, types) for content in page.objects if not _was_deleted(content)]
            found += [_UNIDENTIFIED for _ in skipped_in(page)]
            if monotonic() > deadline:
                raise ProviderUnavailable("The provider's answer did not end in time.")
            page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
        if not complete:
            raise ProviderUnavailable(_MALFORMED)
        return found

    def values(self, managed: Any, properties: tuple[Any, Sequence[str]]) -> CollectedObject:
        """Reads properties of one object. Raises ProviderMissing."""
        for found in self.collect(managed, None, properties):
            return found
        raise ProviderMissing("The provider has no such machine or snapshot.")


class Session:
    """The login that all threads share. See the module's description."""

    def __init__(self, stub: Callable[[], "Stub"], user: str, password: str) -> None:
        self._stub = stub
        self._user = user
        self._password = password
        self._lock = threading.Lock()
        self._login: Login | None = None

    def read(self, function: Callable[[Login], T]) -> T:
        """Runs a function that changes nothing."""
        login = self._current_login(None)
        with translated_errors(ProviderUnavailable):
            try:
                return function(login)
            except (
                ConnectionError,
                ssl.SSLEOFError,
            ):  # the idle connection was closed; the second call opens a new one
                return function(login)
            except vim.fault.NotAuthenticated:
                return function(self._current_login(login))
            except vmodl.fault.ManagedObjectNotFound as fault:
                if fault.obj != login.view:  # the view ends with the session
                    raise
                return function(self._current_login(login))

    def write(self, function: Callable[[Login], T]) -> T:
        """Runs a function that makes one call, which changes something. Raises OutcomeUnknown if the answer is lost."""
        login = self._current_login(None)
        with translated_errors(OutcomeUnknown):
            try:
                return function(login)
            except vim.fault.NotAuthenticated:
                return function(self._current_login(login))

    def log_out(self) -> None:
        """Logs out, if there is a login, and closes its connections."""
        with self._lock:
            login, self._login = self._login, None
        if login is not None:
            try:
                with translated_errors(ProviderUnavailable):
                    login.content.sessionManager.Logout()
            finally:
                login.stub.retire()

    def _current_login(self, expired: Login | None) -> Login:
        """The login. Logs in for the first call, and again if the login is still the `expired` one."""
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
            with translated_errors(ProviderUnavailable):
                content = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
                content.sessionManager.Login(self._user, self._password, None)
                view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
        except ProviderError:
            stub.retire()
            raise
        return Login(stub, content, view)


class _PinnedConnection(HTTPSConnection):
    """Checks the certificate's thumbprint at every connect; pyVmomi checks only the first connection."""

    response_class = LimitedResponse

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
            raise ssl.SSLCertVerificationError("The certificate has another thumbprint.")


class Stub(SoapStubAdapter):  # type: ignore[misc]
    """The connection pool of one login. `thumbprint`: SHA-256 of the only accepted certificate, in hexadecimal."""

    def __init__(
        self, host: str, port: int, *, ca_file: str | None, thumbprint: str | None, timeout: float, connections: int
    ) -> None:
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise ProviderUnavailable("The file of the option 'ca_file' cannot be read.") from error
        if thumbprint is not None:  # the thumbprint replaces the verification of the chain
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        super().__init__(
            host=host,
            port=port,
            version=_API_VERSION,
            poolSize=connections,
            sslContext=context,
            httpConnectionTimeout=timeout,
            connectionPoolTimeout=_MAX_IDLE,
        )
        self.scheme = _PinnedConnection
        self.schemeArgs["thumbprint"] = thumbprint

    def retire(self) -> None:
        """Closes the idle connections. Connections in use are closed when they are returned to the pool."""
        self.poolSize = 0
        self.DropConnections()

    def GetConnection(self) -> Any:  # noqa: N802 - pyVmomi's name
        with translated_errors(ProviderUnavailable, "The provider cannot be reached."):
            return super().GetConnection()


def filter_spec(start: Any, traversal: Any, *properties: tuple[Any, Sequence[str]]) -> Any:
    """A filter spec of the property collector; for the arguments see `Login.collect`."""
    return PropertyCollector.FilterSpec(
        objectSet=[
            PropertyCollector.ObjectSpec(obj=start, skip=False, selectSet=[] if traversal is None else [traversal])
        ],
        propSet=[
            PropertyCollector.PropertySpec(type=type_, all=False, pathSet=list(paths)) for type_, paths in properties
        ],
    )


def ref_of(managed: Any) -> str:
    """The provider's identifier of a managed object (its moref), such as vm-123."""
    ref: str = managed._GetMoId()  # noqa: SLF001 - pyVmomi has no public accessor
    return ref


def _was_deleted(content: Any) -> bool:
    """Whether the object was deleted during the read."""
    return any(isinstance(missing.fault, vmodl.fault.ManagedObjectNotFound) for missing in content.missingSet)


def _collected_object(content: Any, types: set[Any]) -> CollectedObject:
    """Converts an object. One of another type than these has none, as it may be any.

    If the user may not read all properties of a machine, it has the fault: a machine with a part of its properties
    would be reported wrongly. Only the name of a host is optional. Raises the fault for other objects.
    """
    if type(content.obj) not in types:
        return _UNIDENTIFIED
    fault = None
    skipped = [*skipped_in(content)]
    for missing in content.missingSet:
        if isinstance(missing.fault, vim.fault.NotAuthenticated):
            raise missing.fault
        if isinstance(missing.fault, vim.fault.NoPermission) and not isinstance(content.obj, vim.HostSystem):
            if not isinstance(content.obj, vim.VirtualMachine):
                raise missing.fault
            fault = missing.fault
        skipped.append(missing.path)
    values = {changed.name: changed.val for changed in content.propSet}
    return CollectedObject(ref_of(content.obj), type(content.obj), values, skipped, fault)


@contextlib.contextmanager
def translated_errors(
    lost: type[ProviderError], message: str = "The connection to the provider was lost."
) -> Iterator[None]:
    """Raises the errors of a call as ProviderErrors: `lost`, with `message`, if there was no well-formed answer."""
    try:
        yield
    except ProviderError:
        raise
    except vmodl.MethodFault as fault:
        raise translate_fault(fault) from fault
    except ssl.SSLCertVerificationError as error:
        reason = getattr(error, "verify_message", None) or str(error)
        raise lost(_NOT_TRUSTED, provider_message=reason) from error
    except TimeoutError as error:
        raise lost("The provider did not answer in time.") from error
    except ResponseRejected as error:
        raise lost(str(error)) from error
    except (OSError, HTTPException) as error:
        raise lost(message, provider_message=str(error) or None) from error
    except Exception as error:  # pyVmomi raises various exceptions for a malformed response
        raise lost("The provider's response is malformed.") from error


def translate_fault(fault: Any) -> ProviderError:
    """The error for a fault. The messages of the fault become its provider message."""
    kind, message = next((kind, message) for type_, kind, message in _FAULTS if isinstance(fault, type_))
    details = [fault.msg, *(detail.message for detail in fault.faultMessage or ()), getattr(fault, "privilegeId", None)]
    name = type(fault).__name__.rpartition(".")[2]
    return kind(message, provider_message="; ".join(dict.fromkeys(filter(None, details))) or name)
