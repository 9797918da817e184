"""ManageIQ's filters: every operator, every kind of value, every error."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from gateway.config import Settings
from tests.databases import KINDS, Databases
from tests.rest.world import Rest, rest_served

# id, name, description, size, create_time
ROWS = [
    (1, "test", None, None, "2017-01-10T23:59:59.999999Z"),
    (2, "Test", "", 0, "2017-01-11T00:00:00.000000Z"),
    (3, "test-1", "nightly", 1 << 20, "2017-01-11T12:30:15.500000Z"),
    (4, "a*b", "NULL", 1 << 30, "2017-01-11T23:59:59.999999Z"),
    (5, "a.b", "of two\nlines", 5, "2017-01-12T00:00:00.000000Z"),
    (6, " b", "ünlü", 1 << 62, "2017-02-01T00:00:00.000000Z"),
    (7, "a=b", "x", 7, "2018-01-01T00:00:00.000000Z"),
]
ALL = {row[0] for row in ROWS}
NO_RE2 = " RE2 has no look-around and no back-references."


@pytest.fixture(scope="module", params=KINDS)
def filtered(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Rest]:
    with rest_served(Settings(database_url=databases.new(request.param))) as rest:
        rest.sql("INSERT INTO provider (name, tenant, driver) VALUES ('lab', 'default', 'none')")
        for id, kind, host in ((11, "VM", "'esx-1'"), (12, "VM", "NULL"), (201, "INSTANCE", "NULL")):
            rest.sql(
                "INSERT INTO machine (id, tenant, kind, name, name_folded, provider, provider_folded, provider_ref,"
                " provider_ref_folded, power_state, host, host_folded, created_at, updated_at, observed_at, imported)"
                f" VALUES ({id}, 'default', '{kind}', 'web-{id}', 'web-{id}', 'lab', 'lab', 'r', 'r', 'ON', {host},"
                f" {host}, '2017-01-01T00:00:00.000000Z', '2017-01-01T00:00:00.000000Z',"
                " '2017-01-01T00:00:00.000000Z', TRUE)"
            )
        for id, name, description, size, created in ROWS:
            about = "NULL" if description is None else f"'{description}'"
            parent = "NULL" if id == 1 else 1
            rest.sql(
                "INSERT INTO snapshot (id, tenant, machine_id, name, name_folded, description, description_folded,"
                " state, memory, is_current, size_bytes, created_at, parent_id)"
                f" VALUES ({id}, 'default', 11, '{name}', '{name.casefold()}', {about}, {about}, 'READY',"
                f" {id == 2}, {id == 3}, {'NULL' if size is None else size}, '{created}', {parent})"
            )
        yield rest


def found(rest: Rest, *filters: str) -> set[int]:
    return {int(id) for id in rest.ids("/vms/11/snapshots", filter=list(filters))}


@pytest.mark.parametrize(
    ("filter", "ids"),
    [
        # = and its wildcards, quoted and not
        ("name=test", {1}),
        ("name='test'", {1}),
        ('name = "test"', {1}),
        ("  name   =   test  ", {1}),
        ("name=test*", {1, 3}),
        ("name='test*'", {1, 3}),
        ('name="test%"', {1, 3}),
        ("name=*est*", {1, 2, 3}),
        ("name='a.b*'", {5}),
        ("name='a*b'", {4, 5, 7}),
        ("name=a=b", {7}),
        ("name=' b'", {6}),
        ("name=", set()),
        ("description=''", {2}),
        ("description='*'", ALL - {1}),
        ("id=3", {3}),
        ("id='3'", {3}),
        ("parent_id=1", ALL - {1}),
        ("vm_or_template_id=11", ALL),
        ("current=1", {3}),
        ("current=9000000000000000000", set()),
        ("memory=true", {2}),
        ("memory=f", ALL - {2}),
        ("memory!=t", ALL - {2}),
        ("state=ready", ALL),
        ("type=Snapshot", ALL),
        ("filename=NULL", ALL),
        ("filename=x", set()),
        # !=, nulls included
        ("name!=test", ALL - {1}),
        ("name!='test*'", ALL - {1, 3}),
        ("description!=x", ALL - {7}),
        ("total_size!=5", ALL - {5}),
        # == and !== have no wildcards
        ("name=='a*b'", {4}),
        ("name==a*b", {4}),
        ("name==test*", set()),
        ("name=='a=b'", {7}),
        ("name!==a*b", ALL - {4}),
        ("description!=='x'", ALL - {7}),
        # regular expressions
        ("name=~/^test/", {1, 3}),
        ("name=~/^TEST/i", {1, 2, 3}),
        ("name=~est", {1, 2, 3}),
        ("name=~'^.e'", {1, 2, 3}),
        (r"name=~/\Aa[*.]b\Z/", {4, 5}),
        ("description=~/^lines$/", {5}),
        ("description=~/two.lines/", set()),
        ("description=~/two.lines/m", {5}),
        ("description=~/.*/", ALL - {1}),
        ("description!~/n/i", {1, 2, 7}),
        ("description!~/^$/", ALL - {2}),
        ("description!~/nothing like it/", ALL),
        ("description=~/nothing like it/", set()),
        # < <= > >=
        ("name<b", {2, 4, 5, 6, 7}),
        ("name<='a*b'", {2, 4, 6}),
        ("name>test", {3}),
        ("name>=test", {1, 3}),
        ("total_size>5", {3, 4, 6, 7}),
        ("total_size>=1.megabyte", {3, 4, 6}),
        ("total_size<'1.5.kilobytes'", {2, 5, 7}),
        ("total_size<=5", {2, 5}),
        ("total_size<9223372036854775807", ALL - {1}),
        ("total_size>-1", ALL - {1}),
        # nulls
        ("description=NULL", {1}),
        ("description=nil", {1}),
        ("description!=null", ALL - {1}),
        ("description==NULL", {1}),
        ("description!==Nil", ALL - {1}),
        ("description='NULL'", {4}),
        ("description<NULL", set()),
        ("create_time=NULL", set()),
        ("total_size=NULL", {1}),
        # arrays
        ("name=[test,Test]", {1, 2}),
        ("name=[test, b]", {1, 6}),
        ("name=[test*,a.b]", {1, 3, 5}),
        ("name=[]", set()),
        ("id=[1,2,99]", {1, 2}),
        ("name='[test]'", set()),
        # dates: a day is the whole day, a time the second that is shown
        ("create_time=2017-01-11", {2, 3, 4}),
        ("create_time<2017-01-11", {1}),
        ("create_time>2017-01-11", {5, 6, 7}),
        ("create_time=2017-01-11T12:30:15Z", {3}),
        ("create_time=2017-01-11 12:30:15 UTC", {3}),
        ("create_time=2017-01-11T13:30:15+01:00", {3}),
        ("create_time=2017-01-11T12:30:15.5Z", {3}),
        ("create_time=2017-01-11T12:30:15.6Z", set()),
        ("create_time<2017-01-11T12:30:15Z", {1, 2}),
        ("create_time>2017-01-11T12:30:15Z", {4, 5, 6, 7}),
        ("create_time=[2017-01-10, 2018-01-01]", {1, 7}),
        # a quoted date is one time, with every operator
        ("create_time='2017-01-11'", {2}),
        ("create_time!='2017-01-11'", ALL - {2}),
        ("create_time>='2017-01-12'", {5, 6, 7}),
        ("create_time<='2017-01-12'", {1, 2, 3, 4, 5}),
        # relative dates, all of them long after or long before
        ("create_time<30 days ago", ALL),
        ("create_time<last month", ALL),
        ("create_time<today", ALL),
        ("create_time<2 Weeks Ago", ALL),
        ("create_time>this week", set()),
        ("create_time=yesterday", set()),
        ("create_time>100 years ago", ALL),
        # one association away
        ("vm_or_template.name=web-11", ALL),
        ("vm_or_template.name!='web-*'", set()),
        ("vm_or_template.name=~/11$/", ALL),
        ("vm_or_template.power_state=on", ALL),
        ("parent.name=test", ALL - {1}),
        ("parent.name=~/^t/", ALL - {1}),
    ],
)
def test_one_filter(filtered: Rest, filter: str, ids: set[int]) -> None:
    assert found(filtered, filter) == ids


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        (["name=test*", "total_size=NULL"], {1}),
        (["name=test*", "or id=7", "total_size=NULL"], {1, 7}),
        (["name=nothing", "OR id=7", "or id=6"], {6, 7}),
        (["or id=7", "or id=6"], {6, 7}),
        (["or id=7"], {7}),
        (["name=~/t/", "id<3"], {1, 2}),
        (["name=~/^t/", "or description=~/^ü/", "id>1"], {3, 6}),
        (["name!~/a/", "name=~/b/"], {6}),
    ],
)
def test_several_filters(filtered: Rest, filters: list[str], ids: set[int]) -> None:
    assert found(filtered, *filters) == ids


@pytest.mark.parametrize(
    ("path", "filter", "ids"),
    [
        ("/vms", "snapshots.name='test*'", ["11"]),
        ("/vms", "snapshots.name!=test", ["11"]),
        ("/vms", "snapshots.name=~/^a.b$/", ["11"]),
        ("/vms", "snapshots.total_size>=8.exabytes", None),
        ("/vms", "host.name=esx-1", ["11"]),
        ("/vms", "host.name!=esx-1", ["12"]),
        ("/vms", "host.name=NULL", ["12"]),
        ("/vms", "host.name=~/x/", ["11"]),
        ("/vms", "v_total_snapshots>6", ["11"]),
        ("/vms", "v_total_snapshots=0", ["12"]),
        ("/vms", "v_snapshot_oldest_name=test", ["11"]),
        ("/vms", "archived=false", ["11", "12"]),
        ("/vms", "ext_management_system.name=lab", ["11", "12"]),
        ("/vms", "type='*InfraManager*'", ["11", "12"]),
        ("/instances", "flavor.name=NULL", ["201"]),
        ("/instances", "name=~/./", ["201"]),
    ],
)
def test_filters_of_machines(filtered: Rest, path: str, filter: str, ids: list[str] | None) -> None:
    if ids is None:
        assert filtered.refusal(path, filter=filter) == "The number 8.exabytes does not fit in 64 bits."
    else:
        assert filtered.ids(path, filter=filter) == ids


def test_times_in_responses_can_be_used_in_filters(filtered: Rest) -> None:
    for row in filtered.get("/vms/11/snapshots", expand="resources")["resources"]:
        assert int(row["id"]) in found(filtered, f"create_time={row['create_time']}")


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ("name^bb", "Unknown operator specified in filter name^bb"),
        ("name", "Unknown operator specified in filter name"),
        ("=bb", "Unknown operator specified in filter =bb"),
        ("bogus=1", "attribute Snapshot-bogus does not exist"),
        ("Name=1", "attribute Snapshot-Name does not exist"),
        ("disks=1", "attribute Snapshot-disks does not exist"),
        ("vm_or_template.bogus=1", "attribute Snapshot.vm_or_template-bogus does not exist"),
        ("bogus.name=1", "attribute Snapshot.bogus-name does not exist"),
        ("a.b.c=1", "Filtering of attributes with more than one association away is not supported"),
        *((f"name{operator}[a,b]", f"Unsupported operator for arrays: {operator}") for operator in (
            "!=", "==", "!==", "=~", "!~", "<", "<=", ">", ">="
        )),
        *((f"create_time{operator}2017-01-11", f"Unsupported operator for datetime: {operator}") for operator in (
            "!=", "==", "!==", "=~", "!~", "<=", ">="
        )),
        ("create_time=soon", "Bad format for datetime: soon"),
        ("create_time<2017-13-01", "Bad format for datetime: 2017-13-01"),
        ("create_time='2017-01-*'", "Bad format for datetime: 2017-01-*"),
        ("create_time<999999 years ago", "Bad format for datetime: 999999 years ago"),
        ("create_time<0001-01-01T00:00:00+23:00", "Bad format for datetime: 0001-01-01T00:00:00+23:00"),
        ("total_size>abc", "Bad format for integer: abc"),
        ("total_size=", "Bad format for integer: "),
        ("total_size>9223372036854775808", "The number 9223372036854775808 does not fit in 64 bits."),
        ("id=1*", "Bad format for integer: 1*"),
        ("total_size=~/1/", "Unsupported operator for integer: =~"),
        ("memory=maybe", "Bad format for boolean: maybe"),
        ("memory<true", "Unsupported operator for boolean: <"),
        ("name=~/a/x", "The regular expression option 'x' is not supported."),
        ("name=~/(?=a)/", "The regular expression '(?=a)' is not valid RE2 syntax." + NO_RE2),
        ("name=~/(/", "The regular expression '(' is not valid RE2 syntax." + NO_RE2),
        (f"name=~{'a' * 1_001}", "A regular expression may have at most 1000 characters."),
        (f"name={'*a' * 17}", "A pattern may have at most 16 wildcards."),
        (f"name={'a' * 4_001}", "filter: A text may have at most 4000 characters."),
        ("name=a\0b", "filter: A text must not contain NUL or an unpaired surrogate."),
        (f"name=[{'a,' * 501}b]", "An array may have at most 500 values."),
    ],
)  # fmt: skip
def test_invalid_filters(filtered: Rest, filter: str, message: str) -> None:
    assert filtered.refusal("/vms/11/snapshots", filter=filter) == message


def test_too_many_filters(filtered: Rest) -> None:
    assert filtered.refusal("/vms/11/snapshots", filter=["id=1"] * 501) == "A request may have at most 500 filters."


def test_a_hostile_pattern_is_refused(filtered: Rest) -> None:
    filtered.sql(f"UPDATE snapshot SET description = '{'a' * 4_000}' WHERE id = 7")
    try:
        message = filtered.refusal("/vms/11/snapshots", filter="description=~/(.{0,100}a){10}b/")
        assert message.startswith("The regular expression would have to search too much text.")
        assert found(filtered, "description=~/(a+a+)+b/") == set()
    finally:
        filtered.sql("UPDATE snapshot SET description = 'x' WHERE id = 7")


def test_the_rows_are_older_than_the_relative_dates() -> None:
    """The filters with relative dates above assume this."""
    assert datetime.now(UTC) > datetime(2018, 3, 1, tzinfo=UTC)
