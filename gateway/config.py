"""Settings of a process: read from the environment once, immutable, and passed down from `app`.

No other module reads the environment.
"""

import ipaddress
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from math import inf
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from gateway.columns import MAX_NAME_LENGTH, is_name
from gateway.errors import StartupError

MIN_KEEP_AUDIT = 30 * 86_400  # seconds; triggers in the database enforce the same minimum


class Range(NamedTuple):
    """The values that a number may have, both ends included."""

    low: float
    high: float


_YEAR = 365 * 86_400.0

# A duration below 0.1 s expires before the work that it limits can begin, and below 1 ms PostgreSQL rounds a timeout to
# 0, which disables it. Times more than some thousand years ago are no dates.
_DURATION = Range(0.1, 100 * _YEAR)
_COUNT = Range(1, 1_000_000_000)

# Settings for which the range of all durations or counts would allow values that cannot work.
RANGES: Mapping[str, Range] = {
    "port": Range(0, 65_535),
    "jwt_leeway": Range(0.001, 3_600.0),  # an expired JWT is accepted for this long
    "credentials_trusted": Range(0.001, 3_600.0),  # a revoked credential is accepted for this long
    "max_body_bytes": Range(1_024, 1 << 30),
    "max_head_bytes": Range(1_024, 1 << 24),
    "max_depth": Range(1, 1_000),
    "longest_wait": Range(0.01, 60.0),
    "read_connections": Range(1, 1_000),
    "write_connections": Range(1, 1_000),
    "operation_slots": Range(1, 10_000),
    "operation_lease": Range(0.1, 3_600.0),
    "workers": Range(1, 1_000),
    "stop_delay": Range(0.0, 3_600.0),
    "drain_timeout": Range(0.001, 86_400.0),
    "keep_operations": Range(60.0, 100 * _YEAR),
    "keep_gone": Range(60.0, 100 * _YEAR),
    "keep_events": Range(60.0, 100 * _YEAR),
    "keep_events_for_consumers": Range(60.0, 100 * _YEAR),
    "log_slower_than": Range(0.001, 100 * _YEAR),
}

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9a-f:.]+")

_PREFIX = "GATEWAY_"  # of the environment variables of settings
_OTHER_VARIABLES = re.compile("URL|TOKEN|TEST_.*")  # variables with this prefix that a client and the tests read


