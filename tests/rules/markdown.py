"""Reads fenced blocks, tables and links of the documents."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), README]  # the one with a mutation last

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Example(NamedTuple):
    """A request and its response, in two consecutive fenced blocks."""

    language: str
    sent: str
    answer: str


def examples(document: Path) -> list[Example]:
    """Every `graphql` block with its `json`, and every `sh` block with its `text`."""
    blocks = [block for block in fences(document) if block[0] != "toml"]
    answers = {"graphql": "json", "sh": "text"}
    assert [language for language, _ in blocks[1::2]] == [answers[language] for language, _ in blocks[::2]]
    return [
        Example(language, sent, answer) for (language, sent), (_, answer) in zip(blocks[::2], blocks[1::2], strict=True)
    ]


def fences(document: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block that names its language."""
    found: list[tuple[str, str]] = _FENCE.findall(document.read_text())
    return found


def table(document: Path, heading: str) -> list[str]:
    """The lines of the table that begins with the column `heading`."""
    lines = document.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    end = next((number for number in range(start, len(lines)) if not lines[number].startswith("|")), len(lines))
    return lines[start:end]


def links(document: Path) -> list[str]:
    """The links of the document to files of the repository."""
    found: list[str] = _LINK.findall(document.read_text())
    return [link for link in found if not link.startswith("http")]
