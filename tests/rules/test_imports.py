"""Imports point one way: DESIGN's arrows, held."""

import ast

from tests.rules.modules import imports, modules

# What each room may import of the others. `access` knows of drivers only what they say they can do.
ARROWS: dict[str, set[str]] = {
    "__main__": {
        "supervising",
        "serving",
        "telemetry",
        "app",
        "api",
        "access",
        "inventory",
        "operations",
        "providers",
        "store",
        "config",
        "errors",
    },
    "supervising": {"worker_process", "serving", "telemetry", "app", "config", "errors"},
    "worker_process": {"serving", "telemetry", "app", "config", "errors"},
    "serving": {"app", "pages", "telemetry", "connections", "tls", "config", "errors"},
    "connections": {"config"},
    "tls": {"config", "errors"},
    "app": {
        *(
            "surfaces",
            "health",
            "telemetry",
            "api",
            "rest",
            "inventory",
            "operations",
            "reads",
            "access",
            "drivers",
            "store",
            "web",
        ),
        *("providers", "config", "audit", "models", "columns", "errors"),
    },
    "surfaces": {
        *("pages", "health", "telemetry", "api", "rest", "operations", "access", "store", "web"),
        "config",
    },
    "providers": {"drivers", "config", "errors"},
    "pages": {"api", "health"},
    "health": {"store"},
    "telemetry": {"api", "operations", "access", "drivers", "store", "config", "audit", "models", "columns", "errors"},
    "api": {"deadlines", "operations", "reads", "access", "store", "config", "audit", "models", "columns", "errors"},
    "rest": {"deadlines", "operations", "reads", "access", "store", "config", "audit", "models", "columns", "errors"},
    "inventory": {
        "operations",
        "reads",
        "access",
        "drivers",
        "store",
        "config",
        "audit",
        "models",
        "columns",
        "errors",
    },
    "operations": {"access", "drivers", "store", "config", "audit", "models", "columns", "errors"},
    "reads": {"access", "store", "audit", "models", "columns", "errors"},
    "access": {"drivers", "store", "config", "audit", "identities", "models", "columns", "errors"},
    "drivers": {"models", "columns", "errors"},
    "store": {"deadlines", "audit", "identities", "models", "columns", "errors"},
    "config": {"errors"},
    "audit": {"models", "columns"},
    "identities": {"models", "columns"},
    "models": {"columns", "errors"},
    "columns": set(),
    "deadlines": set(),
    "errors": set(),
    "web": set(),
}

# Who may know of what others wrote.
KNOWN_ONLY_TO = {
    "strawberry": {"api"},
    "graphql": {"api"},
    "starlette": {"api", "rest", "app", "surfaces", "pages", "telemetry", "web"},
    "uvicorn": {"serving", "connections"},
    "click": {"__main__"},
    "alembic": {"store"},
    "opentelemetry": {"telemetry"},
    "prometheus_client": {"telemetry"},
    "asyncpg": {"store"},
    "sqlite3": {"store", "inventory"},
    "psycopg": {"store", "inventory"},
    **{name: {"drivers"} for name in ("boto3", "botocore", "keystoneauth1", "libvirt", "openstack", "proxmoxer")},
    "pyVmomi": {"drivers"},
}


def test_rooms_import_only_what_they_may() -> None:
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in modules().values()
        for line, name in imports(module)
        if name.startswith("gateway.") and (room := name.split(".")[1]) != module.room
        if room not in ARROWS.get(module.room, set())
    ]
    assert wrong == []


def test_arrows_make_no_circle() -> None:
    left = {room: set(others) for room, others in ARROWS.items()}
    while ends := [room for room, others in left.items() if not others]:
        left = {room: others - {*ends} for room, others in left.items() if room not in ends}
    assert left == {}


def test_modules_make_no_circle() -> None:
    left = {
        module.name: {name for _, name in imports(module) if name in modules() and name != module.name}
        for module in modules().values()
    }
    while ends := [name for name, others in left.items() if not others]:
        left = {name: others - {*ends} for name, others in left.items() if name not in ends}
    assert sorted(left) == []


def test_libraries_stay_in_their_rooms() -> None:
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in modules().values()
        for line, name in imports(module)
        if module.room not in KNOWN_ONLY_TO.get(name.split(".")[0], {module.room})
    ]
    assert wrong == []


def test_a_driver_imports_only_the_contract() -> None:
    """And its own other parts: `proxmox_api` belongs to `proxmox`."""
    port = {f"gateway.drivers.{name}" for name in ("base", "marks", "options", "threads")}
    allowed = port | {"gateway.errors", "gateway.models", "gateway.columns"}
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in modules().values()
        if module.room == "drivers"
        for line, name in imports(module)
        if name.startswith("gateway")
        and name not in allowed
        and not name.startswith(f"{module.name.partition('_')[0]}_")
    ]
    assert wrong == []


def test_only_the_root_names_a_driver() -> None:
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in modules().values()
        if module.room not in {"app", "drivers"}
        for line, name in imports(module)
        if name.startswith("gateway.drivers") and name not in {"gateway.drivers.base", "gateway.drivers.options"}
    ]
    assert wrong == []


def test_only_config_reads_the_environment() -> None:
    wrong = [
        f"{module.place}:{node.lineno}"
        for module in modules().values()
        if module.room != "config"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}
    ]
    assert wrong == []


def test_nothing_is_imported_inside_functions() -> None:
    wrong = [
        f"{module.place}:{inner.lineno} {ast.unparse(inner)}"
        for module in (*modules().values(), *modules("tests").values())
        for function in ast.walk(module.tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(function)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert wrong == []
