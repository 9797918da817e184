"""How long a token is good for."""

from gateway.access.caller import local_caller
from gateway.rest.tokens import LONGEST, MOST, TTL, Tokens


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


ANN = local_caller("default")


def test_a_token_lives_while_it_is_used() -> None:
    clock = Clock()
    tokens = Tokens(clock)
    name = tokens.issue(ANN)
    for _ in range(5):
        clock.now += TTL - 1
        assert tokens.caller(name) is ANN
    clock.now += TTL
    assert tokens.caller(name) is None
    assert tokens.caller(name) is None


def test_no_token_lives_for_ever() -> None:
    clock = Clock()
    tokens = Tokens(clock)
    name = tokens.issue(ANN)
    while clock.now < 1_000 + LONGEST - TTL:
        clock.now += TTL - 1
        assert tokens.caller(name) is ANN
    clock.now = 1_000 + LONGEST
    assert tokens.caller(name) is None


def test_a_token_can_be_taken_back() -> None:
    tokens = Tokens(Clock())
    name, other = tokens.issue(ANN), tokens.issue(ANN)
    tokens.revoke(name)
    tokens.revoke("unknown")
    assert (tokens.caller(name), tokens.caller(other)) == (None, ANN)


def test_there_is_room_for_so_many() -> None:
    tokens = Tokens(Clock())
    first, second = tokens.issue(ANN), tokens.issue(ANN)
    assert tokens.caller(first) is ANN  # used, so the other is the one unused for longest
    for _ in range(MOST - 1):
        tokens.issue(ANN)
    assert (tokens.caller(first), tokens.caller(second)) == (ANN, None)
