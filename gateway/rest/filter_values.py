"""The values in filters: text, numbers with units, booleans and ids, according to the attribute's kind."""

import re
from decimal import Decimal
from typing import Any

from gateway.reads.filters import check_text
from gateway.rest.attributes import Attribute
from gateway.rest.errors import bad_request

_MAX_INTEGER = 2**63 - 1
_INTEGER = re.compile(r"[+-]?\d{1,30}")
_WITH_UNIT = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\.(byte|kilobyte|megabyte|gigabyte|terabyte|petabyte|exabyte)s?")
_SIZES = {
    "byte": 1,
    "kilobyte": 1 << 10,
    "megabyte": 1 << 20,
    "gigabyte": 1 << 30,
    "terabyte": 1 << 40,
    "petabyte": 1 << 50,
    "exabyte": 1 << 60,
}
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def parse_value(attribute: Attribute, text: str) -> Any:
    """The value of `text` for this attribute. Raises RestError or InvalidInput."""
    match attribute.kind:
        case "text":
            check_text(text, ("filter",))
            return text
        case "boolean":
            if text.lower() not in _BOOLEANS:
                raise bad_request(f"Bad format for boolean: {text}")
            return _BOOLEANS[text.lower()]
        case _:
            return parse_integer(text)


def parse_integer(text: str) -> int:
    """The value of `5`, `-5` or `1.megabyte`. Raises RestError, also for numbers that exceed 64 bits."""
    stripped = text.strip()
    if _INTEGER.fullmatch(stripped):
        number = int(stripped)
    elif found := _WITH_UNIT.fullmatch(stripped.lower()):
        number = int(Decimal(found[1]) * _SIZES[found[2]])
    else:
        raise bad_request(f"Bad format for integer: {text}")
    if not -_MAX_INTEGER <= number <= _MAX_INTEGER:
        raise bad_request(f"The number {text} does not fit in 64 bits.")
    return number
