"""Tags and names of snapshots: descriptions and tokens survive the round trip, and generated names are legal."""

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.drivers.operation_tags import add_tag, provider_snapshot_name, split_tag

TOKENS = st.from_regex(r"[0-9a-f]{8,32}", fullmatch=True)
LONGEST = 40


@given(st.text(), TOKENS)
def test_description_and_token_survive_the_round_trip(description: str, token: str) -> None:
    assert split_tag(add_tag(description, token)) == (description.rstrip() or None, token)


@given(st.text())
def test_untagged_text_is_a_description(text: str) -> None:
    assert split_tag(text) == (text or None, None)
    assert add_tag(text, None) == text
    assert split_tag(None) == (None, None)
    assert add_tag(None, None) == ""


def test_a_long_description_takes_linear_time() -> None:
    """It would take hours otherwise, in which the gateway does nothing else."""
    spaces = " " * 2**20
    assert split_tag(spaces) == (spaces, None)
    assert split_tag(f"{spaces}[snapshot-gateway:a]{spaces}") == (None, "a")
    assert split_tag(f"[snapshot-gateway:a]{spaces}b") == (f"[snapshot-gateway:a]{spaces}b", None)


@given(st.text(min_size=1), TOKENS, st.booleans())
def test_names_are_kept_or_generated(name: str, token: str, taken: bool) -> None:
    made = provider_snapshot_name(name, token, re.compile(r"[a-z ]+").fullmatch, {name} if taken else set(), LONGEST)
    if len(name) <= LONGEST and re.fullmatch(r"[a-z ]+", name) and not taken:
        assert made == name
    else:
        assert re.fullmatch(r"[A-Za-z][0-9A-Za-z-]*", made)
        assert len(made) <= LONGEST
        assert made.endswith(f"-{token[:8]}")
