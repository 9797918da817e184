"""The API of Proxmox VE for the `proxmox` driver: calls, what the answers mean, and what the errors mean.

Says everything in the gateway's words; what becomes of wishes is the driver's business.
"""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests
from proxmoxer.backends.https import Backend
from proxmoxer.core import AuthenticationError, ProxmoxResource, ResourceException
from requests.adapters import HTTPAdapter

from gateway.drivers.base import ReportedMachine, ReportedSnapshot, ReportedSnapshots
from gateway.drivers.operation_tags import unmark
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
from gateway.models import MachineKind, PowerState


class NameUsed(ProviderUnavailable):
    """Somebody has made a snapshot of this name since the names were looked at; nothing was begun."""


class TaskForgotten(ProviderError):
    """The provider no longer knows the task."""


_UNHEARD = {429, 503, 595}  # nobody took the request; 595: a node could not be reached from its neighbour
_LOST = {408, 502, 504, 596, 597, 598, 599}  # somebody may have taken it

_NO_CA = "the file that 'ca_file' names cannot be used"

_POWER = {
    "running": PowerState.ON,
    "stopped": PowerState.OFF,
    "paused": PowerState.SUSPENDED,
    "prelaunch": PowerState.SUSPENDED,
    "suspended": PowerState.SUSPENDED,
    "io-error": PowerState.SUSPENDED,  # QEMU has paused it until its disk can be written again
}

_MEANINGS: tuple[tuple[str, type[ProviderError], str], ...] = (
    ("unable to parse worker upid|no such task", TaskForgotten, "the provider no longer knows the task"),
    ("snapshot '.*' does not exist", ProviderMissing, "the provider has no such snapshot"),
    ("configuration file .*does not exist|unable to find conf", ProviderMissing, "the provider has no such machine"),
    ("already used", NameUsed, "the machine has just got another snapshot of this name"),
    (r"is locked \(suspended\)", ProviderRefused, "the machine is hibernated, and has to be started first"),
    (
        "is locked|can't lock file|migration lock|lock request",
        ProviderBusy,
        "the provider is doing other work on this machine",
    ),
    ("no quorum|hostname lookup", ProviderUnavailable, "the provider's cluster is not in order"),
    (
        "no space left|out of space|not enough (free )?space|insufficient (free )?space|free space in|quota exceeded",
        ProviderFull,
        "the provider has no space left for it",
    ),
)


