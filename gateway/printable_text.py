"""Escapes the characters of a text that a terminal acts on or does not show."""


def printable(text: str) -> str:
    """The text with escapes for control characters, line breaks, invisible and unassigned characters.

    Such as `\\x1b`, with which a name could change the colors or the title of a terminal, or clear it, and `\\u202e`,
    after which the rest of a line is shown in the other direction.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
