"""The API of Proxmox VE for the `proxmox` driver: calls, parsing of responses, classification of errors.

The outcomes of commands are determined in `driver`.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests
from proxmoxer.backends.https import Backend
from proxmoxer.core import AuthenticationError, ProxmoxResource, ResourceException
from requests.adapters import HTTPAdapter

from gateway.drivers.base import (
    OddValue,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    count_listed,
    is_ref,
    parse_timestamp,
    report_each,
    report_machine,
    report_snapshot,
    snapshot_depths,
    unreadable_machine,
)
from gateway.drivers.operation_tags import split_tag
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
from gateway.http_client.responses import find_rejection
from gateway.http_client.urllib3_limits import limit_urllib3
from gateway.models import MachineKind, PowerState

limit_urllib3()


class NameTaken(ProviderUnavailable):
    """Another client has created a snapshot with this name since the names were listed. Nothing was changed."""


class TaskNotFound(ProviderError):
    """The provider no longer has the task."""


# HTTP statuses. 595 to 599 are Proxmox VE's own, for requests that one node forwards to another.
_NOT_PROCESSED = {429, 503, 595}  # no node processed the request; 595: the other node could not be reached
_MAYBE_PROCESSED = {408, 502, 504, 596, 597, 598, 599}

_CA_FILE_UNUSABLE = "The file of the option 'ca_file' cannot be read, or is not a PEM file."

_POWER_STATES = {
    "running": PowerState.ON,
    "stopped": PowerState.OFF,
    "paused": PowerState.SUSPENDED,
    "prelaunch": PowerState.SUSPENDED,
    "suspended": PowerState.SUSPENDED,
    "io-error": PowerState.SUSPENDED,  # paused by QEMU after a disk error
}

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}  # Proxmox VE's texts of booleans

# Patterns of error messages of the API and of exit statuses of tasks, and the errors that they stand for.
_ERRORS: tuple[tuple[str, type[ProviderError], str], ...] = (
    ("unable to parse worker upid|no such task", TaskNotFound, "The provider no longer has the task."),
    ("snapshot '.*' does not exist", ProviderMissing, "The provider has no such snapshot."),
    ("configuration file .*does not exist|unable to find conf", ProviderMissing, "The provider has no such machine."),
    ("already used", NameTaken, "Another client has just created a snapshot with the same name."),
    (r"is locked \(suspended\)", ProviderRefused, "The machine is hibernated. Start it first."),
    (
        "is locked|can't lock file|migration lock|lock request",
        ProviderBusy,
        "The provider is executing another task on this machine.",
    ),
    (
        "no quorum|hostname lookup",
        ProviderUnavailable,
        "The provider's cluster has no quorum, or the name of a node cannot be resolved.",
    ),
    (
        "no space left|out of space|not enough (free )?space|insufficient (free )?space|free space in|quota exceeded",
        ProviderFull,
        "The provider has not enough free space.",
    ),
)


class Client:
    """Makes blocking calls; thread-safe.

    `log_in` makes a new login. `threads`: number of threads that call it, and so the size of the connection pool.
    `login_expires`: True for a login with a password, False for an API token. If True, a call that gets status 401 is
    repeated once with a new login.
    """

    def __init__(self, log_in: Callable[[], Backend], threads: int, *, login_expires: bool) -> None:
        self._log_in = log_in
        self._threads = threads
        self._login_expires = login_expires
        self._lock = threading.Lock()
        self._session: requests.Session | None = None
        self._api: ProxmoxResource | None = None

    def call(self, change: bool, method: str, path: str, parameters: dict[str, Any]) -> Any:
        """Calls the API; the data of the response. `change`: the call changes something.

        Raises ProviderError: OutcomeUnknown if a change may have been executed.
        """
        try:
            api = self._get_api(None)
            try:
                return getattr(api(path), method)(**parameters)
            except (ResourceException, AuthenticationError) as error:
                if not self._login_expires or getattr(error, "status_code", 401) != 401:
                    raise
                return getattr(self._get_api(api)(path), method)(**parameters)
        except ResourceException as error:
            raise _translate_response(error, change) from None
        except AuthenticationError as error:
            if re.search(r"code: (?!401)\d", str(error)):
                raise ProviderUnavailable("The provider accepts no logins at the moment.") from None
            raise ProviderDenied("The provider does not accept the gateway's credentials.") from None
        except requests.JSONDecodeError:
            raise malformed_response(change) from None
        except requests.RequestException as error:
            raise _translate_lost_call(error, change) from None
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # perhaps from an unusable ticket
            with self._lock:
                self.close()
            raise malformed_response(change) from None
        except OSError:
            raise ProviderUnavailable(_CA_FILE_UNUSABLE) from None

    def _get_api(self, expired: ProxmoxResource | None) -> ProxmoxResource:
        """The API with a valid login. Logs in for the first call, and again if the login is still the `expired` one."""
        with self._lock:
            if self._api is None or self._api is expired:
                self.close()
                backend = self._log_in()
                self._session = backend.get_session()
                self._session.mount("https://", HTTPAdapter(pool_maxsize=self._threads))
                self._api = ProxmoxResource(
                    base_url=backend.get_base_url(), session=self._session, serializer=backend.get_serializer()
                )
            return self._api

    def close(self) -> None:
        """Closes the connections. A later call opens new ones."""
        if self._session is not None:
            self._session.close()
        self._session = self._api = None


def translate_message(text: str) -> ProviderError:
    """The error for an error message or an exit status of the provider, which becomes the provider message."""
    for pattern, kind, message in _ERRORS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind(message, provider_message=text)
    return ProviderRefused("The provider reported an error.", provider_message=text)


def malformed_response(change: bool) -> ProviderError:
    """The error for a malformed response. If `change` is true, the call may have been executed."""
    return (OutcomeUnknown if change else ProviderUnavailable)("The provider's response is malformed.")


def require_list(answer: Any) -> list[dict[str, Any]]:
    """A response as a list of objects. Raises ProviderUnavailable if it is something else."""
    if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
        raise malformed_response(change=False)
    return answer


def require_entries(answer: Any) -> list[Any]:
    """A response as a list, whose items may be anything. Raises ProviderUnavailable if it is something else."""
    if not isinstance(answer, list):
        raise malformed_response(change=False)
    return answer


def require_object(answer: Any) -> dict[str, Any]:
    """A response as an object. Raises ProviderUnavailable if it is something else.

    For a body that is not JSON, proxmoxer returns an object with the bytes in `errors`.
    """
    if not isinstance(answer, dict) or isinstance(answer.get("errors"), bytes):
        raise malformed_response(change=False)
    return answer


def parse_flag(value: object) -> bool:
    """A boolean. Proxmox VE sends it as a number, as text or as a boolean of JSON; one that is absent is false.

    The text "0" is true in Python, so a value of Proxmox VE must not be tested otherwise. Raises OddValue.
    """
    if value is None:
        return False
    text = str(value).lower() if isinstance(value, bool | int | str) else None
    if text not in _TRUE and text not in _FALSE:
        raise OddValue("is neither true nor false")
    return text in _TRUE


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines of a cluster, from the listing of its resources.

    `entries` are the machines' entries by vmid. `unreadable` has a machine for each entry that may be one and has no
    valid vmid. `offline` has the names of the nodes that are offline.
    """

    entries: Mapping[str, Mapping[str, Any]]
    unreadable: Sequence[ReportedMachine]
    offline: frozenset[str]

    def node(self, ref: str) -> str | None:
        """The node of a machine; None if its entry has no valid one."""
        node = self.entries[ref].get("node")
        return node if is_ref(node) else None


