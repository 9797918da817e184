"""Opens tracing when `GATEWAY_TRACES_ENDPOINT` is set. OpenTelemetry is an extra and is imported only then."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from gateway.config import Settings
from gateway.errors import StartupError
from gateway.telemetry.spans import Spans


@asynccontextmanager
async def opened_spans(settings: Settings) -> AsyncIterator[Spans]:
    """Traces, if they are wanted: their libraries are an extra, and loaded only then. Raises StartupError."""
    if not settings.traces_endpoint:
        yield Spans()
        return
    try:
        tracing = import_module("gateway.telemetry.tracing")
    except ImportError:
        raise StartupError("traces need the extra: pip install 'snapshot-gateway[telemetry]'") from None
    async with tracing.traced(settings.traces_endpoint) as spans:
        yield spans
