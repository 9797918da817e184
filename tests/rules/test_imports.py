"""Imports point one way: the layers of the architecture, and who may import which library."""

import ast

from tests.rules.modules import Module, imports, modules

# From the top down: a package imports only packages of the layers below its own.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("server",),
    ("app",),
    ("telemetry",),  # beside the others: it observes them, and only `app`, `server` and `__main__` import it
    ("graphql", "rest"),
    ("inventory",),
    ("simulator",),  # the driver whose machines live in the gateway's own database
    ("http", "reads", "operations", "changes", "jobs"),
    ("access",),
    ("drivers",),
    ("store",),
    ("models", "config", "bounded_cache", "deadlines", "fair_queue", "http_client"),
    ("columns", "errors", "printable_text", "version"),
    ("web",),
)
_DEPTH = {package: depth for depth, packages in enumerate(LAYERS) for package in packages}
_SIMULATOR_USERS = {"gateway.__main__", "gateway.inventory.demo"}
_OBSERVERS = {"__main__", "server", "app", "telemetry"}

# Libraries that only these packages may import.
IMPORTED_ONLY_BY = {
    "strawberry": {"graphql"},
    "graphql": {"graphql"},
    "starlette": {"graphql", "http", "rest", "app", "telemetry", "web"},
    "uvicorn": {"server"},
    "click": {"__main__"},
    "alembic": {"store"},
    "opentelemetry": {"telemetry"},
    "prometheus_client": {"telemetry"},
    "asyncpg": {"store"},
    "sqlite3": {"store", "inventory"},
    "psycopg": {"store", "inventory"},
    **{name: {"drivers"} for name in ("boto3", "botocore", "keystoneauth1", "libvirt", "openstack", "proxmoxer")},
    "pyVmomi": {"drivers"},
    "urllib3": {"http_client"},
    "httpx2": {"access"},
}


def _imported_packages(module: Module) -> list[tuple[int, str, str]]:
    """Line, module and package of each import from another package of the gateway."""
    found = [(line, name, modules()[name].package) for line, name in imports(module) if name in modules()]
    return [one for one in found if one[2] != module.package]


def test_every_package_has_a_layer() -> None:
    assert {module.package for module in modules().values()} - {""} == set(_DEPTH)


def test_imports_point_down() -> None:
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in modules().values()
        for line, name, package in _imported_packages(module)
        if _DEPTH[package] <= _DEPTH[module.package]
    ]
    assert wrong == []


def test_only_what_composes_the_gateway_imports_telemetry() -> None:
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in modules().values()
        for line, name, package in _imported_packages(module)
        if package == "telemetry" and module.package not in _OBSERVERS
    ]
    assert wrong == []


def test_modules_form_no_cycle() -> None:
    left = {
        module.name: {name for _, name in imports(module) if name in modules() and name != module.name}
        for module in modules().values()
    }
    while ends := [name for name, others in left.items() if not others]:
        left = {name: others - {*ends} for name, others in left.items() if name not in ends}
    assert sorted(left) == []


def test_libraries_stay_in_their_packages() -> None:
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in modules().values()
        for line, name in imports(module)
        if module.package not in IMPORTED_ONLY_BY.get(name.split(".")[0], {module.package})
    ]
    assert wrong == []


def test_a_driver_imports_only_the_port() -> None:
    """And its own package."""
    port = {f"gateway.drivers.{name}" for name in ("base", "operation_tags", "options", "threads")}
    responses = {f"gateway.http_client.{name}" for name in ("json_bodies", "responses", "urllib3_limits")}
    allowed = port | responses | {"gateway.errors", "gateway.models", "gateway.columns"}
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in modules().values()
        if module.package == "drivers"
        for line, name in imports(module)
        if name.startswith("gateway")
        and name not in allowed
        and not name.startswith(".".join(module.name.split(".")[:3]))
    ]
    assert wrong == []


def test_only_the_composition_root_names_a_driver() -> None:
    """Except the simulator, which the demo world is made of and `gateway simulate` sets."""
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in modules().values()
        for line, name in imports(module)
        if (name.startswith("gateway.drivers") and module.package not in {"app", "drivers", "simulator"})
        and name not in {"gateway.drivers.base", "gateway.drivers.options"}
        and not (name.startswith("gateway.drivers.simulator.") and module.name in _SIMULATOR_USERS)
    ]
    assert wrong == []


def test_only_config_reads_the_environment() -> None:
    wrong = [
        f"{module.place}:{node.lineno}"
        for module in modules().values()
        if module.package != "config"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}
    ]
    assert wrong == []
