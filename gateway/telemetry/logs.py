"""The log: lines for people or JSON, with who asked for what. Written at once to standard error, so nothing piles up.

What a client sends (documents, variables, headers) is never logged.
"""

import logging
from datetime import UTC, datetime

import orjson

from gateway.access.caller import CALLER
from gateway.config import Settings
from gateway.http.request_id import REQUEST_ID
from gateway.operations.worker import OPERATION

_QUIET = ("uvicorn", "alembic")  # libraries that tell what they do, and that they do it


def configure(settings: Settings) -> None:
    """Sets up the log of this process."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if settings.log_format == "json" else _Text())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for library in _QUIET:
        logging.getLogger(library).setLevel(logging.WARNING)


def _context() -> dict[str, str]:
    """What the line is about, where that is known."""
    about = {"requestId": REQUEST_ID.get(), "caller": CALLER.get(), "operation": OPERATION.get()}
    return {name: value for name, value in about.items() if value != "-"}


class _Json(logging.Formatter):
    """An object per line, whatever is in the message."""

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
    """A line per message; only a traceback has more. What others have written cannot forge one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(told)s")

    def format(self, record: logging.LogRecord) -> str:
        about = "".join(f" {name}={value}" for name, value in _context().items())
        record.told = record.getMessage().replace("\r", "\\r").replace("\n", "\\n") + about
        return super().format(record)
