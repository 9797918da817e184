"""Tests the limits of responses with requests, on a server that sends the bytes of the test."""

import gzip
import socket
import zlib
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

import pytest
import requests

from gateway.http_client.responses import MAX_BYTES, ResponseRejected, find_rejection
from gateway.http_client.urllib3_limits import limit_urllib3
from tests.drivers.hostile.listening import Listening

limit_urllib3()

_TEXT = b'{"data": "' + b"x" * 100_000 + b'"}'


class Server:
    """Sends `answers`, one for each request, and counts connections."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.connections = 0
        self.listening = Listening(self._serve)
        self.url = f"http://127.0.0.1:{self.listening.port}/"

    def _serve(self, sock: socket.socket) -> None:
        self.connections += 1
        while self.answers and sock.recv(2**16):
            sock.sendall(self.answers.pop(0))


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.listening.close()


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    head = (f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", "")
    return "\r\n".join(head).encode() + body


def chunked(body: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def deflated(body: bytes) -> bytes:
    return answer(zlib.compress(body), "Content-Encoding: deflate")


def gzipped(body: bytes) -> bytes:
    return answer(gzip.compress(body), "Content-Encoding: gzip")


@pytest.mark.parametrize("encode", [answer, chunked, gzipped, deflated])
def test_a_body_is_read_whatever_its_encoding_and_the_connection_is_kept(
    server: Server, encode: Callable[[bytes], bytes]
) -> None:
    server.answers = [encode(_TEXT) for _ in range(3)]
    with requests.Session() as session:
        for _ in range(3):
            assert session.get(server.url, timeout=10).content == _TEXT
    assert server.connections == 1


def test_responses_without_a_body(server: Server) -> None:
    server.answers = [
        answer(b"", length=1_000),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        answer(b""),
        answer(b"no", status="404 Not Found"),
    ]
    with requests.Session() as session:
        head = session.head(server.url, timeout=10)
        assert (head.content, head.headers["content-length"]) == (b"", "1000")
        assert session.get(server.url, timeout=10).content == b""
        assert session.get(server.url, timeout=10).content == b""
        assert session.get(server.url, timeout=10).status_code == 404
    assert server.connections == 1


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (answer(b"x" * 10, "Content-Encoding: br"), "The provider's response has the unknown content encoding 'br'."),
        (
            answer(b"x" * 10, "Content-Encoding: gzip"),
            "The provider's response is not compressed as its headers state.",
        ),
        (answer(b"", length=MAX_BYTES + 1), "The provider's response is longer than 16,777,216 bytes."),
        (answer("<a/>".encode("utf-16")), "The provider's response is not UTF-8 text."),
        (answer(b"<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"), "The provider's response defines XML entities."),
        (
            answer(b"", "Location: https://user:secret@other.example:8443/x", status="308 Permanent Redirect"),
            (
                "The provider redirects to the host 'other.example:8443'. The gateway follows no redirects:"
                " configure the final address."
            ),
        ),
        (
            answer(b"", "Location: /x", status="301 Moved Permanently"),
            "The provider redirects to another path. The gateway follows no redirects: configure the final address.",
        ),
    ],
    ids=["unknown encoding", "false encoding", "length", "UTF-16", "entities", "other host", "same host"],
)
def test_a_rejected_response_has_a_reason(server: Server, sent: bytes, message: str) -> None:
    server.answers = [sent]
    with pytest.raises(requests.ConnectionError) as error:
        requests.get(server.url, timeout=10)
    assert str(find_rejection(error.value)) == message
    assert isinstance(find_rejection(error.value), ResponseRejected)


def test_a_truncated_body_is_an_error(server: Server) -> None:
    for sent in (answer(b"short", length=100), answer(gzip.compress(_TEXT)[:-20], "Content-Encoding: gzip")):
        server.answers = [sent]
        with pytest.raises(requests.ConnectionError):
            requests.get(server.url, timeout=10)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (b"<a>a\x01b\x1f</a>", "<a>a\ufffdb\ufffd</a>"),
        (b"<a>\t\n\r</a>", "<a>\t\n\r</a>"),
        (b"<a>&#1;&#x1f;&#xD800;&#xffff;&#99999999;</a>", "<a>" + "\ufffd" * 5 + "</a>"),
        (b"<a>&#10;&#xE9;&#x1F600;&amp;</a>", "<a>&#10;&#xE9;&#x1F600;&amp;</a>"),
        (b"<a>\xed\xa0\x80\xff</a>", "<a>" + "\ufffd" * 4 + "</a>"),
        ("<a>\uffff\U0001f600</a>".encode(), "<a>\ufffd\U0001f600</a>"),
        (b'{"a": "\x01&#1;\xff"}', None),
    ],
    ids=["control characters", "blanks", "references", "allowed references", "no UTF-8", "no character", "JSON"],
)
def test_characters_that_xml_does_not_allow_are_replaced(server: Server, sent: bytes, received: str | None) -> None:
    server.answers = [answer(sent)]
    found = requests.get(server.url, timeout=10).content
    assert found == (sent if received is None else received.encode())
    if received is not None:
        ElementTree.fromstring(found)
