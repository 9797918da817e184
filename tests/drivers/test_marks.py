"""What goes onto a provider comes back, and names fit."""

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.drivers.operation_tags import mark, unmark, wire_name

TOKENS = st.from_regex(r"[0-9a-f]{8,32}", fullmatch=True)
LONGEST = 40


@given(st.text(), TOKENS)
def test_description_and_token_come_back(description: str, token: str) -> None:
    assert unmark(mark(description, token)) == (description.rstrip() or None, token)


@given(st.text())
def test_what_is_not_marked_is_a_description(text: str) -> None:
    assert unmark(text) == (text or None, None)
    assert unmark(None) == (None, None)


@given(st.text(min_size=1), TOKENS, st.booleans())
def test_names_are_kept_or_made_legal(name: str, token: str, taken: bool) -> None:
    made = wire_name(name, token, re.compile(r"[a-z ]+").fullmatch, {name} if taken else set(), LONGEST)
    if len(name) <= LONGEST and re.fullmatch(r"[a-z ]+", name) and not taken:
        assert made == name
    else:
        assert re.fullmatch(r"[A-Za-z][0-9A-Za-z-]*", made)
        assert len(made) <= LONGEST
        assert made.endswith(f"-{token[:8]}")
