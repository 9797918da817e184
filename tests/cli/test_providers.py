"""Providers configured in a file and in the environment: all errors are reported, and invalid ones are not used."""

from pathlib import Path

import httpx2
import pytest

from gateway.config import Settings
from gateway.errors import StartupError
from tests.cli.programs import refusal, run
from tests.databases import Databases
from tests.serving import served

GOOD = 'driver = "qcow2"\ndirectory = "."\n'

NAMES = "1 to 63 letters, digits, '.', '_' and '-', and begin with a letter or a digit."
FOLDER = "Image directory; each file in it whose name ends in .qcow2 is a machine."
SECRET_REFERENCE = (
    'Option \'password\' is a secret and must be a reference to it: { env = "VARIABLE" } or { file = "PATH" }.'
)
FROM_FILE = "Option 'password' refers to the file"


def errors_of(text: str, **settings: str) -> list[str]:
    """The errors that `gateway provider list` reports for a configuration."""
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


def test_each_error_has_its_own_line() -> None:
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
    assert errors_of(text) == [
        "Provider 'plain': The value must be a table, such as [plain] followed by driver = \"libvirt\".",
        f"Provider 'a b': The name must be {NAMES}",
        f"Provider 'nothing': A driver is required. Use one of {drivers}.",
        f"Provider 'unknown': The driver 'hyperv' does not exist. Use one of {drivers}.",
        "Provider 'numbers': The tenant must be a non-empty string, not 7.",
        "Provider 'numbers': The concurrency must be a whole number of at least 1, not 0.",
        "Provider 'numbers': The driver has no option 'speed'.",
        f"Provider 'missing': Option 'directory' is required: {FOLDER}",
        "Provider 'wrong': Option 'directory' must be text, not 5.",
    ]


def test_unreadable_configuration(tmp_path: Path) -> None:
    assert errors_of("[a") == [
        "GATEWAY_PROVIDERS is not valid TOML: Expected ']' at the end of a table declaration (at end of document)."
    ]
    file = tmp_path / "providers.toml"
    assert refusal("provider", "list", "--providers-file", str(file)) == (
        f"GATEWAY_PROVIDERS_FILE: the file '{file}' cannot be read: No such file or directory."
    )
    file.write_bytes(b"\xff")
    assert refusal("serve", "--providers-file", str(file)).endswith("cannot be read: it is not UTF-8.")
    file.write_text(f"[a]\n{GOOD}")
    assert errors_of(f"[a]\n{GOOD}", providers_file=str(file)) == [
        "Provider 'a' is configured both in GATEWAY_PROVIDERS and in GATEWAY_PROVIDERS_FILE."
    ]


@pytest.mark.parametrize(
    ("secret", "error"),
    [
        ('"hunter2"', SECRET_REFERENCE),
        ('{env = "A", file = "B"}', SECRET_REFERENCE),
        (
            '{env = "NOT_SET_ANYWHERE"}',
            "Option 'password' refers to the environment variable NOT_SET_ANYWHERE, which is not set.",
        ),
        (
            '{file = "nowhere"}',
            f"{FROM_FILE} 'nowhere', which cannot be read: No such file or directory.",
        ),
        ('{file = "/dev/null"}', f"{FROM_FILE} '/dev/null', which is empty."),
    ],
)
def test_secrets_must_be_references(secret: str, error: str) -> None:
    text = f'[pve]\ndriver = "proxmox"\naddress = "https://127.0.0.1:1"\nuser = "root@pam"\npassword = {secret}\n'
    found = errors_of(text)
    assert found == [f"Provider 'pve': {error}"]
    assert "hunter2" not in found[0]


def test_a_provider_whose_driver_changes(databases: Databases) -> None:
    url = databases.new("sqlite", demo=True)
    with served(Settings(database_url=url)) as gateway:
        [first, *_] = [row["name"] for row in gateway.ask("{ providers { name } }")["providers"]]
    settings = Settings(database_url=url, providers=f'["{first}"]\n{GOOD}')
    refused = "already has machines with the driver 'simulated'. Use another provider name."
    with pytest.raises(StartupError, match=refused), served(settings):
        pass


def test_provider_check_reports_failures(tmp_path: Path) -> None:
    code, out, err = run(
        "provider", "check", "lab", providers=f'[lab]\ndriver = "qcow2"\ndirectory = "{tmp_path}/none"'
    )
    assert (code, err) == (1, "")
    assert out.startswith("connection: FAILED: ")
    assert refusal("provider", "check", "other", providers=f"[lab]\n{GOOD}") == (
        "Provider 'other' is not configured. Configured providers: lab."
    )
    assert refusal("provider", "check", "sim", providers="[sim]\ndriver = 'simulated'") == (
        "Provider 'sim' is simulated, so it has no connection to check."
    )


def test_the_gateway_serves_while_a_provider_is_unavailable(databases: Databases, tmp_path: Path) -> None:
    text = f'[lab]\ndriver = "qcow2"\ndirectory = "{tmp_path}/none"'
    with served(Settings(database_url=databases.new("sqlite"), providers=text)) as gateway:
        gateway.run(_settled(gateway.gateway.inventory))
        [row] = gateway.ask("{ providers { name driver machineCount observedAt problem } }")["providers"]
        assert (row["name"], row["driver"], row["machineCount"], row["observedAt"]) == ("lab", "qcow2", 0, None)
        assert row["problem"]
        assert gateway.http.get("/graphql?query={__typename}").status_code == httpx2.codes.OK


async def _settled(inventory: object) -> None:
    """Waits until the provider has been read once."""
    try:
        await inventory.refresh_provider("lab")  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - the test asserts how the failure is reported
        return
