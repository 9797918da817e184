"""Parameters of URLs and bodies: each is understood, or refused by name. None ever widens what a request returns."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rest.test_writes import LIST, ONE
from tests.rest.world import Rest

# ---- the law, on the snapshots 3 (`test-base`), 4 (`test-before-upgrade`) and 5 (`test-new-driver`) of machine 11

ALL = {"3", "4", "5"}
FILTERS = {
    "name=test-base": {"3"},
    "name='test-b*'": {"3", "4"},
    "id>3": {"4", "5"},
    "id=[4,5]": {"4", "5"},
    "name=none": set(),
    "": ALL,  # left out, as in ManageIQ
    " ": ALL,
}
VALUES = {
    "filter": sorted(FILTERS),
    "limit": ["", "0", "1", "2", "9", "x", "-1"],
    "offset": ["", "0", "1", "9", "x"],
    "hide": ["resources", "Resources", ""],
    "sort_by": ["id", "name,id", "bogus"],
    "attributes": ["id", "name", "bogus"],
    "by_tag": ["/a/b", ""],
    "collection_class": ["Vm"],
    "page": ["2"],
    "": ["1"],
}
SPELLINGS = ["{}", "{}[]", "{}[0]", "{}[1]", "{}[x]", "{}[0][]", "[{}]", "{}.", " {}", "{}%5B%5D"]

names = st.sampled_from(sorted(VALUES))
cases: st.SearchStrategy[Callable[[str], str]] = st.sampled_from([str, str, str, str.upper, str.title])


@st.composite
def parameters(draw: st.DrawFn) -> list[tuple[str, str, str]]:
    """Parameters as `(what is meant, its spelling, value)`. Most spellings are those of ManageIQ's clients."""
    found = []
    for name in draw(st.lists(names, max_size=4)):
        usual = "{}[]" if name == "filter" else "{}"
        spelling = draw(st.sampled_from([usual] * len(SPELLINGS) + SPELLINGS)).format(name)
        found.append((name, draw(cases)(spelling), draw(st.sampled_from(VALUES[name]))))
    return found


@given(given_=parameters())
def test_a_parameter_is_understood_or_refused(shared: Rest, given_: list[tuple[str, str, str]]) -> None:
    query = urlencode([("expand", "resources"), *((spelled, value) for _, spelled, value in given_)])
    answer = shared.http.get(f"{shared.root}{LIST}?{query}")
    if answer.status_code == 400:
        message = answer.json()["error"]["message"].lower()
        assert any((name or "parameter '") in message or (value and value in message) for name, _, value in given_), (
            message
        )
        return
    assert answer.status_code == 200
    ids = [row["id"] for row in answer.json().get("resources", [])]
    for name, _, value in given_:
        match name:
            case "filter":
                assert set(ids) <= FILTERS[value]
            case "limit":
                assert len(ids) <= int(value)
            case "offset":
                assert len(ids) <= max(0, 3 - int(value or 0))
            case "hide":
                assert not (value and ids)
            case "sort_by" | "attributes":
                assert value != "bogus"
            case _:
                raise AssertionError(f"{name} was accepted")


@pytest.mark.parametrize(
    "query",
    [
        "filter[]=name=test-base&filter[]=id=3",
        "filter=name=test-base&filter=id=3",
        "filter%5B%5D=name%3Dtest-base&filter%5B%5D=id%3D3",
        "filter[0]=name=test-base&filter[1]=id=3",
        "filter[]=name=test-base&filter[]=&filter[]=id=3",
    ],
)
def test_filters_in_the_spellings_of_frameworks(shared: Rest, query: str) -> None:
    found = shared.get(f"{shared.root}{LIST}?{query}&expand=resources")
    assert [row["id"] for row in found["resources"]] == ["3"]


