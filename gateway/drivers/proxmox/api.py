"""The API of Proxmox VE for the `proxmox` driver: calls, parsing of responses, classification of errors.

The outcomes of commands are determined in `driver`.
"""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests
from proxmoxer.backends.https import Backend
from proxmoxer.core import AuthenticationError, ProxmoxResource, ResourceException
from requests.adapters import HTTPAdapter

from gateway.drivers.base import (
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    count_listed,
    parse_timestamp,
    parsing,
    snapshot_depths,
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


def require_object(answer: Any) -> dict[str, Any]:
    """A response as an object. Raises ProviderUnavailable if it is something else.

    For a body that is not JSON, proxmoxer returns an object with the bytes in `errors`.
    """
    if not isinstance(answer, dict) or isinstance(answer.get("errors"), bytes):
        raise malformed_response(change=False)
    return answer


def parse_machine(state: Mapping[str, Any], ref: str, node: str) -> ReportedMachine:
    """A machine, from its entry in `cluster/resources`, in `nodes/NODE/qemu`, or from its `status/current`."""
    power = _POWER_STATES.get(str(state.get("qmpstatus") or state.get("status")), PowerState.UNKNOWN)
    blocker = None
    if state.get("template"):
        blocker = "The machine is a template, which cannot be snapshotted."
    elif state.get("lock") == "suspended" and power is PowerState.OFF:
        power, blocker = PowerState.SUSPENDED, "The machine is hibernated. Start it first."
    return ReportedMachine(
        ref=ref,
        kind=MachineKind.VM,
        name=state.get("name") or f"VM {ref}",
        power_state=power,
        host=node,
        snapshot_blocker=blocker,
    )


@dataclass(frozen=True, slots=True)
class Listing:
    """The snapshots of a machine and its node. `incomplete`: the refs of snapshots whose creation has not completed."""

    node: str
    reported: ReportedSnapshots
    incomplete: frozenset[str]


def parse_listing(answer: Any, node: str) -> Listing:
    """A listing of snapshots. Raises ProviderUnavailable if it is malformed."""
    with parsing():
        by_name = {str(entry["name"]): entry for entry in require_list(answer)}
        count_listed(0, by_name)
        running = by_name.pop("current")  # a pseudo entry for the machine itself; its parent is the current snapshot
        refs = {name: f"{name}@{_seconds(entry)}" for name, entry in by_name.items()}
        depths = snapshot_depths({name: str(entry.get("parent", "")) for name, entry in by_name.items()})
        order = sorted(by_name, key=depths.__getitem__)
        snapshots = [_parse_snapshot(by_name[name], refs) for name in order]
        incomplete = frozenset(refs[name] for name in order if by_name[name].get("snapstate") == "prepare")
        return Listing(node, ReportedSnapshots(snapshots, refs.get(str(running.get("parent", "")))), incomplete)


def _seconds(entry: Mapping[str, Any]) -> int:
    return int(entry.get("snaptime") or 0)


def _parse_snapshot(entry: Mapping[str, Any], refs: Mapping[str, str]) -> ReportedSnapshot:
    description, token = split_tag(str(entry.get("description") or "").rstrip())
    return ReportedSnapshot(
        ref=refs[str(entry["name"])],
        name=str(entry["name"]),
        created_at=parse_timestamp(_seconds(entry)),
        description=description,
        memory=bool(entry.get("vmstate")),
        parent_ref=refs.get(str(entry.get("parent", ""))),
        token=token,
        ready=not entry.get("snapstate"),
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
