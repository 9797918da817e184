"""Providers from a file and from the environment: what is wrong with each is said, and none is half taken."""

from pathlib import Path

import httpx2
import pytest

from gateway.config import Settings
from gateway.errors import StartupError
from tests.cli.programs import refusal, run
from tests.databases import Databases
from tests.serving import served

GOOD = 'driver = "qcow2"\ndirectory = "."\n'

NAMES = "1 to 63 letters, digits, '.', '_' and '-', beginning with one of the first two"
FOLDER = "the folder of the images; each file in it whose name ends in .qcow2 is a machine"
ELSEWHERE = 'must take \'password\' from elsewhere: { env = "VARIABLE" } or { file = "PATH" }'
FROM_FILE = "takes 'password' from the file"


def faults(text: str, **settings: str) -> list[str]:
    """What `gateway provider list` says of a configuration, a line per fault."""
    code, out, err = run("provider", "list", providers=text, **settings)
    assert (code, out) == (2, ""), (out, err)
    return [line.removeprefix("gateway: ") for line in err.splitlines()]


def test_configured_providers_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(f'[a]\n{GOOD}tenant = "acme"\nconcurrency = 2\n["b.c-1"]\n{GOOD}')
    listed = run("provider", "list", "--providers-file", str(file), providers="d = {driver = 'simulated'}")
    assert listed == (
        0,
        "a: driver qcow2, tenant acme\nb.c-1: driver qcow2, tenant default\nd: driver simulated, tenant default\n",
        "",
    )


def test_each_fault_has_its_line() -> None:
    text = f"""
        plain = 1
        ["a b"]
        {GOOD}
        [nothing]
        [unknown]
        driver = "hyperv"
        [numbers]
        {GOOD}
        concurrency = 0
        tenant = 7
        speed = "high"
        [missing]
        driver = "qcow2"
        [wrong]
        driver = "qcow2"
        directory = 5
    """
    drivers = "ec2, libvirt, openstack, proxmox, qcow2, simulated, vsphere"
    assert faults(text) == [
        "provider 'plain' must be a table, such as [plain] and below it driver = \"libvirt\"",
        f"provider 'a b' must have a name of {NAMES}",
        f"provider 'nothing' needs a driver; it may be one of {drivers}",
        f"provider 'unknown' has a driver 'hyperv' that is not known; it may be one of {drivers}",
        "provider 'numbers' has a tenant 7, which must be text",
        "provider 'numbers' has a concurrency 0, which must be a whole number of at least 1",
        "provider 'numbers' has an option 'speed' that its driver does not know",
        f"provider 'missing' needs 'directory': {FOLDER}",
        "provider 'wrong' has 'directory' 5, which must be text",
    ]


def test_what_is_not_toml(tmp_path: Path) -> None:
    assert faults("[a") == [
        "GATEWAY_PROVIDERS is not TOML: Expected ']' at the end of a table declaration (at end of document)"
    ]
    file = tmp_path / "providers.toml"
    assert refusal("provider", "list", "--providers-file", str(file)) == (
        f"the file of providers {file} cannot be read: No such file or directory"
    )
    file.write_bytes(b"\xff")
    assert refusal("serve", "--providers-file", str(file)).endswith("cannot be read: it is not UTF-8")
    file.write_text(f"[a]\n{GOOD}")
    assert faults(f"[a]\n{GOOD}", providers_file=str(file)) == [
        "provider 'a' is both in GATEWAY_PROVIDERS and in GATEWAY_PROVIDERS_FILE"
    ]


@pytest.mark.parametrize(
    ("secret", "fault"),
    [
        ('"hunter2"', 'must take \'password\' from elsewhere: { env = "VARIABLE" } or { file = "PATH" }'),
        ('{env = "A", file = "B"}', 'must take \'password\' from elsewhere: { env = "VARIABLE" } or { file = "PATH" }'),
        ('{env = "NOT_SET_ANYWHERE"}', "takes 'password' from the environment, where NOT_SET_ANYWHERE is not set"),
        (
            '{file = "nowhere"}',
            f"{FROM_FILE} nowhere, which cannot be read: No such file or directory",
        ),
        ('{file = "/dev/null"}', f"{FROM_FILE} /dev/null, which is empty"),
    ],
)
def test_secrets_are_elsewhere(secret: str, fault: str) -> None:
    text = f'[pve]\ndriver = "proxmox"\naddress = "https://127.0.0.1:1"\nuser = "root@pam"\npassword = {secret}\n'
    found = faults(text)
    assert found == [f"provider 'pve' {fault}"]
    assert "hunter2" not in found[0]


def test_a_provider_that_changes_its_kind(databases: Databases) -> None:
    url = databases.new("sqlite")
    with served(Settings(database_url=url), demo=True) as gateway:
        [first, *_] = [row["name"] for row in gateway.ask("{ providers { name } }")["providers"]]
    settings = Settings(database_url=url, providers=f'["{first}"]\n{GOOD}')
    refused = "has machines of the driver simulated: give the new one another name"
    with pytest.raises(StartupError, match=refused), served(settings):
        pass


def test_what_does_not_work_is_told(tmp_path: Path) -> None:
    code, out, err = run(
        "provider", "check", "lab", providers=f'[lab]\ndriver = "qcow2"\ndirectory = "{tmp_path}/none"'
    )
    assert (code, err) == (1, "")
    assert out.startswith("answers: FAILED: ")
    assert refusal("provider", "check", "other", providers=f"[lab]\n{GOOD}") == (
        "no provider 'other' is configured; there are: lab"
    )
    assert refusal("provider", "check", "sim", providers="[sim]\ndriver = 'simulated'") == (
        "provider 'sim' is simulated: there is nothing to talk to"
    )


def test_a_provider_that_is_away_keeps_nobody_from_serving(databases: Databases, tmp_path: Path) -> None:
    text = f'[lab]\ndriver = "qcow2"\ndirectory = "{tmp_path}/none"'
    with served(Settings(database_url=databases.new("sqlite"), providers=text)) as gateway:
        gateway.run(_settled(gateway.gateway.inventory))
        [row] = gateway.ask("{ providers { name driver machineCount observedAt problem } }")["providers"]
        assert (row["name"], row["driver"], row["machineCount"], row["observedAt"]) == ("lab", "qcow2", 0, None)
        assert row["problem"]
        assert gateway.http.get("/graphql?query={__typename}").status_code == httpx2.codes.OK


async def _settled(inventory: object) -> None:
    """Until the provider has been asked once."""
    try:
        await inventory.refresh_provider("lab")  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - how that is told is what the test looks at
        return