def parse_cluster(answer: Any) -> Cluster:
    """The machines of a cluster. Raises ProviderUnavailable if none of several entries can be read."""
    entries: dict[str, Mapping[str, Any]] = {}
    unreadable, offline = [], set()
    for entry in require_entries(answer):
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind == "node" and entry.get("status") == "offline":
            offline.add(str(entry.get("node")))
        elif kind == "qemu" and (ref := _vmid(entry)) is not None:
            entries[ref] = entry
        elif kind == "qemu":
            unreadable.append(unreadable_machine(entry.get("vmid"), MachineKind.VM, "An entry has no valid vmid."))
        elif not isinstance(kind, str):  # also if it has a vmid, which may be that of a container
            unreadable.append(unreadable_machine("", MachineKind.VM, "An entry has no valid type."))
    count_listed(0, [*entries, *unreadable])
    if unreadable and not entries:
        raise malformed_response(change=False)
    return Cluster(entries, unreadable, frozenset(offline))


def _vmid(entry: Mapping[str, Any]) -> str | None:
    vmid = entry.get("vmid")
    if isinstance(vmid, bool) or not isinstance(vmid, int | str):
        return None
    text = str(vmid)
    return text if text.isascii() and text.isdecimal() and is_ref(text) else None


def parse_node(answer: Any) -> dict[str, Mapping[str, Any]]:
    """The entries of a node's machines by vmid, of those that can be read."""
    entries = [entry for entry in require_entries(answer) if isinstance(entry, dict)]
    return {ref: entry for entry in entries if (ref := _vmid(entry)) is not None}


