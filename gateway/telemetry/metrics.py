"""The metric families, and the counters and histograms of a process.

Values are plain numbers by label values, updated in one thread; an update costs a few hundred nanoseconds. They are
aggregated over all processes when Prometheus scrapes them. Memory is bounded: label values come from fixed lists, and
at most 200 of the operation names that clients choose become label values.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

BUCKET_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)  # seconds

Labels = tuple[str, ...]
Value = float | list[float]  # of a histogram: the count of each bucket, the count above the last bound, and the sum


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """The description of a metric. `use_maximum`: processes are aggregated by their maximum instead of their sum."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str
    use_maximum: bool = False


REQUESTS = MetricFamily(
    "gateway_requests_total",
    "counter",
    ("transport", "kind", "outcome"),
    "Requests by outcome: `ok`, `error` (the response has an error at its top level), or `refused` (not executed).",
)
DURATION = MetricFamily(
    "gateway_request_seconds",
    "histogram",
    ("operation",),
    "Duration of requests by the name of the GraphQL operation. `other`: operations without a name, seen for the first"
    " time, or beyond 200 names. `REST`: all REST routes.",
)
REFUSED = MetricFamily(
    "gateway_http_refused_total",
    "counter",
    ("status",),
    "Requests to `/graphql` that were rejected before a GraphQL request was read, by HTTP status.",
)
STREAMS = MetricFamily("gateway_streams", "gauge", (), "Open WebSockets and event streams.")
LISTENERS = MetricFamily("gateway_subscriptions", "gauge", (), "Active subscriptions.")
LOOKUPS = MetricFamily(
    "gateway_documents_total", "counter", ("result",), "Document cache lookups: `kept` is a hit, `read` a miss."
)
DOCUMENTS = MetricFamily(
    "gateway_documents_kept", "gauge", ("place",), "Cached documents: `regular` (used repeatedly), or `new`."
)
STATEMENTS = MetricFamily("gateway_database_statements_total", "counter", (), "Statements sent to the database.")
CONNECTIONS = MetricFamily(
    "gateway_database_work",
    "gauge",
    ("use", "state"),
    "Database reads and writes that are `running`, or `waiting` for a connection.",
)
FEED_AGE = MetricFamily(
    "gateway_feed_age_seconds", "gauge", (), "Seconds since the change feed was last read. Normally at most 1.", True
)
WORKER_AGE = MetricFamily(
    "gateway_worker_age_seconds",
    "gauge",
    (),
    "Seconds since a worker last looked for operations. Normally at most 1.",
    True,
)
RUNNING = MetricFamily(
    "gateway_operations_running", "gauge", (), "Operations that the processes of this gateway are running."
)
FINISHED = MetricFamily(
    "gateway_operations_finished_total",
    "counter",
    ("kind", "state"),
    "Operations that finished in this gateway, by final state.",
)
DRIVER_SECONDS = MetricFamily(
    "gateway_driver_seconds", "histogram", ("provider", "call"), "Duration of driver calls, including failed ones."
)
DRIVER_ERRORS = MetricFamily(
    "gateway_driver_errors_total",
    "counter",
    ("provider", "call", "code"),
    "Failed driver calls, by error code.",
)
JOB_RUNS = MetricFamily(
    "gateway_job_runs_total",
    "counter",
    ("job", "outcome"),
    "Runs of jobs by outcome: `succeeded`, `failed`, or `lost` (canceled, because another process may run the job).",
)
JOB_SECONDS = MetricFamily("gateway_job_seconds", "histogram", ("job",), "Duration of runs of jobs.")
JOB_AGE = MetricFamily(
    "gateway_job_age_seconds",
    "gauge",
    ("job",),
    "Seconds since the job last succeeded; before its first success, since the start of its run.",
    True,
)
JOB_FAILURES = MetricFamily(
    "gateway_job_failures", "gauge", ("job",), "Runs of the job that failed since the last one that succeeded.", True
)
JOBS_AGE = MetricFamily(
    "gateway_jobs_age_seconds",
    "gauge",
    (),
    "Seconds since a process last looked for jobs. Normally at most a third of `GATEWAY_OPERATION_LEASE`.",
    True,
)
LOOP_LAG = MetricFamily(
    "gateway_loop_lag_seconds", "histogram", (), "Delay of the event loop, measured 4 times a second."
)
CPU = MetricFamily("gateway_cpu_seconds_total", "counter", (), "CPU time of the serving processes.")
MEMORY = MetricFamily("gateway_memory_bytes", "gauge", (), "Resident memory of the serving processes.")
BUILD_INFO = MetricFamily(
    "gateway_build_info",
    "gauge",
    ("version", "python", "database"),
    "Always 1. The labels are the version of the gateway, that of Python, and the kind of database.",
    True,
)
PROCESSES = MetricFamily("gateway_processes", "gauge", (), "Serving processes.")
PROCESS_ENDS = MetricFamily("gateway_process_ends_total", "counter", (), "Processes that ended and were replaced.")
DATABASE_UP = MetricFamily(
    "gateway_database_up", "gauge", (), "1 if the database responded to this scrape, otherwise 0."
)
UNFINISHED = MetricFamily("gateway_operations", "gauge", ("state",), "Unfinished operations in the database, by state.")
OLDEST = MetricFamily(
    "gateway_operations_oldest_seconds", "gauge", ("state",), "Age of the oldest unfinished operation, by state."
)
PROVIDER_AGE = MetricFamily(
    "gateway_provider_age_seconds", "gauge", ("provider",), "Seconds since the last complete refresh of the provider."
)
PROVIDER_PROBLEM = MetricFamily(
    "gateway_provider_problem",
    "gauge",
    ("provider",),
    "1 if the last refresh of the provider had a problem, otherwise 0.",
)