def setting(default: Any, help: str, *, secret: bool = False) -> Any:
    """Declare a field of `Settings`. Its environment variable is `GATEWAY_` followed by its name in capitals.

    A secret field is not part of the `repr`.
    """
    return field(default=default, metadata={"help": help}, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings with their defaults. Durations are in seconds unless the name states another unit."""

    database_url: str = setting(
        "sqlite:///gateway.db", "Database to use: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`.", secret=True
    )
    host: str = setting("127.0.0.1", "Address to listen on. Only loopback until authentication is configured.")
    port: int = setting(8000, "Port to listen on. 0 selects a free port.")
    allowed_hosts: tuple[str, ...] = setting(
        (), "`Host` header values to accept, in addition to loopback names and `GATEWAY_HOST`."
    )
    public_url: str = setting(
        "", "URL at which clients reach the gateway. Links in REST responses begin with it. Requires authentication."
    )
    tls_certificate: str = setting("", "PEM file with the certificate chain. If set, the gateway serves only TLS.")
    tls_key: str = setting("", "PEM file with the private key, if `GATEWAY_TLS_CERTIFICATE` does not contain it.")
    trusted_proxies: tuple[str, ...] = setting(
        (),
        "Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted."
        " Requires authentication.",
    )
    cors_origins: tuple[str, ...] = setting((), "Origins of web pages that may call the gateway from a browser.")
    providers_file: str = setting("", "TOML file that configures the providers.")
    providers: str = setting("", "Content of the providers file, as an alternative to the file.", secret=True)
    images: str = setting("", "Directory of qcow2 images to serve as a provider named `images`.")
    tenant: str = setting(
        "default",
        "Default tenant of providers, imports, API tokens and, until authentication is configured, of all requests.",
    )
    roles: str = setting(
        "", "Custom roles in addition to `viewer`, `operator` and `admin`, as TOML. See [rights](rights.md)."
    )
    jwt_issuer: str = setting("", "Required `iss` claim of JWTs.")
    jwt_audience: tuple[str, ...] = setting((), "Accepted values of the `aud` claim of JWTs.")
    jwt_jwks_url: str = setting("", "URL of the issuer's JSON Web Key Set.")
    jwt_key_file: str = setting("", "PEM file with the issuer's public key or certificate, instead of a JWKS URL.")
    jwt_secret_file: str = setting("", "File with the secret shared with the issuer, instead of a JWKS URL.")
    jwt_secret: str = setting("", "The secret shared with the issuer, instead of a JWKS URL.", secret=True)
    jwt_algorithms: tuple[str, ...] = setting(
        (),
        "Accepted signature algorithms. By default `RS256`, `ES256` and `EdDSA`, or `HS256` with a shared secret.",
    )
    jwt_leeway: float = setting(30.0, "Accepted difference between the clocks of the issuer and the gateway.")
    jwt_name_claim: str = setting("sub", "Claim with the caller's name.")
    jwt_roles_claim: str = setting("roles", "Claim with the caller's roles.")
    jwt_tenant_claim: str = setting("tenant", "Claim with the caller's tenant.")
    jwt_default_tenant: str = setting(
        "", "Tenant of callers whose JWT has no tenant claim. Without a default, such a JWT is rejected."
    )
    credentials_trusted: float = setting(
        10.0, "Time for which verified credentials are cached. A revocation takes effect within this time."
    )
    max_body_bytes: int = setting(1_048_576, "Maximum size of a request body in bytes.")
    max_head_bytes: int = setting(131_072, "Maximum size of the head of a request (URL and headers) in bytes.")
    max_connections: int = setting(
        4_096, "Maximum connections per process. A client may have a quarter. More are answered with 503."
    )
    head_timeout: float = setting(10.0, "Timeout of a TLS handshake, and then of receiving the head of a request.")
    body_timeout: float = setting(
        30.0,
        "Timeout of receiving the body of a request, and the time in which a client must read at the minimum pace.",
    )
    caller_quota: int = setting(200_000, "Requests per caller and `GATEWAY_CALLER_WINDOW`, over all processes.")
    caller_window: float = setting(10.0, "Time in which an exhausted quota is replenished.")
    caller_requests: int = setting(256, "Maximum concurrent requests per caller and process.")
    caller_streams: int = setting(1_000, "Maximum WebSockets and event streams per caller and process.")
    caller_subscriptions: int = setting(1_000, "Maximum subscriptions per caller and process.")
    max_subscriptions: int = setting(10_000, "Maximum subscriptions per process.")
    max_tokens: int = setting(5_000, "Maximum length of a GraphQL document in tokens.")
    max_fields: int = setting(
        1_000, "Maximum fields of a GraphQL operation. The fields of a fragment count at every spread."
    )
    max_depth: int = setting(20, "Maximum nesting depth of the fields of a GraphQL operation.")
    max_aliases: int = setting(100, "Maximum aliases in a GraphQL operation.")
    max_directives: int = setting(100, "Maximum directives in a GraphQL operation.")
    max_cost: int = setting(200_000, "Maximum cost of a GraphQL operation, and of a REST request.")
    introspection: bool = setting(True, "Whether introspection queries and `/schema.graphql` are served.")
    suggestions: bool = setting(True, "Whether validation errors suggest similar names from the schema.")
    documents_files: tuple[str, ...] = setting((), "Manifest files of persisted documents.")
    documents_only: bool = setting(False, "Whether only persisted documents are executed.")
    longest_wait: float = setting(
        0.5, "Maximum estimated wait of a request behind at least 32 others. Load shedding rejects it above this."
    )
    read_connections: int = setting(
        4, "Database connections for reads of callers, per process. A caller uses at most half of them."
    )
    write_connections: int = setting(
        4, "Database connections for writes, per process (PostgreSQL only; SQLite has one writer)."
    )
    read_timeout: float = setting(15.0, "Maximum duration of a database read. A longer one fails.")
    write_timeout: float = setting(
        15.0, "Maximum duration of a database write, including waiting for locks. A longer one fails."
    )
    database_wait: float = setting(5.0, "Timeout of waiting for a database connection, or for the database.")
    database_queue: int = setting(
        1_000, "Maximum reads, and maximum writes, that wait for the database. More are rejected immediately."
    )
    operation_slots: int = setting(
        16, "Maximum concurrent operations per process, not counting providers with their own `concurrency`."
    )
    operation_lease: float = setting(
        10.0,
        "Lease of a process on an operation, or on a [job](jobs.md). After it expires, another process takes it over.",
    )
    operation_deadline: float = setting(
        21_600.0, "Maximum run time of an operation. Afterwards it fails with `OUTCOME_UNKNOWN`."
    )
    operation_queue_per_machine: int = setting(100, "Maximum unfinished operations per machine.")
    operation_queue_total: int = setting(
        10_000, "Maximum unfinished operations. Several processes together may exceed it by what they accept in 1 s."
    )
    refresh_interval: float = setting(300.0, "Approximate interval between two refreshes of a provider.")
    workers: int = setting(1, "Number of processes that serve requests.")
    stop_delay: float = setting(
        0.0, "Time to continue serving after SIGTERM while `/readyz` returns 503. 0 stops immediately."
    )
    drain_timeout: float = setting(10.0, "Time that running operations may continue after a stop is requested.")
    keep_operations: float = setting(90 * 86_400.0, "Retention of finished operations.")
    keep_gone: float = setting(30 * 86_400.0, "Retention of machines that their provider no longer reports.")
    keep_events: float = setting(3_600.0, "Retention of change events for subscribers that lag or reconnect.")
    keep_events_for_consumers: float = setting(
        7 * 86_400.0, "Maximum retention of change events that a durable consumer has not processed."
    )
    keep_audit: float = setting(400 * 86_400.0, "Retention of the audit log, at least 30 days.")
    log_level: str = setting("info", "Minimum level of log lines: `debug`, `info`, `warning` or `error`.")
    log_format: str = setting("text", "Format of log lines: `text`, or `json` with one object per line.")
    log_requests: bool = setting(False, "Whether every request is logged.")
    log_slower_than: float = setting(1.0, "GraphQL operations that take longer are logged.")
    metrics_address: str = setting(
        "", "`HOST:PORT` that serves Prometheus metrics at `/metrics`. Port 0 selects a free port."
    )
    traces_endpoint: str = setting(
        "", "Base URL of an OpenTelemetry collector that receives traces by OTLP over HTTP, such as `http://HOST:4318`."
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **overrides: Any) -> "Settings":
        """Return the settings in `environment`. An override that is not None takes precedence.

        Raises StartupError for a value that is malformed or invalid.
        """
        values: dict[str, Any] = {}
        for spec in fields(cls):
            raw = environment.get(environment_variable(spec.name))
            if raw is not None:
                values[spec.name] = _parse(spec.name, raw, spec.default)
        values.setdefault("traces_endpoint", environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""))
        settings = cls(**values)
        settings = replace(settings, **{name: value for name, value in overrides.items() if value is not None})
        settings.validate()
        return settings

    @property
    def listens_on_loopback(self) -> bool:
        """Return whether only this machine can reach `host`. Raises StartupError if `host` is not an address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            raise StartupError(f"GATEWAY_HOST must be an IP address such as 127.0.0.1, not {self.host!r}.") from None

    def validate(self) -> None:
        """Raises StartupError for the first invalid value."""
        _ = self.listens_on_loopback
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                _check_number(spec.name, value, spec.default)
        self._validate_texts()
        if self.keep_audit < MIN_KEEP_AUDIT:
            raise StartupError(
                f"GATEWAY_KEEP_AUDIT must be at least {MIN_KEEP_AUDIT} (30 days), not {self.keep_audit:g}."
                " The database refuses to delete younger entries."
            )
        if self.documents_only and not self.documents_files:
            raise StartupError(
                "GATEWAY_DOCUMENTS_ONLY requires GATEWAY_DOCUMENTS_FILES, because no other document would be served."
            )

    def _validate_texts(self) -> None:
        for name in ("public_url", "traces_endpoint"):
            _check_url(name, getattr(self, name))
        if "@" in self.public_url:
            raise StartupError("GATEWAY_PUBLIC_URL must not contain credentials: links in responses begin with it.")
        for name, text in (("tenant", self.tenant), ("jwt_default_tenant", self.jwt_default_tenant)):
            if not is_name(text) and (text or name == "tenant"):
                raise StartupError(f"{environment_variable(name)} must be 1 to {MAX_NAME_LENGTH} printable characters.")
        for name in ("jwt_name_claim", "jwt_roles_claim", "jwt_tenant_claim"):
            if not getattr(self, name):
                raise StartupError(f"{environment_variable(name)} must name a claim.")
        if self.log_level not in {"debug", "info", "warning", "error"}:
            raise StartupError(f"GATEWAY_LOG_LEVEL must be debug, info, warning or error, not {self.log_level!r}.")
        if self.log_format not in {"text", "json"}:
            raise StartupError(f"GATEWAY_LOG_FORMAT must be text or json, not {self.log_format!r}.")


def _check_number(name: str, value: float, default: object) -> None:
    low, high = RANGES.get(name, _COUNT if isinstance(default, int) else _DURATION)
    if low <= value <= high:
        return
    variable = environment_variable(name)
    if low > 0 and not 0 < value < inf:
        raise StartupError(f"{variable} must be greater than 0, not {value}.")
    raise StartupError(f"{variable} must be between {_plain(low)} and {_plain(high)}, not {value}.")


def _plain(number: float) -> str:
    return f"{number:.0f}" if float(number).is_integer() else f"{number:g}"


def _check_url(name: str, text: str) -> None:
    """Raises StartupError unless `text` is empty or an http or https URL without query and fragment."""
    if not text:
        return
    try:
        url = urlsplit(text)
        usable = url.scheme in {"http", "https"} and _HOST.fullmatch(url.hostname or "") and url.port != 0
    except ValueError:  # a malformed IPv6 address or port
        usable = None
    if not usable or "?" in text or "#" in text or not (text.isascii() and text.isprintable()):
        raise StartupError(
            f"{environment_variable(name)} must be an http:// or https:// URL such as https://gateway.example.org,"
            f" without query and fragment, not {text!r}."
        )


def unknown_variables(known: Collection[str], environment: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """Return the variables that begin with `GATEWAY_` and have no meaning, each with the setting of the nearest name.

    None stands for no similar name. `known` are variables that the configuration refers to.
    """
    settings = [spec.name.upper() for spec in fields(Settings)]
    found: dict[str, str | None] = {}
    for variable in sorted(environment):
        name = variable.removeprefix(_PREFIX)
        if name == variable or name in settings or variable in known or _OTHER_VARIABLES.fullmatch(name):
            continue
        nearest = get_close_matches(name, settings, 1)
        found[variable] = _PREFIX + nearest[0] if nearest else None
    return found


def environment_value(name: str) -> str | None:
    """Return the environment variable `name`, such as a secret that the providers file refers to, or None."""
    return os.environ.get(name)


def environment_variable(name: str) -> str:
    """Return the name of the environment variable of a setting, such as `GATEWAY_PORT` for `port`."""
    return _PREFIX + name.upper()


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
        raise StartupError(f"{environment_variable(name)} must be true or false, not {raw!r}.") from None
    except ValueError:
        expected = "a whole number" if isinstance(default, int) else "a number"
        raise StartupError(f"{environment_variable(name)} must be {expected}, not {raw!r}.") from None