def parse_machine(state: Mapping[str, Any], ref: str, node: str | None, known_name: str | None) -> ReportedMachine:
    """A machine, from its entry in `cluster/resources`, in `nodes/NODE/qemu`, or from its `status/current`.

    `known_name` is what it was called before: the entry of a machine on a node that is offline has no name.
    """

    def power_state() -> PowerState:
        return PowerState.SUSPENDED if _is_hibernated(state) else _power_state(state)

    def blocker() -> str | None:
        if parse_flag(state.get("template")):
            return "The machine is a template, which cannot be snapshotted."
        return "The machine is hibernated. Start it first." if _is_hibernated(state) else None

    return report_machine(
        ref,
        MachineKind.VM,
        name=lambda: known_name or f"VM {ref}" if state.get("name") in (None, "") else state["name"],
        power_state=power_state,
        host=lambda: _require_node(node),
        snapshot_blocker=blocker,
    )


def _power_state(state: Mapping[str, Any]) -> PowerState:
    power = state.get("qmpstatus") or state.get("status")
    if power is not None and not isinstance(power, str):
        raise OddValue("is not text")
    return _POWER_STATES.get(power or "", PowerState.UNKNOWN)


def _is_hibernated(state: Mapping[str, Any]) -> bool:
    return state.get("lock") == "suspended" and _power_state(state) is PowerState.OFF


def _require_node(node: str | None) -> str:
    if node is None:
        raise OddValue("is not a valid name of a node")
    return node


@dataclass(frozen=True, slots=True)
class Listing:
    """The snapshots of a machine and its node. `incomplete`: the refs of snapshots whose creation has not completed."""

    node: str
    reported: ReportedSnapshots
    incomplete: frozenset[str]


_CURRENT = "current"  # the name of a pseudo entry for the machine itself; its parent is the current snapshot


def parse_listing(answer: Any, node: str) -> Listing:
    """A listing of snapshots. Raises ProviderUnavailable if it is malformed."""
    entries = require_entries(answer)
    count_listed(0, entries)
    named, unnamed = report_each(entries, _named)
    by_name = dict(named)
    running, oddity = by_name.pop(_CURRENT, None), None
    if running is None:
        oddity = "The listing of snapshots has no entry for the machine's present state, so none is current."
    refs = {name: f"{name}@{_seconds(entry)}" for name, entry in by_name.items()}
    parents = {name: _known_parent(entry, refs) for name, entry in by_name.items()}
    depths = snapshot_depths(parents)
    order = sorted(by_name, key=depths.__getitem__)
    snapshots, omitted = report_each(order, lambda name: _parse_snapshot(name, by_name[name], refs))
    incomplete = frozenset(refs[name] for name in order if by_name[name].get("snapstate") == "prepare")
    current = None if running is None or (parent := _known_parent(running, refs)) is None else refs[parent]
    return Listing(node, ReportedSnapshots(snapshots, current, (*unnamed, *omitted), oddity), incomplete)


