"""The REST API's response of a whole fleet can be imported into another gateway, which shows the same then."""

import json
import os
import subprocess
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from gateway.config import Settings
from gateway.inventory.imports.importer import import_files
from tests.databases import Databases
from tests.rest.world import Rest, rest_served
from tests.waiting import at_most

# What the documentation shows. The responses contain the names of associated objects only if they are requested.
ATTRIBUTES = {
    "vms": "v_total_snapshots,host.name",
    "instances": "v_total_snapshots,flavor.name,availability_zone.name",
}
# The times of what an import does itself, and the links.
# `ems_id` is the provider, which the import sets.
NOT_COMPARED = {"href", "actions", "updated_on", "last_sync_on", "ems_id"}
ODD = """
    UPDATE machine SET gone_at = observed_at WHERE id = 11;
    UPDATE machine SET name = '', description = 'Ü', provider_uid = '4221-é', power_state = 'UNKNOWN' WHERE id = 13;
    UPDATE snapshot SET state = 'ERROR', provider_ref = NULL, provider_ref_folded = NULL WHERE id = 3;
    UPDATE snapshot SET size_bytes = NULL, description = '"\\', memory = TRUE, created_by = 'Émile' WHERE id = 4;
    UPDATE snapshot SET size_bytes = 9223372036854775807 WHERE id = 7
"""


def pages(rest: Rest, collection: str, limit: int) -> list[Any]:
    """All pages of a collection."""
    found: list[Any] = []
    for _ in at_most(100):
        page = rest.get(
            f"/{collection}",
            expand="resources,snapshots",
            attributes=ATTRIBUTES[collection],
            sort_by="id",
            limit=limit,
            offset=len(found) * limit,
        )
        found.append(page)
        if "next" not in page["links"]:
            break
    return found


def shown(rest: Rest) -> dict[str, Any]:
    """Machines and snapshots as the gateway shows them."""
    return {
        collection: [compared(machine) for page in pages(rest, collection, 1_000) for machine in page["resources"]]
        for collection in ATTRIBUTES
    }


def compared(resource: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in resource.items() if name not in NOT_COMPARED}
    if "snapshots" in kept:
        kept["snapshots"] = sorted(map(compared, kept["snapshots"]), key=lambda snapshot: int(snapshot["id"]))
    return kept


@pytest.mark.parametrize("limit", [7, 1_000])
def test_import_of_a_gateways_fleet(rest_both: Rest, databases: Databases, tmp_path: Path, limit: int) -> None:
    for statement in ODD.split(";"):
        rest_both.sql(statement)
    paths = []
    for collection in ATTRIBUTES:
        for number, page in enumerate(pages(rest_both, collection, limit)):
            paths.append(tmp_path / f"{collection}-{number}.json")
            paths[-1].write_text(json.dumps(page))
    before = shown(rest_both)
    assert [len(machines) for machines in before.values()] == [30, 24]
    url = databases.new("postgresql" if rest_both.settings.database_url.startswith("postgresql") else "sqlite")
    for _ in range(2):
        result = import_files(url, paths, tenant="default")
        assert result.problems.lines() == []
    assert (result.machines.unchanged, result.machines.updated) == (54, 0)
    with rest_served(Settings(database_url=url, drain_timeout=0.01)) as other:
        assert shown(other) == before


def test_documented_commands(rest: Rest, databases: Databases, tmp_path: Path, root: Path) -> None:
    """With pages of ten machines. Only the name of the program and its database differ from the document."""
    text = (root / "docs/manageiq.md").read_text()
    script, last = text[text.index("    save() {") :].split("    gateway import ")
    for word, value in (
        ("limit=1000", "limit=10"),
        ("offset + 1000", "offset + 10"),
        ('-u "$MIQ_USER:$MIQ_PASSWORD" ', ""),
    ):
        assert word in script
        script = script.replace(word, value)
    run = subprocess.run(
        ["/bin/sh", "-c", dedent(script) + "ls " + last.partition(" --database-url")[0]],
        env={"PATH": os.environ["PATH"], "MIQ": rest.gateway.url, "LC_ALL": "C"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    names = run.stdout.split()
    assert names == [
        *("instances-0.json", "instances-10.json", "instances-20.json"),
        *("vms-0.json", "vms-10.json", "vms-20.json"),
    ]
    result = import_files(databases.new("sqlite"), [tmp_path / name for name in names], tenant="default")
    assert result.problems.lines() == []
    assert result.machines.created == 54