FAMILIES = {family.name: family for family in list(vars().values()) if isinstance(family, MetricFamily)}

Sample = tuple[str, Sequence[str], Value]  # name of the family, label values, value
GaugeSource = Callable[[], Iterable[tuple[MetricFamily, Labels, float]]]


class LabeledHistogram(dict[Labels, list[float]]):
    """A histogram for each combination of label values."""

    def observe(self, labels: Labels, seconds: float) -> None:
        values = self.get(labels)
        if values is None:
            values = self[labels] = [0] * (len(BUCKET_BOUNDS) + 2)
        values[bisect_left(BUCKET_BOUNDS, seconds)] += 1
        values[-1] += seconds


class LabeledCounter(dict[Labels, int]):
    """A counter for each combination of label values."""

    def add(self, labels: Labels) -> None:
        self[labels] = self.get(labels, 0) + 1


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.requests, self.refused, self.finished, self.driver_errors = (
            LabeledCounter(),
            LabeledCounter(),
            LabeledCounter(),
            LabeledCounter(),
        )
        self.process_ends, self.job_runs = LabeledCounter(), LabeledCounter()
        self.duration, self.driver_seconds, self.loop_lag = LabeledHistogram(), LabeledHistogram(), LabeledHistogram()
        self.job_seconds = LabeledHistogram()
        self._counted: Mapping[MetricFamily, LabeledCounter | LabeledHistogram] = {
            REQUESTS: self.requests,
            REFUSED: self.refused,
            FINISHED: self.finished,
            DRIVER_ERRORS: self.driver_errors,
            PROCESS_ENDS: self.process_ends,
            JOB_RUNS: self.job_runs,
            DURATION: self.duration,
            DRIVER_SECONDS: self.driver_seconds,
            LOOP_LAG: self.loop_lag,
            JOB_SECONDS: self.job_seconds,
        }
        self._gauge_sources: list[GaugeSource] = []

    def count_job_run(self, job: str, outcome: str, seconds: float) -> None:
        """Count a run of a job."""
        self.job_runs.add((job, outcome))
        self.job_seconds.observe((job,), seconds)

    def add_gauges(self, source: GaugeSource) -> None:
        """Add gauges whose values are computed by `source` whenever samples are taken."""
        self._gauge_sources.append(source)

    def samples(self) -> list[Sample]:
        """Return the current value of every metric."""
        found: list[Sample] = [
            (family.name, labels, value) for family, values in self._counted.items() for labels, value in values.items()
        ]
        return found + [
            (family.name, labels, value) for source in self._gauge_sources for family, labels, value in source()
        ]


class AggregatedMetrics:
    """The metrics of several processes as one. Counters include ended processes, so they never decrease."""

    def __init__(self) -> None:
        self._running: dict[object, Sequence[Sample]] = {}
        self._ended: dict[tuple[str, Labels], Value] = {}

    def replace(self, process: object, samples: Sequence[Sample]) -> None:
        """Replace the samples of a running process by its latest ones."""
        self._running[process] = samples

    def end(self, process: object) -> None:
        """Remove a process that has ended. Its counters and histograms are kept, its gauges are not."""
        samples = self._running.pop(process, ())
        _add(self._ended, [sample for sample in samples if FAMILIES[sample[0]].kind != "gauge"])

    def samples(self) -> list[Sample]:
        """Return the metrics aggregated over all processes."""
        total = {key: list(value) if isinstance(value, list) else value for key, value in self._ended.items()}
        for samples in self._running.values():
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
            total[key] = max(before, value) if FAMILIES[name].use_maximum else before + value
