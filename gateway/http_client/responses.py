"""Limits of the responses that the gateway reads from other services, such as providers.

The client libraries of the drivers (requests, keystoneauth, botocore, pyVmomi) differ in what they limit: a timeout is
that of one `recv`, so that a response that trickles never ends; a body is read completely, however long it is; some
follow redirects with all headers, including the token, to any host. All of them read with `http.client`, which creates
the response as an instance of the connection's `response_class`. `LimitedResponse` is that class, for all of them:

* The timeout of the socket is the time limit of the whole response, from its first byte to its last.
* A response has at most `MAX_BYTES`, also when it is decompressed. Its body has at most `MAX_VALUES` values of JSON or
  `MAX_ELEMENTS` elements of XML, because an empty object of 3 bytes takes 64 bytes of memory, and because the parsers
  hold the interpreter's lock for as long as they run. It has no entities of XML, which expand.
* A redirect is an error that names the host it leads to, whichever that is. No provider needs redirects: an address is
  configured, or listed in the catalog of a provider whose address is.
* XML has U+FFFD in place of characters that XML does not allow. Providers pass on what their users have entered, and
  with one such character in one name no parser would read any of the response.

The body is read before the library sees the response. The library gets one of known length, without the framing and the
compression, which it would otherwise process by itself.
"""

import io
import re
import zlib
from http.client import HTTPException, HTTPResponse, IncompleteRead
from socket import socket
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_BYTES = 16 * 2**20  # of the head and the body together; 10,000 machines of Proxmox VE take 5 MB
MAX_VALUES = 1_000_000  # of JSON; 10,000 machines of Proxmox VE have 220,000
MAX_ELEMENTS = 250_000  # of XML; 200 instances of EC2 with 30 addresses each have 80,000
DEFAULT_TIMEOUT = 60.0  # seconds, for a socket without a timeout

_REDIRECTS = {301, 302, 303, 305, 307, 308}
_READ_SIZE = 2**16
_JSON_DELIMITERS = (b"{", b"[", b",")
_XML_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")
_XML_ENTITY = b"<!ENTITY"
_NOT_XML = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]|&#(?:[0-9]{1,20}|x[0-9A-Fa-f]{1,20});")
_REPLACEMENT = "\ufffd".encode()
_ANY_ZLIB_FORMAT = 32 + zlib.MAX_WBITS  # gzip or zlib, as the data says


class ResponseRejected(HTTPException):
    """A response exceeds a limit or is a redirect. The message is a sentence for the operator.

    The request was sent, so it may have been executed.
    """


def find_rejection(error: BaseException | None) -> ResponseRejected | None:
    """The rejection that led to an error of a client library, which wraps it in exceptions of its own."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ResponseRejected):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


class LimitedResponse(HTTPResponse):
    """A response within the limits of this module. Set it as the `response_class` of a connection.

    Reading raises ResponseRejected, and TimeoutError after the timeout of the socket.
    """

    def __init__(self, sock: socket, debuglevel: int = 0, method: str | None = None, url: str | None = None) -> None:
        super().__init__(sock, debuglevel, method, url)
        self._has_no_body = method == "HEAD"
        self.fp.close()
        self.fp = io.BufferedReader(_LimitedStream(sock))

    def begin(self) -> None:
        """Reads the head and the body."""
        super().begin()
        if self.status in _REDIRECTS:
            raise ResponseRejected(redirect_message(self.headers.get("location", "")))
        body = _decompressed(self._read_body(), self.headers.get("content-encoding", "identity").strip().lower())
        _check_expansion(body)
        if _XML_START.match(body):
            body = _repaired_xml(body)
        del self.headers["transfer-encoding"], self.headers["content-encoding"]
        if body:
            del self.headers["content-length"]
            self.headers["content-length"] = str(len(body))
        self.fp, self.chunked, self.length = io.BufferedReader(io.BytesIO(body)), False, len(body)

    def _read_body(self) -> bytes:
        if self.length is not None and self.length > MAX_BYTES:
            raise _too_long()
        body = bytearray()
        while chunk := self.read(_READ_SIZE):
            body += chunk
        if self.length and not self._has_no_body:
            raise IncompleteRead(bytes(body), self.length)
        return bytes(body)


class _LimitedStream(io.RawIOBase):
    """The bytes of one response, from a socket."""

    def __init__(self, sock: socket) -> None:
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._timeout = sock.gettimeout()
        self._deadline = monotonic() + (self._timeout or DEFAULT_TIMEOUT)
        self._left = MAX_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        remaining = self._deadline - monotonic()
        if remaining <= 0:
            raise TimeoutError("The response was not complete in time.")
        self._socket.settimeout(remaining)
        try:
            count = self._raw.readinto(buffer)
        finally:
            self._socket.settimeout(self._timeout)
        self._left -= count or 0
        if self._left < 0:
            raise _too_long()
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def redirect_message(location: str) -> str:
    """The message for a redirect, from its `Location`."""
    try:
        host = urlsplit(location).netloc.rpartition("@")[2][:200]
    except ValueError:
        host = ""
    target = f"the host {host!r}" if host else "another path"
    return f"The provider redirects to {target}. The gateway follows no redirects: configure the final address."


def _too_long() -> ResponseRejected:
    return ResponseRejected(f"The provider's response is longer than {MAX_BYTES:,} bytes.")


def _decompressed(body: bytes, encoding: str) -> bytes:
    """The body without its compression."""
    if encoding == "identity" or not body:
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ResponseRejected(f"The provider's response has the unknown content encoding {encoding[:50]!r}.")
    decompressor = zlib.decompressobj(_ANY_ZLIB_FORMAT)
    try:
        found = decompressor.decompress(body, MAX_BYTES + 1)
    except zlib.error:
        raise ResponseRejected("The provider's response is not compressed as its headers state.") from None
    if len(found) > MAX_BYTES:
        raise _too_long()
    if not decompressor.eof:
        raise IncompleteRead(found)
    return found


def _check_expansion(body: bytes) -> None:
    """Raises ResponseRejected if the parsed body could take far more memory than its bytes."""
    if _XML_START.match(body):
        if body.count(b"<") - body.count(b"</") > MAX_ELEMENTS:
            raise ResponseRejected(f"The provider's response has more than {MAX_ELEMENTS:,} elements.")
        if _XML_ENTITY in body:
            raise ResponseRejected("The provider's response defines XML entities.")
    elif sum(body.count(delimiter) for delimiter in _JSON_DELIMITERS) > MAX_VALUES:
        raise ResponseRejected(f"The provider's response has more than {MAX_VALUES:,} values.")
    if b"\0" in body:  # UTF-16 and UTF-32 too, in which the search above would find nothing
        raise ResponseRejected("The provider's response is not UTF-8 text.")


def _repaired_xml(body: bytes) -> bytes:
    """The XML, with U+FFFD in place of what is no UTF-8 and no character of XML."""
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode(errors="replace").encode()
    return _NOT_XML.sub(_repaired_character, body)


def _repaired_character(found: re.Match[bytes]) -> bytes:
    """A character reference if XML allows its character, else U+FFFD."""
    text = found[0]
    if not text.startswith(b"&#"):
        return _REPLACEMENT
    number = int(text[3:-1], 16) if text[2:3] == b"x" else int(text[2:-1])
    allowed = number in (9, 10, 13) or 32 <= number < 0xD800 or 0xE000 <= number < 0xFFFE or 2**16 <= number < 0x110000
    return text if allowed else _REPLACEMENT
