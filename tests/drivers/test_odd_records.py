"""Tests that any content of a provider's entry becomes a machine or snapshot that can be stored, or a reason."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.drivers.base import (
    UNKNOWN_TIME,
    MachineFields,
    OddValue,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    SnapshotFields,
    is_ref,
    parse_timestamp,
    report_each,
    report_machine,
    report_snapshot,
)
from gateway.errors import ProviderUnavailable
from gateway.models import MachineKind, PowerState

TIME = datetime(2026, 1, 1, tzinfo=UTC)
LONG = "x" * 2**20
MISSING: dict[str, object] = {}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(categories=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
values = json_values | st.datetimes(timezones=st.none() | st.just(UTC)) | st.sampled_from(PowerState)
errors = st.sampled_from([KeyError("a"), TypeError(), RecursionError(), SyntaxError(), OddValue("is odd"), OSError()])


def raising(error: Exception) -> Callable[[], object]:
    def read() -> object:
        raise error

    return read


readers = values.map(lambda value: lambda: value) | errors.map(raising)


def is_storable(value: object) -> bool:
    return not isinstance(value, str) or (len(value) <= 8_192 and bool(value.encode() or True) and "\0" not in value)


@given(st.dictionaries(st.sampled_from([*MachineFields.__annotations__]), readers), values)
def test_any_entry_of_a_machine_becomes_a_machine(given_fields: Mapping[str, Any], ref: object) -> None:
    for machine_ref in ("ref", ref):
        machine = report_machine(machine_ref, MachineKind.VM, **given_fields)
        assert all(is_storable(getattr(machine, field.name)) for field in fields(ReportedMachine))
        assert isinstance(machine.power_state, PowerState)
        assert (machine.ref, machine.unreadable is None) == (
            (machine_ref, True) if is_ref(machine_ref) else ("", False)
        )


@given(st.dictionaries(st.sampled_from([*SnapshotFields.__annotations__]), readers))
def test_any_entry_of_a_snapshot_becomes_a_snapshot(given_fields: Mapping[str, Any]) -> None:
    snapshot = report_snapshot("ref", **given_fields)
    assert all(is_storable(getattr(snapshot, field.name)) for field in fields(ReportedSnapshot))
    assert (type(snapshot.memory), type(snapshot.ready)) == (bool, bool)
    assert snapshot.created_at.utcoffset() == timedelta(0)
    assert snapshot.created_at + timedelta(days=36_500)  # within the range of a datetime


@pytest.mark.parametrize(
    ("fields_of", "problem"),
    [
        ({"name": lambda: "a"}, None),
        ({"name": lambda: 7}, None),
        ({"name": lambda: {"a": 1}}, "The name is not text: dict."),
        ({"name": lambda: True}, "The name is not text: True."),
        ({"name": lambda: None}, "The name is missing."),
        ({"name": lambda: LONG}, "The name was changed, because it is too long or contains invalid characters."),
        ({"name": lambda: "a\ud800"}, "The name was changed, because it is too long or contains invalid characters."),
        ({"name": lambda: MISSING["name"]}, "The name is missing or malformed."),
        ({"created_at": lambda: "now"}, "The creation time is not a time: 'now'."),
        (
            {"created_at": lambda: datetime.fromtimestamp(-1, UTC)},
            "The creation time 1969-12-31T23:59:59+00:00 is out of range.",
        ),
        (
            {"created_at": lambda: parse_timestamp(1_500_000_000_000)},
            "The creation time 1500000000000 is not a valid number of seconds since 1970.",
        ),
        ({"created_at": lambda: parse_timestamp(None)}, "The creation time is missing or not a number: None."),
        ({"size_bytes": lambda: -1}, "The size is not a number of bytes: -1."),
        ({"memory": lambda: 1}, "The memory flag is neither true nor false: 1."),
        ({"parent_ref": lambda: ""}, "The parent '' is not a valid identifier."),
        (
            {"memory": lambda: "0", "size_bytes": lambda: "1"},
            "The memory flag is neither true nor false: '0'. The size is not a number of bytes: '1'.",
        ),
    ],
)
def test_the_problem_states_the_reason(fields_of: Mapping[str, Any], problem: str | None) -> None:
    assert report_snapshot("ref", **fields_of).problem == problem


def test_a_machine_that_may_not_be_snapshotted_is_blocked() -> None:
    machine = report_machine("ref", MachineKind.VM, snapshot_blocker=lambda: MISSING["template"])
    assert machine.snapshot_blocker == "It is unknown whether the machine can be snapshotted: its entry is malformed."
    assert report_machine("ref", MachineKind.VM).snapshot_blocker is None


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (TIME.replace(tzinfo=None), TIME),
        (datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), TIME),
        (datetime.max.replace(tzinfo=UTC), UNKNOWN_TIME),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=2))), UNKNOWN_TIME),
    ],
)
def test_times_are_in_utc(time: datetime, expected: datetime) -> None:
    assert report_snapshot("ref", created_at=lambda: time).created_at == expected


def test_an_entry_without_a_valid_ref_is_left_out_with_a_reason() -> None:
    found, omitted = report_each(["a", None, {"b": 1}, "c"], report_snapshot)
    assert [snapshot.ref for snapshot in found] == ["a", "c"]
    assert omitted == (
        "A snapshot was left out. The provider's identifier None is not valid.",
        "A snapshot was left out. The provider's identifier dict is not valid.",
    )
    listing = ReportedSnapshots([*found, report_snapshot("d", name=lambda: None)], None, omitted)
    assert listing.problem == f"{omitted[0]} The same applies to 2 more."


def test_an_error_of_the_provider_is_not_one_of_an_entry() -> None:
    def read(_: str) -> ReportedSnapshot:
        raise ProviderUnavailable("No answer.")

    with pytest.raises(ProviderUnavailable, match="No answer"):
        report_each(["a"], read)
    with pytest.raises(ProviderUnavailable, match="No answer"):
        report_snapshot("ref", name=lambda: read(""))
