"""The tables of the documents, generated from the code. Run as a program, it prints them."""

from dataclasses import fields
from typing import Any

from gateway.config import Settings, environment_variable
from gateway.errors import MEANINGS, ErrorCode, GatewayError, ProviderError, Refusal
from gateway.telemetry.metrics import FAMILIES


def settings_table() -> list[str]:
    """The table of `docs/settings.md`: every setting, in the order of the code."""
    rows = ["| Variable | Default | Meaning |", "| --- | --- | --- |"]
    return rows + [
        f"| `{environment_variable(spec.name)}` | {_default(spec.default)} | {spec.metadata['help']} |"
        for spec in fields(Settings)
    ]


def errors_table() -> list[str]:
    """The table of `docs/errors.md`: every code and its form on each surface."""
    rows = [
        "| Code | Exit | `extensions.code` | HTTP status | Retryable | What the caller does |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for code, meaning in MEANINGS.items():
        retryable = "yes" if meaning.retryable else "no"
        rows.append(
            f"| `{code}` | {_exit(code)} | `{meaning.extensions_code}` | {meaning.http_status} | {retryable} |"
            f" {meaning.advice} |"
        )
    return rows


def metrics_table() -> list[str]:
    """The table of `docs/operating.md`: every metric, in the order of the code."""
    rows = ["| Metric | Kind | Labels | Meaning |", "| --- | --- | --- | --- |"]
    for family in FAMILIES.values():
        labels = ", ".join(f"`{label}`" for label in family.labels) or "none"
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    return rows


def _default(value: Any) -> str:
    if value in ((), ""):
        return "none"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if isinstance(value, float):
        return f"`{value:.0f}`" if value.is_integer() else f"`{value:g}`"
    return f"`{value}`"


def _exit(code: ErrorCode) -> str:
    """The places where the code is returned, from its position in the error tree."""
    if code is GatewayError.code:
        return "operation, top level"
    exits = {"payload": _codes(Refusal), "operation": _codes(ProviderError), "top level": _own_codes()}
    return ", ".join(name for name, codes in exits.items() if code in codes)


def _own_codes() -> set[ErrorCode]:
    """The codes of errors that are neither refusals nor provider errors."""
    return {kind.code for kind in GatewayError.__subclasses__()} - {Refusal.code, ProviderError.code}


def _codes(kind: type[GatewayError]) -> set[ErrorCode]:
    found = {child.code for child in kind.__subclasses__()}
    return found.union(*(_codes(child) for child in kind.__subclasses__()))


if __name__ == "__main__":
    print("\n".join([*settings_table(), "", *errors_table(), "", *metrics_table()]))
