"""Names snapshots at the provider and tags them with the operation's token, so that recovery can find them.

A snapshot gets the name that the user chose if the name is legal at the provider and not taken. The token is stored in
a tag or property if the provider has these, else at the end of the description. It is stored in the name only if the
provider has neither.
"""

import re
from collections.abc import Callable, Container

# It starts with a literal text, so that the search takes linear time for a description of a million spaces too.
_TAG = re.compile(r"\[snapshot-gateway:([0-9a-zA-Z_-]+)\]\s*\Z")
_NAME_TOKEN_LENGTH = 8  # characters of the token in a name; distinguishes the snapshots of one machine


def add_tag(description: str | None, token: str | None) -> str:
    """Returns the description with the token appended as a tag. Without a token, as on a snapshot made by another
    client, returns the description alone.
    """
    return "\n\n".join(filter(None, (description, token and f"[snapshot-gateway:{token}]")))


def split_tag(text: str | None) -> tuple[str | None, str | None]:
    """Splits a text made by `add_tag` into description and token. A text without a tag has the token None."""
    found = _TAG.search(text) if text else None
    if text is None or found is None:
        return text or None, None
    return text[: found.start()].rstrip() or None, found.group(1)


def provider_snapshot_name(
    name: str, token: str, legal: Callable[[str], object], taken: Container[str], longest: int
) -> str:
    """Returns `name` if it is legal, not taken and at most `longest` characters long; else a generated name.

    A generated name consists of the letters and digits of `name`, and the first 8 characters of the token. It starts
    with a letter and has only ASCII letters, digits and hyphens, which every provider accepts.
    """
    if len(name) <= longest and legal(name) and name not in taken:
        return name
    suffix = token[:_NAME_TOKEN_LENGTH]
    slug = re.sub(r"[^0-9A-Za-z]+", "-", name).strip("-")
    slug = slug if slug[:1].isalpha() else f"s-{slug}"
    return f"{slug[: longest - len(suffix) - 1].rstrip('-')}-{suffix}"
