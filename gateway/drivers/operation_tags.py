"""How a snapshot on a provider is named and marked, so that recovery can look for it instead of guessing.

It has its user's name where that is legal and free. The operation's token goes into a tag or property where there are
such, else to the end of the description; into the name only where there is nothing else.
"""

import re
from collections.abc import Callable, Container

_MARK = re.compile(r"\s*\[snapshot-gateway:([0-9a-zA-Z_-]+)\]\s*\Z")
_SIGN = 8  # characters of the token in a name: enough among the snapshots of one machine


def mark(description: str | None, token: str) -> str:
    """The description with the token at its end."""
    return f"{description}\n\n[snapshot-gateway:{token}]" if description else f"[snapshot-gateway:{token}]"


def unmark(text: str | None) -> tuple[str | None, str | None]:
    """Description and token of a text that `mark` made; any other text is a description."""
    found = _MARK.search(text) if text else None
    if text is None or found is None:
        return text or None, None
    return text[: found.start()] or None, found.group(1)


def wire_name(name: str, token: str, legal: Callable[[str], object], taken: Container[str], longest: int) -> str:
    """`name` if it is legal and free; else letters and digits of it, and of the token: at most `longest` characters.

    A made name begins with a letter and has only ASCII letters, digits and hyphens, which are legal everywhere.
    """
    if len(name) <= longest and legal(name) and name not in taken:
        return name
    sign = token[:_SIGN]
    slug = re.sub(r"[^0-9A-Za-z]+", "-", name).strip("-")
    slug = slug if slug[:1].isalpha() else f"s-{slug}"
    return f"{slug[: longest - len(sign) - 1].rstrip('-')}-{sign}"
