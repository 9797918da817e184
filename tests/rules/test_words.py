"""Retired words do not return: not in names, descriptions, messages, comments or documents.

The list is the start of the one in the style guide: words with several meanings here (`wish` had eight), and words that
name a caller, a client or a state with no term of the field.
"""

import re

import pytest

from tests.rules.markdown import ROOT
from tests.rules.test_files import tracked

RETIRED = (
    *("wish", "wishes", "wished", "crowd", "whoever", "nobody", "somebody", "everybody", "anew", "for good"),
    *("so many", "told"),
)
SUFFIXES = {".css", ".go", ".graphql", ".html", ".js", ".jsx", ".md", ".py", ".sh", ".sql", ".toml", ".ts", ""}
# Released: what they say is what clients and databases already have. And this list.
FROZEN = re.compile(
    r"gateway/store/migrations/versions/|tests/releases/.*\.sql$|tests/clients/released\.graphql$|tests/rules/test_words\.py$"
)
# Names that are not ours to change: a released column of the database, and the account `nobody`.
EXCEPTIONS = {
    "gateway/models.py": {"wish"},
    "tests/bench/node/functions.sql": {"wish"},
    "tests/bench/node/mercurius.js": {"wish"},
    "tests/bench/postgres.py": {"nobody"},
    "tests/rights/probes.py": {"wish"},
    "tests/soak/history_run.py": {"wish"},
    "tests/hypervisors/libvirtd.py": {"nobody"},
    "tests/postgres.py": {"nobody"},
}
_WORDS = re.compile(rf"(?<![a-z])({'|'.join(RETIRED)})(?![a-z])")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def retired_words(text: str) -> list[str]:
    """The retired words of a line, also as parts of names: `NewWish`, `see_wishes`."""
    return _WORDS.findall(_HUMP.sub(" ", text).replace("_", " ").lower())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class NewWish:", ["wish"]),
        ("def _see_wishes() -> None:", ["wishes"]),
        ("# Whoever asks is told.", ["whoever", "told"]),
        ("It is kept for good, for so many seconds.", ["for good", "so many"]),
        ("a goldfish, an untold story, a renewed lease, for goods", []),
    ],
)
def test_the_rule_finds_planted_words(text: str, expected: list[str]) -> None:
    assert retired_words(text) == expected


def test_no_file_has_a_retired_word() -> None:
    found = [
        f"{path}:{number}: {', '.join(sorted(words))}"
        for path in tracked()
        if path.suffix in SUFFIXES and not FROZEN.search(str(path))
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if (words := {*retired_words(line)} - EXCEPTIONS.get(str(path), set()))
    ]
    assert found == []


def test_no_file_name_has_a_retired_word() -> None:
    assert [str(path) for path in tracked() if retired_words(str(path)) and not FROZEN.search(str(path))] == []
