"""Formats log lines as text or JSON, with the request id, the caller and the operation.

Lines are written synchronously to standard error, so none are buffered. What clients send (documents, variables,
headers) is never logged.
"""

import logging
from datetime import UTC, datetime

import orjson

from gateway.access.caller import CALLER
from gateway.config import Settings
from gateway.http.request_id import REQUEST_ID
from gateway.operations.worker import OPERATION
from gateway.printable_text import printable

_QUIET = ("uvicorn", "alembic")  # libraries whose INFO lines are suppressed
# uvicorn logs these for what a client sends. Any client could fill the disk with them.
_CAUSED_BY_CLIENTS = frozenset(
    {
        "Invalid HTTP request received.",
        "Unsupported upgrade request.",
        "Invalid UTF-8 sequence received from client.",
    }
)


def configure(settings: Settings) -> None:
    """Configure logging of this process."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if settings.log_format == "json" else _Text())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for library in _QUIET:
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_no_fault_of_a_client)


def _is_no_fault_of_a_client(record: logging.LogRecord) -> bool:
    return record.msg not in _CAUSED_BY_CLIENTS


def _context() -> dict[str, str]:
    """Return the request id, caller and operation of the current task, as far as they are known."""
    context = {"requestId": REQUEST_ID.get(), "caller": CALLER.get(), "operation": OPERATION.get()}
    return {name: value for name, value in context.items() if value != "-"}


class _Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **_context(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class _Text(logging.Formatter):
    """One line per message, then the traceback if any.

    Line breaks and other control characters are escaped, so a message can neither forge a line nor control a terminal.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(escaped)s")

    def format(self, record: logging.LogRecord) -> str:
        context = "".join(f" {name}={value}" for name, value in _context().items())
        record.escaped = printable(record.getMessage() + context)
        return super().format(record)
