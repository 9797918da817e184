"""Content negotiation: the `Accept` and `Content-Type` headers (RFC 9110, 12.5.1)."""

from dataclasses import dataclass
from functools import lru_cache

RESPONSE_TYPE = "application/graphql-response+json"
JSON_TYPE = "application/json"
EVENT_STREAM_TYPE = "text/event-stream"

# In bytes. No known browser or client sends a longer `Accept`, so longer ones are parsed, but not cached.
_MAX_CACHED_LENGTH = 512
_MAX_LENGTH = 4_096  # up to which media ranges are parsed; the time of a longer one would delay other requests


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a client accepts: a JSON media type (or None), server-sent events, and whether it prefers an HTML page."""

    media_type: str | None
    events: bool
    page: bool

    @property
    def strict(self) -> bool:
        """Whether the client accepts `application/graphql-response+json`, in which a request error has a 4xx status."""
        return self.media_type == RESPONSE_TYPE


def accepted(header: bytes) -> Accepted:
    """Parses an `Accept` header. An absent one, and one that has only wildcards, mean `application/json`.

    Of a header over 4,096 bytes, only the media ranges within them count.
    """
    if len(header) > _MAX_CACHED_LENGTH:
        return _negotiate(header)
    return _cached(header)


@lru_cache(maxsize=256)  # faster than BoundedCache, and enough for a pure function of a short header
def _cached(header: bytes) -> Accepted:
    return _negotiate(header)


def _negotiate(header: bytes) -> Accepted:
    if len(header) > _MAX_LENGTH:
        header = header[:_MAX_LENGTH].rpartition(b",")[0]
    if not header.strip():
        return Accepted(JSON_TYPE, events=False, page=False)
    named = _qualities(header.decode("latin-1"))
    wildcard = named.get("application/*", named.get("*/*", 0.0))
    response, json = named.get(RESPONSE_TYPE, wildcard), named.get(JSON_TYPE, wildcard)
    # curl and old clients send wildcards, and must get the type that all clients read (GraphQL-over-HTTP audit 47DE).
    # If both types are named with the same weight, the newer one wins, because its status marks request errors.
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
    """Returns the weight of each media range; the highest if it is repeated. Malformed ranges are skipped."""
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
    """Whether a body is `application/json` in UTF-8.

    Other types are refused, because browsers send some of them across origins without a CORS preflight (CSRF).
    """
    if content_type == b"application/json":
        return True
    media, *parameters = (piece.strip().lower() for piece in content_type.split(b";"))
    charsets = [value[8:].strip(b'"') for value in parameters if value.startswith(b"charset=")]
    return media == b"application/json" and all(charset in {b"utf-8", b"utf8"} for charset in charsets)
