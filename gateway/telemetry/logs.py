"""Formats log lines as text or JSON, with the request id, the caller and the operation.

Lines are written synchronously to standard error, so none are buffered. What clients send (documents, variables,
headers) is not logged, except a refused `Host` or `Origin`.

A line may have fields of its own: `log.info("Operation ended", extra={"fields": {"kind": "CREATE_SNAPSHOT"}})`. They
are members of the JSON object, and `kind=CREATE_SNAPSHOT` in text. Those that are None are left out.

With the format `json`, everything that a serving process writes is an object on a line of its own: also warnings of
Python, tracebacks of exceptions that nothing has caught, and the errors for which it does not start.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType

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


_PLAIN_VALUE = re.compile(r"[\w.:/@+,-]+")  # a text that needs no quotes

log = logging.getLogger(__name__)


def configure(settings: Settings) -> None:
    """Configure logging of this process."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if settings.log_format == "json" else _Text())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for library in _QUIET:
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_no_fault_of_a_client)
    if is_json():
        logging.captureWarnings(capture=True)
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_of_thread
        sys.unraisablehook = _log_unraisable


def is_json() -> bool:
    """Whether the process writes JSON."""
    return any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers)


def report_problems(problems: Iterable[str]) -> None:
    """Write why the process does not start: one line for each problem, to standard error."""
    for problem in problems:
        message = " ".join(problem.split())
        if is_json():
            log.error(message)
        else:
            print(f"gateway: {message}", file=sys.stderr)


def _log_uncaught(type_: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    log.critical("Uncaught exception", exc_info=(type_, error, traceback))


def _log_uncaught_of_thread(caught: threading.ExceptHookArgs) -> None:
    if caught.exc_value is not None:
        _log_uncaught(caught.exc_type, caught.exc_value, caught.exc_traceback)


def _log_unraisable(caught: "sys.UnraisableHookArgs") -> None:
    if caught.exc_value is not None:
        _log_uncaught(caught.exc_type, caught.exc_value, caught.exc_traceback)


def _is_no_fault_of_a_client(record: logging.LogRecord) -> bool:
    return record.msg not in _CAUSED_BY_CLIENTS


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields of a line: its own, then the request id, caller and operation as far as they are known."""
    own: Mapping[str, object] = getattr(record, "fields", {})
    context = {"requestId": REQUEST_ID.get(), "caller": CALLER.get(), "operation": OPERATION.get()}
    return {
        **{name: value for name, value in own.items() if value is not None},
        **{name: value for name, value in context.items() if value != "-" and name not in own},
    }


class _Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line).decode()
        except TypeError:  # half of a character, such as of a file name that is not UTF-8
            return orjson.dumps(
                {name: str(value).encode("utf-8", "replace").decode() for name, value in line.items()}
            ).decode()


class _Text(logging.Formatter):
    """One line per message, then the traceback if any.

    Line breaks and other control characters are escaped, so a message can neither forge a line nor control a terminal.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(escaped)s")

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_text_value(value)}" for name, value in _fields(record).items())
        record.escaped = printable(record.getMessage() + fields)
        return super().format(record)


def _text_value(value: object) -> str:
    """A field as text, quoted like JSON if it has spaces or other characters that could be taken for another field."""
    text = str(value)
    return text if _PLAIN_VALUE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