class Client:
    """Blocking calls from so many threads. `enter` logs in; `renews`: whether that helps when a login has run out."""

    def __init__(self, enter: Callable[[], Backend], threads: int, *, renews: bool) -> None:
        self._log_in = enter
        self._threads = threads
        self._renews = renews
        self._lock = threading.Lock()
        self._session: requests.Session | None = None
        self._api: ProxmoxResource | None = None

    def call(self, change: bool, method: str, path: str, parameters: dict[str, Any]) -> Any:
        """What the API answers. Raises ProviderError: OutcomeUnknown when a `change` may have been made."""
        try:
            api = self._enter(None)
            try:
                return getattr(api(path), method)(**parameters)
            except (ResourceException, AuthenticationError) as error:
                if not self._renews or getattr(error, "status_code", 401) != 401:
                    raise
                return getattr(self._enter(api)(path), method)(**parameters)
        except ResourceException as error:
            raise _refusal(error, change) from None
        except AuthenticationError as error:
            if re.search(r"code: (?!401)\d", str(error)):
                raise ProviderUnavailable("the provider lets nobody in at the moment") from None
            raise ProviderDenied("the provider does not accept the gateway's credentials") from None
        except (requests.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise nonsense(change) from None
        except requests.RequestException as error:
            raise _silence(error, change) from None
        except OSError:
            raise ProviderUnavailable(_NO_CA) from None

    def _enter(self, left: ProxmoxResource | None) -> ProxmoxResource:
        """The API; entered anew when it is still `left`, whose login has run out."""
        with self._lock:
            if self._api is None or self._api is left:
                self.close()
                backend = self._log_in()
                self._session = backend.get_session()
                self._session.mount("https://", HTTPAdapter(pool_maxsize=self._threads))
                self._api = ProxmoxResource(
                    base_url=backend.get_base_url(), session=self._session, serializer=backend.get_serializer()
                )
            return self._api

    def close(self) -> None:
        """Lets go of the connections; a later call makes new ones."""
        if self._session is not None:
            self._session.close()
        self._session = self._api = None


def explained(words: str) -> ProviderError:
    """What the provider's words mean to the caller, when they say why something was not done."""
    for pattern, kind, message in _MEANINGS:
        if re.search(pattern, words, re.IGNORECASE):
            return kind(message, provider_message=words)
    return ProviderRefused("the provider reported an error", provider_message=words)


def nonsense(change: bool) -> ProviderError:
    """What an answer that cannot be understood means."""
    return (OutcomeUnknown if change else ProviderUnavailable)("the provider's answer cannot be understood")


def rows(answer: Any) -> list[dict[str, Any]]:
    """An answer that has to be a list of objects."""
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise nonsense(change=False)
    return answer


def row(answer: Any) -> dict[str, Any]:
    """An answer that has to be an object. What proxmoxer could not read comes as one too."""
    if not isinstance(answer, dict) or isinstance(answer.get("errors"), bytes):
        raise nonsense(change=False)
    return answer


def read_machine(state: Mapping[str, Any], ref: str, node: str) -> ReportedMachine:
    """A machine, out of any of the objects that tell of its state."""
    power = _POWER.get(state.get("qmpstatus") or state.get("status", ""), PowerState.UNKNOWN)
    obstacle = None
    if state.get("template"):
        obstacle = "this is a template, of which no snapshots can be made"
    elif state.get("lock") == "suspended" and power is PowerState.OFF:
        power, obstacle = PowerState.SUSPENDED, "the machine is hibernated, and has to be started first"
    return ReportedMachine(
        ref=ref,
        kind=MachineKind.VM,
        name=state.get("name") or f"VM {ref}",
        power_state=power,
        host=node,
        obstacle=obstacle,
    )


@dataclass(frozen=True, slots=True)
class Listing:
    """The snapshots of a machine, the node it is on, and the refs of those that a create has left half-made."""

    node: str
    seen: ReportedSnapshots
    half_made: frozenset[str]


def read_listing(answer: Any, node: str) -> Listing:
    """A listing of snapshots. Raises ProviderUnavailable when it makes no sense."""
    try:
        by_name = {str(entry["name"]): entry for entry in rows(answer)}
        here = by_name.pop("current")  # the state that the machine runs on
        refs = {name: f"{name}@{int(entry.get('snaptime') or 0)}" for name, entry in by_name.items()}
        order = sorted(by_name, key=lambda name: _depth(name, by_name))
        snapshots = [_read_snapshot(by_name[name], refs) for name in order]
        half_made = frozenset(refs[name] for name in order if by_name[name].get("snapstate") == "prepare")
        return Listing(node, ReportedSnapshots(snapshots, refs.get(here.get("parent", ""))), half_made)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise nonsense(change=False) from None


def _read_snapshot(entry: Mapping[str, Any], refs: Mapping[str, str]) -> ReportedSnapshot:
    description, token = unmark(str(entry.get("description") or "").rstrip())
    return ReportedSnapshot(
        ref=refs[entry["name"]],
        name=entry["name"],
        created_at=datetime.fromtimestamp(int(entry.get("snaptime") or 0), UTC),
        description=description,
        memory=bool(entry.get("vmstate")),
        parent_ref=refs.get(entry.get("parent", "")),
        token=token,
        ready=not entry.get("snapstate"),
    )


def _depth(name: str, by_name: Mapping[str, Mapping[str, Any]]) -> int:
    line: list[str] = []
    while name in by_name and name not in line:
        line.append(name)
        name = by_name[name].get("parent", "")
    return len(line)


def read_progress(line: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """Percent, where it tells, and words, out of a line of a task's log."""
    words = str(line.get("t") or "").strip()
    percent = re.search(r"\b(\d{1,2}|100)(\.\d+)?\s?%", words)
    return int(percent[1]) if percent else None, words or None


def is_well(words: str) -> bool:
    """Whether a task's last words say that it did what it had to."""
    return words == "OK" or words.startswith("WARNINGS")


def was_killed(words: str) -> bool:
    """Whether they say that it was ended from outside, at any point of its work."""
    return re.search("unexpected status|unable to read|interrupt|signal", words) is not None


def begun_at(upid: str) -> int:
    """Seconds, out of UPID:node:pid:pstart:starttime:…; 0 for no task."""
    return int(upid.split(":")[4], 16) if upid else 0


def _refusal(error: ResourceException, change: bool) -> ProviderError:
    """What an answer that is an error means."""
    details = error.errors.values() if isinstance(error.errors, dict) else ()
    words = "; ".join([str(error.content or "").strip(), *(text for text in details if isinstance(text, str))])
    match error.status_code:
        case 401:
            return ProviderDenied("the provider does not accept the gateway's credentials", provider_message=words)
        case 403:
            return ProviderDenied("the gateway's user lacks a right on the provider", provider_message=words)
        case status if status in _UNHEARD or (status in _LOST and not change):
            return ProviderUnavailable("the provider cannot be reached, or a node of it", provider_message=words)
        case status if status in _LOST:
            return OutcomeUnknown("the provider's answer was lost", provider_message=words)
    meaning = explained(words)
    if not change and type(meaning) is ProviderRefused:  # it was only asked: perhaps it can answer later
        return ProviderUnavailable("the provider reported an error", provider_message=words)
    return meaning


def _silence(error: requests.RequestException, change: bool) -> ProviderError:
    """What the lack of an answer means."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return ProviderUnavailable("the provider's certificate is not trusted; see 'ca_file'")
    if "[X509" in text:
        return ProviderUnavailable(_NO_CA)
    begun = change and not isinstance(error, requests.ConnectTimeout) and "NewConnectionError" not in text
    if begun:
        return OutcomeUnknown("the provider did not answer")
    return ProviderUnavailable("the provider cannot be reached, or does not answer")
