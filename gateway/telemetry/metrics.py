"""What is counted, and how: plain numbers by labels, in one thread, summed over processes where they are shown.

Counting one thing costs some hundred nanoseconds. Nothing here grows without bound: labels come from short lists,
and of names that clients choose only so many are told apart.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)  # seconds

Labels = tuple[str, ...]
Value = float | list[float]  # of a histogram: how many up to each bound, how many above, and the sum


@dataclass(frozen=True, slots=True)
class Family:
    """Numbers of one meaning. `latest`: over processes the largest counts, not the sum."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str
    latest: bool = False


REQUESTS = Family(
    "gateway_requests_total",
    "counter",
    ("transport", "kind", "outcome"),
    "What was asked, and whether the answer was `ok`, had an `error` at its top level, or was `refused` unread.",
)
DURATION = Family(
    "gateway_request_seconds",
    "histogram",
    ("operation",),
    "How long answers took, by the name of the GraphQL operation: `other` for one that was new or has none, and beyond"
    " the first 200 names; `REST` for the routes.",
)
REFUSED = Family(
    "gateway_http_refused_total", "counter", ("status",), "Requests at `/graphql` that never were GraphQL."
)
STREAMS = Family("gateway_streams", "gauge", (), "Open WebSockets and event streams.")
LISTENERS = Family("gateway_subscriptions", "gauge", (), "Subscriptions that listen.")
LOOKUPS = Family(
    "gateway_documents_total", "counter", ("result",), "Documents that were `kept` compiled, and that had to be `read`."
)
DOCUMENTS = Family("gateway_documents_kept", "gauge", ("place",), "Documents in memory: `regular`, or `new`.")
STATEMENTS = Family("gateway_database_statements_total", "counter", (), "Statements sent to the database.")
CONNECTIONS = Family(
    "gateway_database_work", "gauge", ("use", "state"), "Reads and writes that are `running`, or `waiting` for that."
)
FEED_AGE = Family(
    "gateway_feed_age_seconds", "gauge", (), "Since changes were last read for subscribers; a second at most.", True
)
WORKER_AGE = Family(
    "gateway_worker_age_seconds", "gauge", (), "Since a worker last looked for operations; a second at most.", True
)
RUNNING = Family("gateway_operations_running", "gauge", (), "Operations that processes of this gateway run.")
FINISHED = Family(
    "gateway_operations_finished_total",
    "counter",
    ("kind", "state"),
    "Operations that ended here, by their last state.",
)
DRIVER_SECONDS = Family(
    "gateway_driver_seconds", "histogram", ("provider", "call"), "How long calls of providers took, failed ones too."
)
DRIVER_ERRORS = Family(
    "gateway_driver_errors_total",
    "counter",
    ("provider", "call", "code"),
    "Calls of providers that failed, by the code.",
)
LOOP_LAG = Family(
    "gateway_loop_lag_seconds", "histogram", (), "How late the event loop was, looked at 4 times a second."
)
CPU = Family("gateway_cpu_seconds_total", "counter", (), "CPU time of the processes that serve.")
MEMORY = Family("gateway_memory_bytes", "gauge", (), "Resident memory of the processes that serve.")
PROCESSES = Family("gateway_processes", "gauge", (), "Processes that serve.")
PROCESS_ENDS = Family("gateway_process_ends_total", "counter", (), "Processes that ended and were started again.")
DATABASE_UP = Family("gateway_database_up", "gauge", (), "1 when the database answered just now, else 0.")
UNFINISHED = Family("gateway_operations", "gauge", ("state",), "Unfinished operations in the database, by state.")
OLDEST = Family("gateway_operations_oldest_seconds", "gauge", ("state",), "Age of the oldest of them, by state.")
PROVIDER_AGE = Family(
    "gateway_provider_age_seconds", "gauge", ("provider",), "Since the provider was last read as a whole."
)
PROVIDER_PROBLEM = Family(
    "gateway_provider_problem", "gauge", ("provider",), "1 when the last reading had a problem, else 0."
)

FAMILIES = {family.name: family for family in list(vars().values()) if isinstance(family, Family)}

Sample = tuple[str, Sequence[str], Value]  # the family's name, the labels' values
Gauges = Callable[[], Iterable[tuple[Family, Labels, float]]]


class Timings(dict[Labels, list[float]]):
    """A histogram by labels."""

    def observe(self, labels: Labels, seconds: float) -> None:
        values = self.get(labels)
        if values is None:
            values = self[labels] = [0] * (len(BOUNDS) + 2)
        values[bisect_left(BOUNDS, seconds)] += 1
        values[-1] += seconds


class Counts(dict[Labels, int]):
    """A counter by labels."""

    def add(self, labels: Labels) -> None:
        self[labels] = self.get(labels, 0) + 1


class Measures:
    """The numbers of one process."""

    def __init__(self) -> None:
        self.requests, self.refused, self.finished, self.driver_errors = Counts(), Counts(), Counts(), Counts()
        self.process_ends = Counts()
        self.duration, self.driver_seconds, self.loop_lag = Timings(), Timings(), Timings()
        self._counted: Mapping[Family, Counts | Timings] = {
            REQUESTS: self.requests,
            REFUSED: self.refused,
            FINISHED: self.finished,
            DRIVER_ERRORS: self.driver_errors,
            PROCESS_ENDS: self.process_ends,
            DURATION: self.duration,
            DRIVER_SECONDS: self.driver_seconds,
            LOOP_LAG: self.loop_lag,
        }
        self._looks: list[Gauges] = []

    def look(self, gauges: Gauges) -> None:
        """Adds numbers that are looked up when they are wanted."""
        self._looks.append(gauges)

    def samples(self) -> list[Sample]:
        """Everything as it is now."""
        found: list[Sample] = [
            (family.name, labels, value) for family, values in self._counted.items() for labels, value in values.items()
        ]
        return found + [(family.name, labels, value) for look in self._looks for family, labels, value in look()]


class Sum:
    """Samples of several processes as one. What a process has counted stays when it has ended."""

    def __init__(self) -> None:
        self._living: dict[object, Sequence[Sample]] = {}
        self._ended: dict[tuple[str, Labels], Value] = {}

    def replace(self, process: object, samples: Sequence[Sample]) -> None:
        """What the process has sent last."""
        self._living[process] = samples

    def end(self, process: object) -> None:
        """The process is gone."""
        samples = self._living.pop(process, ())
        _add(self._ended, [sample for sample in samples if FAMILIES[sample[0]].kind != "gauge"])

    def samples(self) -> list[Sample]:
        total = {key: list(value) if isinstance(value, list) else value for key, value in self._ended.items()}
        for samples in self._living.values():
            _add(total, samples)
        return [(name, labels, value) for (name, labels), value in total.items()]


def _add(total: dict[tuple[str, Labels], Value], samples: Iterable[Sample]) -> None:
    for name, labels, value in samples:
        key = name, tuple(labels)
        before = total.get(key)
        if before is None:
            total[key] = list(value) if isinstance(value, list) else value
        elif isinstance(value, list) and isinstance(before, list):
            total[key] = [one + other for one, other in zip(before, value, strict=True)]
        elif isinstance(value, float | int) and isinstance(before, float | int):
            total[key] = max(before, value) if FAMILIES[name].latest else before + value
