"""How a driver declares what it is configured by, and how a provider's table is read into that.

A driver's module has a frozen dataclass `Options` whose fields come from `option`, and `make(provider, options,
concurrency)`. An `Options` may say in `__post_init__` what makes no sense, with a ValueError that names the option.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """Text that is never shown: no `repr`, no log and no message has it."""

    value: str

    def __repr__(self) -> str:
        return "Secret(…)"


def option(help: str, default: Any = MISSING) -> Any:
    """An option of type str, int, float, bool, or Secret; without a default it must be given."""
    return field(default=default, metadata={"help": help})


def read_options(
    kind: Callable[..., T], table: Mapping[str, Any], reveal: Callable[[str, Any], Secret]
) -> tuple[T | None, list[str]]:
    """The options of `kind` that `table` gives, or None and what is wrong with each.

    `reveal` makes a Secret of an option's name and what the table has for it, or raises ValueError.
    """
    specs = {spec.name: spec for spec in fields(kind)}  # type: ignore[arg-type]
    faults = [f"has an option {name!r} that its driver does not know" for name in table if name not in specs]
    values: dict[str, Any] = {}
    for name, spec in specs.items():
        if name not in table:
            if spec.default is MISSING:
                faults.append(f"needs {name!r}: {spec.metadata['help']}")
            continue
        try:
            values[name] = _read(name, spec.type, table[name], reveal)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        return None, faults
    try:
        return kind(**values), []
    except ValueError as error:
        return None, [str(error)]


def _read(name: str, kind: Any, value: Any, reveal: Callable[[str, Any], Secret]) -> Any:
    text = getattr(kind, "__name__", str(kind))
    if "Secret" in text:
        return reveal(name, value)
    for type_, words in ((bool, "true or false"), (int, "a whole number"), (float, "a number"), (str, "text")):
        if type_.__name__ in text:
            fits = isinstance(value, int | float if type_ is float else type_)
            if not fits or (isinstance(value, bool) and type_ is not bool):
                raise ValueError(f"has {name!r} {value!r}, which must be {words}")
            return value
    raise TypeError(f"an option cannot be a {text}")
