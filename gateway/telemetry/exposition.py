"""Serves metrics in the Prometheus text format, on a separate listener."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.config import Settings
from gateway.http.browser_safety import BrowserSafetyMiddleware
from gateway.http.errors import ErrorFormats
from gateway.http.load_shedding import LoopTurns
from gateway.telemetry.metrics import BUCKET_BOUNDS, FAMILIES, MetricFamily, Sample, Value

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


Collect = Callable[[], Awaitable[Iterable[Sample]]]


def metrics_app(collect: Collect, settings: Settings | None) -> Starlette:
    """Return the application that serves `/metrics` and nothing else.

    With `settings`, requests are checked for `Host` and `Origin` like those to the gateway itself.
    """

    running: asyncio.Task[bytes] | None = None

    async def rendered() -> bytes:
        return render(await collect())

    async def metrics(_request: Request) -> Response:
        """Requests that arrive while another is answered get the same samples, so they cost the database nothing."""
        nonlocal running
        if running is None or running.done():
            running = asyncio.create_task(rendered(), name="metrics")
            # Of a request that was canceled, asyncio would log that nothing has read the exception.
            running.add_done_callback(lambda task: task.cancelled() or task.exception())
        return Response(await asyncio.shield(running), media_type=_TYPE, headers={"cache-control": "no-store"})

    safety = []
    if settings is not None:
        safety.append(Middleware(BrowserSafetyMiddleware, settings, ErrorFormats({}), None, LoopTurns()))
    return Starlette(routes=[Route("/metrics", metrics)], middleware=safety)


def render(samples: Iterable[Sample]) -> bytes:
    """Return the samples in text format, in the order of `FAMILIES`."""
    by_family: dict[str, list[Sample]] = {name: [] for name in FAMILIES}
    for sample in samples:
        by_family[sample[0]].append(sample)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StaticCollector(_metric(FAMILIES[name], found) for name, found in by_family.items() if found))
    return generate_latest(registry)


class _StaticCollector(Collector):
    """A Prometheus collector with fixed values."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _metric(family: MetricFamily, samples: Iterable[Sample]) -> Metric:
    description = family.help.replace("`", "")
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, description, labels=family.labels)
        for _, labels, value in samples:
            assert isinstance(value, list)
            histogram.add_metric(list(labels), list(_buckets(value)), value[-1])
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, description, labels=family.labels)
    for _, labels, value in samples:
        assert not isinstance(value, list)
        metric.add_metric(list(labels), value)
    return metric


def _buckets(value: Value) -> Iterator[tuple[str, float]]:
    """Yield the upper bound and the cumulative count of each bucket."""
    assert isinstance(value, list)
    total = 0.0
    for bound, count in zip([*map(str, BUCKET_BOUNDS), "+Inf"], value[:-1], strict=True):
        total += count
        yield bound, total
