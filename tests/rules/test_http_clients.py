"""Every HTTP client follows no redirects, and has a time limit and a size limit for the whole response.

`gateway.http_client` has the limits for clients that are based on `http.client`; `tests.drivers.hostile` shows that
they hold. This test finds clients without them.
"""

import ast
from collections.abc import Iterator

from botocore.awsrequest import AWSHTTPConnectionPool, AWSHTTPSConnectionPool
from requests.adapters import HTTPAdapter

from gateway.http_client.responses import LimitedResponse
from gateway.http_client.urllib3_limits import limit_urllib3
from tests.rules.modules import Module, imports, modules

# Libraries that open their connections with urllib3. A module that imports one applies the limits to urllib3.
_ON_URLLIB3 = ("boto3", "botocore", "keystoneauth1", "openstack", "opentelemetry.exporter", "proxmoxer", "requests")
_LIMITING_CALL = "limit_urllib3()"

# A module with a client of another kind, and why it has the limits.
_ALLOWED = {
    "gateway.http_client.responses": "declares the limits of http.client",
    "gateway.http_client.urllib3_limits": "applies them to urllib3",
    "gateway.drivers.vsphere.session": "a connection of http.client with the limited response",
    "gateway.access.jwks": "httpx2, with the arguments and the loop that `test_jwks` tests",
    "gateway.telemetry.tracing": "OpenTelemetry's exporter, which uses requests",
}
_HTTP_LIBRARIES = ("aiohttp", "http.client", "httpcore", "httpx", "httpx2", "pycurl", "urllib.request", "urllib3")


def _is_of(name: str, libraries: tuple[str, ...]) -> bool:
    return any(name == library or name.startswith(f"{library}.") for library in libraries)


def _applies_limits(module: Module) -> bool:
    return any(isinstance(node, ast.Expr) and ast.unparse(node) == _LIMITING_CALL for node in module.tree.body)


def _has_limits(module: Module) -> bool:
    """Whether the module applies the limits, or imports a module of its package that does."""
    package = module.name.rpartition(".")[0]
    siblings = [modules()[name] for _, name in imports(module) if name.rpartition(".")[0] == package]
    return _applies_limits(module) or any(map(_applies_limits, siblings))


def test_clients_on_urllib3_have_its_limits() -> None:
    users = [module for module in modules().values() if any(_is_of(name, _ON_URLLIB3) for _, name in imports(module))]
    assert {module.name.split(".")[2] for module in users if module.package == "drivers"} == {
        "ec2",
        "openstack",
        "proxmox",
    }
    assert [module.place for module in users if not _has_limits(module)] == []


def test_other_http_clients_are_known() -> None:
    users = {
        module.name
        for module in modules().values()
        if any(_is_of(name, _HTTP_LIBRARIES) for _, name in imports(module))
    }
    assert users - _ALLOWED.keys() == set()


def _connections(module: Module) -> Iterator[ast.ClassDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and any(
            "HTTP" in ast.unparse(base) and "Connection" in ast.unparse(base) for base in node.bases
        ):
            yield node


def test_connections_have_the_limited_response() -> None:
    wrong = [
        f"{module.place}:{node.lineno}"
        for module in modules().values()
        for node in _connections(module)
        if "response_class = LimitedResponse" not in map(ast.unparse, node.body)
    ]
    assert wrong == []


def test_clients_of_httpx2_do_not_follow_redirects() -> None:
    wrong = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("httpx2."):
                continue
            if ast.unparse(node.func) == "httpx2.URL":
                continue
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if given.get("follow_redirects") != "False" or "timeout" not in given:
                wrong.append(f"{module.place}:{node.lineno}")
    assert wrong == []


def test_the_limits_of_urllib3_reach_the_libraries_on_it() -> None:
    """Their connections inherit the class of the response, also those that a library opens on its own."""
    limit_urllib3()
    pools = HTTPAdapter().poolmanager.pool_classes_by_scheme
    connections = [pool.ConnectionCls for pool in (*pools.values(), AWSHTTPConnectionPool, AWSHTTPSConnectionPool)]
    assert [connection.response_class for connection in connections] == [LimitedResponse] * 4
