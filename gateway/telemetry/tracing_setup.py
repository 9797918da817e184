"""Enables tracing if `GATEWAY_TRACES_ENDPOINT` is set. OpenTelemetry is an optional dependency, imported only then."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from gateway.config import Settings
from gateway.errors import StartupError
from gateway.telemetry.tracing_hooks import TracingHooks


@asynccontextmanager
async def open_tracing(settings: Settings) -> AsyncIterator[TracingHooks]:
    """Yield the tracing hooks that `settings` select. Raises StartupError if the OpenTelemetry packages are missing."""
    if not settings.traces_endpoint:
        yield TracingHooks()
        return
    try:
        tracing = import_module("gateway.telemetry.tracing")
    except ImportError:
        raise StartupError(
            "GATEWAY_TRACES_ENDPOINT requires an optional dependency. Run: pip install 'snapshot-gateway[telemetry]'"
        ) from None
    async with tracing.open_exporter(settings.traces_endpoint) as hooks:
        yield hooks
