"""Parses the JSON of a response, of which one odd value must not cost the whole response.

orjson, which parses all usual responses, refuses half surrogates, control characters in texts, numbers that are no
numbers, and more than 1,024 levels. A provider passes such values on as its users have entered them. So what orjson
refuses is parsed again, tolerantly and many times slower, with Python's parser.
"""

import json
import re
from typing import Any

import orjson

_MAX_DEPTH = 200  # levels; deeper values become null. Python's parser recurses, up to 1,000 levels
_MAX_DIGITS = 30  # of a whole number; a longer one becomes a float. Converting it takes quadratic time
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)|[\[\]{}]', re.DOTALL)


def parse_json(body: bytes) -> Any:
    """The value of a JSON text. Raises ValueError if it is none.

    Its texts may contain half surrogates and control characters. Values below `_MAX_DEPTH` levels may be None.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode(errors="replace")
    try:
        return _DECODER.decode(text)
    except RecursionError:
        return _DECODER.decode(_flattened(text))


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


_DECODER = json.JSONDecoder(strict=False, parse_int=_whole_number)


def _flattened(text: str) -> str:
    """The JSON text, with null in place of the lists and objects below `_MAX_DEPTH` levels."""
    kept: list[str] = []
    depth = start = 0
    for token in _TOKEN.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth == _MAX_DEPTH + 1:
                kept += [text[start : token.start()], "null"]
        elif token[0] in "]}":
            if depth == _MAX_DEPTH + 1:
                start = token.end()
            depth -= 1
    return "".join([*kept, text[start:]] if depth <= _MAX_DEPTH else kept)
