"""Reads a dump file as bytes for the JSON parser, without what the parser cannot handle.

JSON may contain the escape of half a surrogate pair, such as `"\\udc00"`, which is no character. The parser fails at
one half and replaces the other by `?`. Here each becomes NO_CHARACTER, so that only the record that contains it is
refused. The escapes have the same length, and memory does not depend on the file.

The parser crashes at a number of more than 4,300 digits, the limit of Python's `int`.
"""

import re
from typing import IO

from gateway.inventory.imports.problems import ImportRefused

NO_CHARACTER = "\ufdd0"  # a noncharacter of Unicode, which is never assigned and not meant for interchange
_NO_CHARACTER_ESCAPE = b"\\ufdd0"
_UTF8_MARK = b"\xef\xbb\xbf"
_NOT_JSON = {
    b"\x1f\x8b": "The file is compressed with gzip. Decompress it first, for example with gunzip.",
    b"PK\x03\x04": "The file is a ZIP archive. Extract it first.",
    b"\xff\xfe": "The file is UTF-16. Convert it to UTF-8 first.",
    b"\xfe\xff": "The file is UTF-16. Convert it to UTF-8 first.",
}
# All escapes, because a backslash begins one only if it is not part of the escape before it.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|u[0-9a-fA-F]{4}|[^u])",
    re.DOTALL,
)
# Half of the digits at which the parser crashes, because a number can be in two blocks. A text with as many digits is
# refused too, because a block does not say where strings begin.
_TOO_MANY_DIGITS = b"0" * 2_150
_DIGITS_TO_ZERO = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_ESCAPE_LENGTH = len(_NO_CHARACTER_ESCAPE)


class DumpFile:
    """A file as the parser reads it: without a byte order mark, and with NO_CHARACTER for halves of surrogate pairs."""

    def __init__(self, file: IO[bytes]) -> None:
        """Raises ImportRefused when the file is compressed or not UTF-8."""
        self._file = file
        self._rest = file.read(4)
        self.bytes_read = len(self._rest)
        for start, reason in _NOT_JSON.items():
            if self._rest.startswith(start):
                raise ImportRefused("", reason)
        self._rest = self._rest.removeprefix(_UTF8_MARK)

    def read(self, size: int) -> bytes:
        """The next bytes, about `size`; none at the end of the file, or if `size` is 0. Raises ImportRefused."""
        while size:
            try:
                block = self._file.read(size)
            except OSError as error:
                raise ImportRefused("", f"The file cannot be read: {error.strerror or error}.") from None
            self.bytes_read += len(block)
            if _TOO_MANY_DIGITS in block.translate(_DIGITS_TO_ZERO):
                raise ImportRefused("", "The file contains a number of thousands of digits.")
            text, self._rest = _split(self._rest + block, final=not block)
            if text or not block:
                return text
        return b""


def _split(text: bytes, *, final: bool) -> tuple[bytes, bytes]:
    """The text with replaced escapes, and what has to be read together with the next block."""
    last = 0  # end of the last escape
    half_at = 0  # start of the last escape if it is half of a pair, of which the other half may follow

    def replace(match: re.Match[bytes]) -> bytes:
        nonlocal last, half_at
        last = match.end()
        half_at = match.start() if match["half"] else last
        return _NO_CHARACTER_ESCAPE if match["half"] else match[0]

    replaced = _ESCAPE.sub(replace, text)
    if final:
        return replaced, b""
    near_end = len(text) - _ESCAPE_LENGTH
    cut = text.find(b"\\", max(last, near_end + 1))
    if half_at < last and last > near_end:
        cut = half_at
    return (replaced, b"") if cut < 0 else (replaced[:cut], text[cut:])
