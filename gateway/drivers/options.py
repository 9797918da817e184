"""Declares the options of a driver, and reads them from a provider's configuration table.

The module of a driver has a frozen dataclass `Options`, whose fields are made by `option`, and a function
`make(provider, options, concurrency)`. `Options.__post_init__` may check the values. It raises ValueError with a whole
sentence that names the option: "Option 'timeout' must be greater than 0, not -1." The configuration reader prefixes the
sentence with the provider's name.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A secret text. Its `repr` hides the value, so that logs and error messages do not contain it."""

    value: str

    def __repr__(self) -> str:
        return "Secret(…)"


def option(help: str, default: Any = MISSING) -> Any:
    """An option of type str, int, float, bool or Secret, described by `help`. Without a default it is required."""
    return field(default=default, metadata={"help": help})


def read_options(
    kind: Callable[..., T], table: Mapping[str, Any], reveal: Callable[[str, Any], Secret]
) -> tuple[T | None, list[str]]:
    """Returns the options of class `kind` that `table` sets and no faults; or None and one sentence per fault.

    `reveal` makes a Secret of an option's name and its value in the table, or raises ValueError.
    """
    specs = {spec.name: spec for spec in fields(kind)}  # type: ignore[arg-type]
    faults = [f"The driver has no option {name!r}." for name in table if name not in specs]
    values: dict[str, Any] = {}
    for name, spec in specs.items():
        if name not in table:
            if spec.default is MISSING:
                faults.append(f"Option {name!r} is required: {spec.metadata['help']}")
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
    type_name = getattr(kind, "__name__", str(kind))
    if "Secret" in type_name:
        return reveal(name, value)
    for type_, expected in ((bool, "true or false"), (int, "a whole number"), (float, "a number"), (str, "text")):
        if type_.__name__ in type_name:
            fits = isinstance(value, int | float if type_ is float else type_)
            if not fits or (isinstance(value, bool) and type_ is not bool):
                raise ValueError(f"Option {name!r} must be {expected}, not {value!r}.")
            return value
    raise TypeError(f"An option cannot have the type {type_name}.")
