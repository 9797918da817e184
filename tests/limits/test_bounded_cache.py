"""The bounded cache: eviction, expiry, entries that are kept, the counts, and its use by several threads."""

import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from gateway.bounded_cache import BoundedCache, CacheSection

CAPACITY = 3


class Clock:
    """A clock that tests set."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from(["get", "peek", "put", "pop"]), st.integers(0, 5)), max_size=100))
def test_it_evicts_the_least_recently_used_entry(steps: list[tuple[str, int]]) -> None:
    cache, model = BoundedCache[int, int](CAPACITY), OrderedDict[int, int]()
    hits = misses = 0
    for number, (step, key) in enumerate(steps):
        match step:
            case "get":
                assert cache.get(key) == model.get(key)
                if key in model:
                    model.move_to_end(key)
                    hits += 1
                else:
                    misses += 1
            case "peek":
                assert cache.peek(key) == model.get(key)
            case "put":
                cache.put(key, number)
                model[key] = number
                model.move_to_end(key)
                if len(model) > CAPACITY:
                    model.popitem(last=False)
            case "pop":
                assert cache.pop(key) == model.pop(key, None)
        assert cache.stats() == (hits, misses, len(model))
    assert [cache.peek(key) for key in range(6)] == [model.get(key) for key in range(6)]


def test_an_expired_entry_is_not_found_but_can_be_peeked() -> None:
    clock = Clock()
    cache = BoundedCache[str, str](CAPACITY, clock=clock)
    cache.put("short", "a", ttl=2.0)
    cache.put("lasting", "b")
    clock.now += 1.9
    assert cache.get("short") == "a"
    clock.now += 0.1
    assert cache.get("short") is None
    assert cache.peek("short") == "a"
    assert cache.get("lasting") == "b"
    assert cache.stats() == (2, 1, 2)
    cache.put("short", "c", ttl=2.0)
    assert cache.get("short") == "c"
    assert cache.pop("short") == "c"
    assert cache.stats().size == 1


def test_kept_entries_are_not_evicted() -> None:
    kept = {"a", "c"}
    cache = BoundedCache[str, str](CAPACITY, keep=lambda value: value in kept)
    for key in "abcdef":
        cache.put(key, key)
    assert [key for key in "abcdef" if cache.peek(key)] == ["a", "c", "f"]
    kept.update("defgh")
    for key in "gh":
        cache.put(key, key)
    assert cache.stats().size == 5  # all are kept
    kept.clear()
    cache.put("i", "i")
    assert [key for key in "abcdefghi" if cache.peek(key)] == ["g", "h", "i"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["get", "put", "pop", "remove", "clear"]), st.integers(0, 5), st.integers(1, 9)),
        max_size=100,
    )
)
def test_weighed_entries_share_the_capacity(steps: list[tuple[str, int, int]]) -> None:
    cache, model = BoundedCache[int, int](8, weigh=lambda key, value: key + value), OrderedDict[int, int]()
    for step, key, value in steps:
        match step:
            case "get":
                assert cache.get(key) == model.get(key)
                if key in model:
                    model.move_to_end(key)
            case "put":
                cache.put(key, value)
                model[key] = value
                model.move_to_end(key)
                while sum(key + value for key, value in model.items()) > 8:
                    model.popitem(last=False)
            case "pop":
                assert cache.pop(key) == model.pop(key, None)
            case "remove":
                cache.remove_where(lambda stored, value=value: stored == value)  # type: ignore[misc]
                model = OrderedDict(item for item in model.items() if item[1] != value)
            case "clear":
                cache.clear()
                model.clear()
    assert [cache.peek(key) for key in range(6)] == [model.get(key) for key in range(6)]


def test_sections_have_their_own_keys_and_share_the_capacity() -> None:
    cache = BoundedCache[tuple[object, str], int](CAPACITY)
    one, two = CacheSection(cache), CacheSection(cache)
    one.put("a", 1)
    assert two.get("a") is None
    two.put("a", 2)
    assert (one.get("a"), two.get("a")) == (1, 2)
    two.put("b", 3)
    two.put("c", 4)
    assert (one.get("a"), two.get("a"), two.get("b"), two.get("c")) == (None, 2, 3, 4)


def test_entries_are_removed_by_their_values_or_all_together() -> None:
    cache = BoundedCache[int, int](10)
    for number in range(6):
        cache.put(number, number)
    cache.remove_where(lambda value: value % 2 == 0)
    assert [number for number in range(6) if cache.peek(number) is not None] == [1, 3, 5]
    cache.clear()
    assert cache.stats() == (0, 0, 0)


def test_threads_can_share_a_cache() -> None:
    cache = BoundedCache[int, int](4)

    def work(step: int) -> None:
        for number in range(2_000):
            key = number * step % 11
            assert cache.get(key) in (None, key)
            cache.put(key, key)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads alternate as often as possible
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, (1, 3, 5, 7)))
    finally:
        sys.setswitchinterval(interval)
    cache.put(11, 11)
    assert cache.stats().size == 4
