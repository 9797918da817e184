"""manageiq-client, unmodified, reaches the gateway by every name that is allowed: it follows the links of responses."""

import importlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from tests.access.clients import create_token
from tests.databases import Databases
from tests.rest.world import Rest
from tests.serving import served
from tests.waiting import PATIENCE

pytestmark = [
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="manageiq-client requires distutils"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

NAME = "snapshots.example.test"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
NGINX = """
daemon off; user root; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    {temporary}
    server {{
        listen {address};
        location / {{
            proxy_pass {gateway};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""


def use(entry_point: str, root: str, auth: dict[str, str]) -> None:
    """Reads machines, snapshots and tasks, and checks that every link begins with `root`."""
    api = importlib.import_module("manageiq_client.api").ManageIQClient(entry_point, auth)
    vm = api.collections.vms.get(name="web-01")
    assert [vm.href, vm.power_state] == [f"{root}/vms/11", "on"]
    assert {snapshot.href for snapshot in vm.snapshots} == {f"{root}/vms/11/snapshots/{id}" for id in (3, 4, 5)}
    page = api.get(f"{root}/vms", limit=20)
    assert api.get(page["links"]["next"])["subcount"] == 10
    (task,) = vm.snapshots.action.create(name="by name")
    assert task.href.startswith(f"{root}/tasks/")
    task.reload()
    assert task.name == "Creating snapshot by name for Virtual Machine id:11 name:'web-01'"
    assert api.api_version("4.4.0").collections.instances.get(name="api-01").href == f"{root}/v4.4.0/instances/201"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("slashes", ["/", "//"])
def test_loopback_names(rest: Rest, host: str, slashes: str) -> None:
    port = rest.gateway.url.rpartition(":")[2]
    root = f"http://{host}:{port}/api"
    use(f"http://{host}:{port}{slashes}api", root, {"user": "admin", "password": "smartvm"})


@contextmanager
def nginx(directory: Path, gateway: str) -> Iterator[int]:
    """Runs nginx before the gateway, configured as in docs/deployment.md, and yields its port.

    It inherits a listening socket, so its port is free and connections wait until it has started.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = "{}:{}".format(*listening.getsockname())
        temporary = " ".join(f"{name}_temp_path {directory}/{name};" for name in TEMPORARY)
        text = NGINX.format(directory=directory, temporary=temporary, address=address, gateway=gateway)
        (directory / "nginx.conf").write_text(text)
        process = subprocess.Popen(
            ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")],
            env={**os.environ, "NGINX": f"{listening.fileno()};"},
            pass_fds=[listening.fileno()],
        )
        try:
            yield int(address.rpartition(":")[2])
        finally:
            process.terminate()
            process.wait(PATIENCE)


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_a_name_behind_nginx_with_another_port(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=databases.new("sqlite", demo=True), allowed_hosts=(NAME,), drain_timeout=0.01)
    token = create_token(settings.database_url)
    find = socket.getaddrinfo

    def resolve(host: Any, *more: Any, **options: Any) -> Any:
        return find("127.0.0.1" if host == NAME else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    socket.setdefaulttimeout(PATIENCE)  # the client has no timeout of its own
    with ExitStack() as stack:
        stack.callback(socket.setdefaulttimeout, None)
        gateway = stack.enter_context(served(settings))
        port = stack.enter_context(nginx(tmp_path, gateway.url))
        root = f"http://{NAME}:{port}/api"
        use(root, root, {"user": "ci", "password": token})
