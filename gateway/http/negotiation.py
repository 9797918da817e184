"""In which form a request comes and an answer is wanted: `Content-Type` and `Accept` (RFC 9110, 12.5.1)."""

from dataclasses import dataclass
from functools import lru_cache

RESPONSE_TYPE = "application/graphql-response+json"
JSON_TYPE = "application/json"
EVENT_STREAM_TYPE = "text/event-stream"

# A header that is longer than this is no browser's and no client's: it is read, but not remembered.
_REMEMBERED_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Accepted:
    """The type of a JSON answer, None if none is acceptable; whether events are; whether a page is preferred."""

    media_type: str | None
    events: bool
    page: bool

    @property
    def strict(self) -> bool:
        """The client knows GraphQL's own type, with which a request error is no 2xx."""
        return self.media_type == RESPONSE_TYPE


def accepted(header: bytes) -> Accepted:
    """What `header` asks for. No header, or one that names only wildcards, means `application/json`."""
    if len(header) > _REMEMBERED_LENGTH:
        return _negotiate(header)
    return _remembered(header)


@lru_cache(maxsize=256)
def _remembered(header: bytes) -> Accepted:
    return _negotiate(header)


def _negotiate(header: bytes) -> Accepted:
    if not header.strip():
        return Accepted(JSON_TYPE, events=False, page=False)
    named = _qualities(header.decode("latin-1"))
    wildcard = named.get("application/*", named.get("*/*", 0.0))
    response, json = named.get(RESPONSE_TYPE, wildcard), named.get(JSON_TYPE, wildcard)
    # Curl and old clients send wildcards, and must get the type that everything reads (audit 47DE).
    # Named with the same weight, the newer type wins: it tells request errors by their status.
    media_type: str | None
    if response > 0 and (response > json or (response == json and RESPONSE_TYPE in named)):
        media_type = RESPONSE_TYPE
    else:
        media_type = JSON_TYPE if json > 0 else None
    events = named.get(EVENT_STREAM_TYPE, 0.0)
    html = named.get("text/html", 0.0)
    programs = max(named.get(RESPONSE_TYPE, 0.0), named.get(JSON_TYPE, 0.0), events)
    return Accepted(media_type, events=events > 0, page=html > programs and html >= wildcard)


def _qualities(header: str) -> dict[str, float]:
    """The weight of each media range; ranges that cannot be read are left out, the best of a repeated one counts."""
    named: dict[str, float] = {}
    for part in header.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            quality = float(weight)
        except ValueError:
            continue
        if media and 0 <= quality <= 1:
            named[media] = max(quality, named.get(media, 0.0))
    return named


def is_json(content_type: bytes) -> bool:
    """Whether a body is `application/json` in UTF-8. The exact type: others would let a page send it unasked (CSRF)."""
    if content_type == b"application/json":
        return True
    media, *parameters = (piece.strip().lower() for piece in content_type.split(b";"))
    charsets = [value[8:].strip(b'"') for value in parameters if value.startswith(b"charset=")]
    return media == b"application/json" and all(charset in {b"utf-8", b"utf8"} for charset in charsets)