def test_lists_in_the_spellings_of_frameworks(shared: Rest) -> None:
    expected = shared.get(LIST, expand="resources", attributes="id,name", sort_by="name,id", sort_order="desc,asc")
    for spelled in ("{}", "{}[]", "{}[#]"):
        pairs = [("expand", "resources"), ("attributes", "id"), ("attributes", "name"), ("sort_by", "name")]
        pairs += [("sort_by", "id"), ("sort_order", "desc"), ("sort_order", "asc")]
        seen: dict[str, int] = {}
        query = []
        for name, value in pairs:
            query.append((spelled.format(name).replace("#", str(seen.get(name, 0))), value))
            seen[name] = seen.get(name, 0) + 1
        found = shared.get(f"{shared.root}{LIST}?{urlencode(query)}")
        assert found["resources"] == expected["resources"]
        assert shared.get(found["links"]["self"])["resources"] == expected["resources"]


def test_values_that_are_refused(shared: Rest) -> None:
    for query, message in (
        ("limit=", "Non numeric parameter: limit"),
        ("limit=1&limit=1000", "The parameter limit is given more than once."),
        ("filter[1]=id=3", "The values of filter[…] must be numbered from 0, in this order."),
        ("hide=resource", "Only resources can be hidden, not 'resource'."),
        ("by_tag=/a/b", "The parameter by_tag is not supported, because the gateway stores no tags."),
        ("filter[name]=x", f"Unknown parameter 'filter[name]'. {THESE}"),
        ("Filter[]=id=3", f"Unknown parameter 'Filter[]'. {THESE}"),
        ("limit[]=1", f"Unknown parameter 'limit[]'. {THESE}"),
        ("=1", f"Unknown parameter ''. {THESE}"),
        (f"filter[{'0' * 5_000}]=id=3", f"Unknown parameter 'filter[{'0' * 93}…'. {THESE}"),
    ):
        assert shared.refusal(f"{shared.root}{LIST}?{query}") == message


THESE = (
    "The parameters of this request are: attributes, expand, filter[], hide, limit, offset, sort_by, sort_options,"
    " sort_order."
)


@pytest.mark.parametrize("name", ["filter", "filter[]", "limit", "unknown", "filter "])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "/auth", None),
        ("POST", "/auth", None),
        ("DELETE", "/auth", None),
        ("GET", "/vms/11", None),
        ("GET", "/instances/201", None),
        ("GET", "/tasks/1", None),
        ("GET", ONE, None),
        ("DELETE", ONE, None),
        ("POST", ONE, {"action": "delete"}),
        ("POST", ONE, {"action": "revert"}),
        ("POST", LIST, {"name": "new"}),
        ("POST", LIST, {"action": "delete", "resources": [{"id": 3}]}),
        ("OPTIONS", LIST, None),
        ("OPTIONS", "/vms", None),
    ],
)
def test_every_request_refuses_parameters_that_it_does_not_have(
    shared: Rest, method: str, path: str, body: Any, name: str
) -> None:
    answer = shared.http.request(method, f"{shared.root}{path}?{quote_plus(name)}=1", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"Unknown parameter '{name}'. ")
    assert shared.ids(LIST) == ["5", "4", "3"]


# ---- bodies


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS"])
def test_a_body_is_not_ignored(shared: Rest, method: str) -> None:
    path = "/vms/11/snapshots/99" if method == "DELETE" else LIST
    for empty in ("{}", "null", " "):  # manageiq-client sends `{}`
        answer = shared.http.request(method, shared.root + path, content=empty)
        assert answer.status_code == (404 if method == "DELETE" else 200)
    answer = shared.http.request(method, shared.root + path, json={"filter": ["name=none"]})
    message = f"The body of a {method} request must be empty. Send parameters in the URL."
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)


def test_members_beside_the_items_of_an_action_are_refused(shared: Rest) -> None:
    for members, name, items in (
        ({"resources": [{"id": 3}, {"id": 4}], "filter": ["id=3"]}, "filter", "resources"),
        ({"resource": {"id": 3}, "resources": [{"id": 4}]}, "resource", "resources"),
        ({"resource": {"id": 3}, "limit": 1}, "limit", "resource"),
    ):
        error = shared.post(LIST, {"action": "delete", **members}, 400)["error"]
        assert error["message"] == f"Unknown member '{name}' beside {items} in the body."
    assert shared.ids(LIST) == ["5", "4", "3"]
