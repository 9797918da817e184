"""Settings: read from the environment once, frozen, handed down from `app`. No other module reads the environment."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from math import inf
from typing import Any

from gateway.errors import StartupError

KEEP_AUDIT_AT_LEAST = 30 * 86_400  # seconds; the database's own triggers say so too


def setting(default: Any, help: str, *, secret: bool = False) -> Any:
    """A settings field: its environment variable is `GATEWAY_` and its name in capitals. No `repr` shows a secret."""
    return field(default=default, metadata={"help": help}, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, with its default. Durations are in seconds unless the name says otherwise."""

    database_url: str = setting(
        "sqlite:///gateway.db", "Where the data is: `sqlite:///FILE` or `postgresql://…`.", secret=True
    )
    host: str = setting("127.0.0.1", "Address to listen on. Without identities only loopback is allowed.")
    port: int = setting(8000, "Port to listen on; 0 takes a free one.")
    allowed_hosts: tuple[str, ...] = setting((), "More `Host` names to answer to, besides loopback and `host`.")
    public_url: str = setting("", "Where clients reach the gateway: links in REST answers begin with it.")
    tls_certificate: str = setting("", "PEM file of the certificate and those that it hangs on: TLS, and nothing else.")
    tls_key: str = setting("", "PEM file of its private key, if that is not in the same file.")
    trusted_proxies: tuple[str, ...] = setting((), "Addresses or networks whose `X-Forwarded-For` and `-Proto` count.")
    cors_origins: tuple[str, ...] = setting((), "Origins of frontends that may call from a browser.")
    providers_file: str = setting("", "TOML file that names the providers and how to reach them.")
    providers: str = setting("", "The same as text, for where there is no file.", secret=True)
    images: str = setting("", "A folder of qcow2 images to serve as a provider called `images`.")
    tenant: str = setting("default", "Tenant of everything, until identities name one.")
    roles: str = setting("", "Roles besides `viewer`, `operator` and `admin`, as TOML: see [rights](rights.md).")
    jwt_issuer: str = setting("", "The `iss` of JWTs that are accepted.")
    jwt_audience: tuple[str, ...] = setting((), "What their `aud` must name, one of them.")
    jwt_jwks_url: str = setting("", "Where the issuer publishes its keys.")
    jwt_key_file: str = setting("", "PEM file of the issuer's public key or certificate, instead.")
    jwt_secret_file: str = setting("", "File of a secret that the issuer shares with the gateway, instead.")
    jwt_secret: str = setting("", "That secret itself, where there is no file.", secret=True)
    jwt_algorithms: tuple[str, ...] = setting(
        (), "How they may be signed; by default `RS256`, `ES256` or `EdDSA`, or by a secret `HS256`."
    )
    jwt_leeway: float = setting(30.0, "How far the issuer's clock may be off.")
    jwt_name_claim: str = setting("sub", "The claim that names the caller.")
    jwt_roles_claim: str = setting("roles", "The claim that holds their roles.")
    jwt_tenant_claim: str = setting("tenant", "The claim that holds their tenant.")
    jwt_default_tenant: str = setting("", "The tenant of those whose token names none; without one they are refused.")
    credentials_trusted: float = setting(10.0, "Verified credentials are trusted so long, also when they are revoked.")
    max_body_bytes: int = setting(1_048_576, "Longest request body that is read.")
    max_head_bytes: int = setting(131_072, "Longest head of a request, its URL included.")
    max_connections: int = setting(4_096, "Connections to one process; more are answered with 503.")
    head_timeout: float = setting(10.0, "How long a TLS handshake, and then the head of a request, may take.")
    body_timeout: float = setting(30.0, "How long the body of a request may take.")
    caller_quota: int = setting(200_000, "Requests that a caller may send in a window, to all processes together.")
    caller_window: float = setting(10.0, "How long it takes until a quota that is used up is full again.")
    caller_requests: int = setting(256, "Requests of one caller that a process serves at once.")
    caller_streams: int = setting(1_000, "WebSockets and event streams that one caller may have to a process.")
    caller_subscriptions: int = setting(1_000, "Subscriptions that one caller may have at a process.")
    max_subscriptions: int = setting(10_000, "Subscriptions at a process.")
    max_tokens: int = setting(5_000, "Longest GraphQL document, in tokens.")
    max_fields: int = setting(1_000, "Fields of a GraphQL operation, counted wherever a fragment is spread.")
    max_depth: int = setting(20, "How deep the fields of a GraphQL operation may be nested.")
    max_aliases: int = setting(100, "Aliases in a GraphQL operation.")
    max_directives: int = setting(100, "Directives in a GraphQL operation.")
    max_cost: int = setting(200_000, "What a GraphQL operation may cost.")
    introspection: bool = setting(True, "Whether clients may ask for the schema.")
    suggestions: bool = setting(True, "Whether errors suggest names of the schema.")
    documents_files: tuple[str, ...] = setting((), "Manifests of persisted documents.")
    documents_only: bool = setting(False, "Whether only persisted documents are served.")
    longest_wait: float = setting(0.5, "Who would have to wait longer than this, behind 32 others or more, is refused.")
    read_connections: int = setting(4, "Database connections for reads.")
    write_connections: int = setting(4, "Database connections for writes (PostgreSQL; SQLite has one writer).")
    read_timeout: float = setting(15.0, "A read that takes longer is ended with an error.")
    write_timeout: float = setting(15.0, "A write that takes longer, waits for locks included, is ended with an error.")
    database_wait: float = setting(5.0, "How long a request waits for a database connection, or for the database.")
    database_queue: int = setting(1_000, "Reads, and writes, that may wait for the database; more are refused at once.")
    operation_slots: int = setting(
        16, "Operations this process runs at once, besides those of providers with a `concurrency`."
    )
    operation_lease: float = setting(10.0, "How long a worker may be silent before another takes its operation over.")
    operation_deadline: float = setting(21_600.0, "An operation still running after this ends as OUTCOME_UNKNOWN.")
    operation_queue_per_machine: int = setting(100, "Unfinished operations one machine may have.")
    operation_queue_total: int = setting(
        10_000, "Unfinished operations in all; several processes may exceed it by a second's."
    )
    refresh_interval: float = setting(300.0, "Every provider is read again after about this long.")
    workers: int = setting(1, "Processes that serve; `gateway serve --workers`.")
    stop_delay: float = setting(
        0.0, "How long to go on serving after a request to stop, while `/readyz` says 503; 0 stops at once."
    )
    drain_timeout: float = setting(10.0, "How long running operations may go on after a request to stop.")
    keep_operations: float = setting(90 * 86_400.0, "Finished operations are kept this long.")
    keep_gone: float = setting(30 * 86_400.0, "Machines that their provider no longer reports are kept this long.")
    keep_events: float = setting(3_600.0, "Changes are kept this long for subscribers that lag.")
    keep_audit: float = setting(400 * 86_400.0, "The record of who did what is kept this long, 30 days at least.")
    log_level: str = setting("info", "`debug`, `info`, `warning` or `error`.")
    log_format: str = setting("text", "`text` for people, or `json`: an object per line.")
    log_requests: bool = setting(False, "Whether every request is logged.")
    log_slower_than: float = setting(1.0, "A GraphQL operation that takes longer is logged.")
    metrics_address: str = setting("", "`HOST:PORT` at which Prometheus finds metrics; port 0 takes a free one.")
    traces_endpoint: str = setting("", "Where OpenTelemetry traces go, by OTLP over HTTP: `http://HOST:4318`.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **overrides: Any) -> "Settings":
        """The settings that `environment` gives; `overrides` that are not None win.

        Raises StartupError for a value that cannot be read or makes no sense.
        """
        values: dict[str, Any] = {}
        for spec in fields(cls):
            raw = environment.get(variable(spec.name))
            if raw is not None:
                values[spec.name] = _parse(spec.name, raw, spec.default)
        values.setdefault("traces_endpoint", environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""))
        settings = cls(**values)
        settings = replace(settings, **{name: value for name, value in overrides.items() if value is not None})
        settings.check()
        return settings

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach `host`. Raises StartupError for a host that is no address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            raise StartupError(f"GATEWAY_HOST must be an address such as 127.0.0.1, not {self.host!r}") from None

    def check(self) -> None:
        """Raises StartupError for a value that makes no sense."""
        _ = self.on_loopback
        if not 0 <= self.port <= 65_535:
            raise StartupError(f"GATEWAY_PORT must be between 0 and 65535, not {self.port}")
        for spec in fields(self):
            value = getattr(self, spec.name)
            counts = isinstance(value, int | float) and not isinstance(value, bool)
            if counts and spec.default != 0 and spec.name != "port" and not 0 < value < inf:
                raise StartupError(f"{variable(spec.name)} must be greater than 0, not {value}")
            if counts and spec.default == 0 and not 0 <= value < inf:
                raise StartupError(f"{variable(spec.name)} must be 0 or greater, not {value}")
        if self.keep_audit < KEEP_AUDIT_AT_LEAST:
            raise StartupError(
                f"GATEWAY_KEEP_AUDIT must be at least {KEEP_AUDIT_AT_LEAST} (30 days), not {self.keep_audit:g}:"
                " the database refuses to forget sooner"
            )
        if self.documents_only and not self.documents_files:
            raise StartupError("GATEWAY_DOCUMENTS_ONLY leaves nothing to serve without GATEWAY_DOCUMENTS_FILES")
        if self.log_level not in {"debug", "info", "warning", "error"}:
            raise StartupError(f"GATEWAY_LOG_LEVEL must be debug, info, warning or error, not {self.log_level!r}")
        if self.log_format not in {"text", "json"}:
            raise StartupError(f"GATEWAY_LOG_FORMAT must be text or json, not {self.log_format!r}")


def from_environment(name: str) -> str | None:
    """What the environment has under `name`, such as a secret that a provider's table refers to."""
    return os.environ.get(name)


def variable(name: str) -> str:
    """The environment variable of the setting `name`."""
    return "GATEWAY_" + name.upper()


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _parse(name: str, raw: str, default: object) -> object:
    assert default is not MISSING
    try:
        match default:
            case bool():
                return _BOOLEANS[raw.strip().lower()]
            case int():
                return int(raw)
            case float():
                return float(raw)
            case tuple():
                return tuple(part.strip() for part in raw.split(",") if part.strip())
            case _:
                return raw.strip()
    except KeyError:
        raise StartupError(f"{variable(name)} must be true or false, not {raw!r}") from None
    except ValueError:
        expected = "a whole number" if isinstance(default, int) else "a number"
        raise StartupError(f"{variable(name)} must be {expected}, not {raw!r}") from None