def _named(entry: Any) -> tuple[str, Mapping[str, Any]]:
    """The name and the entry of a snapshot. Raises OddValue if it has no valid name."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise OddValue("A snapshot was left out, because it has no valid name.")
    return str(name), entry


def _seconds(entry: Mapping[str, Any]) -> int:
    """The time in a snapshot's ref; 0 if the entry has none."""
    try:
        return int(entry["snaptime"])
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return 0


def _known_parent(entry: Mapping[str, Any], refs: Mapping[str, str]) -> str | None:
    parent = entry.get("parent")
    name = str(parent) if isinstance(parent, str | int) else ""
    return name if name in refs else None


def _parse_snapshot(name: str, entry: Mapping[str, Any], refs: Mapping[str, str]) -> ReportedSnapshot:
    def description() -> str:
        text = entry.get("description")
        if text is not None and not isinstance(text, str | int | float):
            raise OddValue("is not text")
        return "" if text is None else str(text).rstrip()

    def parent() -> str | None:
        known = _known_parent(entry, refs)
        if known == name:
            raise OddValue("is the snapshot itself")
        if known is None and not isinstance(entry.get("parent", ""), str | int):
            raise OddValue("is not a name")
        return None if known is None else refs[known]  # Proxmox VE keeps the name of a parent that was deleted

    return report_snapshot(
        refs[name],
        name=lambda: name,
        created_at=lambda: parse_timestamp(entry.get("snaptime")),
        description=lambda: split_tag(description())[0],
        memory=lambda: parse_flag(entry.get("vmstate")),
        parent_ref=parent,
        token=lambda: split_tag(description())[1],
        ready=lambda: entry.get("snapstate") in (None, ""),
    )


def parse_progress(line: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """The percentage in a line of a task's log, None if the line has none, and the text of the line."""
    text = str(line.get("t") or "").strip()
    percent = re.search(r"\b(\d{1,2}|100)(\.\d+)?\s?%", text)
    return int(percent[1]) if percent else None, text or None


def is_success(exit_status: str) -> bool:
    """Whether a task with this exit status has completed."""
    return exit_status == "OK" or exit_status.startswith("WARNINGS")


def was_interrupted(exit_status: str) -> bool:
    """Whether a task with this exit status was stopped from outside, at an unknown point of its work."""
    return re.search("unexpected status|unable to read|interrupt|signal", exit_status) is not None


def started_at(upid: str) -> int:
    """The start time of a task in Unix seconds, from its id UPID:node:pid:pstart:starttime:…; 0 for an empty id."""
    return int(upid.split(":")[4], 16) if upid else 0


def _translate_response(error: ResourceException, change: bool) -> ProviderError:
    """The error for a response with an error status."""
    details = error.errors.values() if isinstance(error.errors, dict) else ()
    text = "; ".join([str(error.content or "").strip(), *(text for text in details if isinstance(text, str))])
    match error.status_code:
        case 401:
            return ProviderDenied("The provider does not accept the gateway's credentials.", provider_message=text)
        case 403:
            return ProviderDenied("The gateway's user lacks a permission at the provider.", provider_message=text)
        case status if status in _NOT_PROCESSED or (status in _MAYBE_PROCESSED and not change):
            return ProviderUnavailable("The provider or one of its nodes cannot be reached.", provider_message=text)
        case status if status in _MAYBE_PROCESSED:
            return OutcomeUnknown("The provider's response was lost.", provider_message=text)
    translated = translate_message(text)
    if not change and type(translated) is ProviderRefused:  # an unknown error of a read may be temporary
        return ProviderUnavailable("The provider reported an error.", provider_message=text)
    return translated


def _translate_lost_call(error: requests.RequestException, change: bool) -> ProviderError:
    """The error for a call that got no response."""
    if rejection := find_rejection(error):
        return (OutcomeUnknown if change else ProviderUnavailable)(str(rejection))
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return ProviderUnavailable("The provider's certificate is not trusted. Check the option 'ca_file'.")
    if "[X509" in text:
        return ProviderUnavailable(_CA_FILE_UNUSABLE)
    sent = change and not isinstance(error, requests.ConnectTimeout) and "NewConnectionError" not in text
    if sent:
        return OutcomeUnknown("The provider did not answer.")
    return ProviderUnavailable("The provider cannot be reached or does not answer.")
