"""The gateway's modules as syntax trees, without importing them."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
NOT_OURS = {"node_modules", "static", "__pycache__", ".venv"}


class Module(NamedTuple):
    """One file of Python."""

    path: Path
    name: str  # dotted
    source: str
    tree: ast.Module

    @property
    def place(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def package(self) -> str:
        """The package in `gateway/`, or the module at its top level. The simulator counts as a package of its own."""
        if self.name.startswith("gateway.drivers.simulator"):
            return "simulator"
        return self.name.split(".")[1] if "." in self.name else ""


@cache
def modules(folder: str = "gateway") -> dict[str, Module]:
    """Every module below `folder`, by dotted name."""
    found = {}
    for path in sorted(_files(ROOT / folder)):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = path.read_text()
        found[name] = Module(path, name, source, ast.parse(source))
    return found


def _files(folder: Path) -> Iterator[Path]:
    yield from folder.glob("*.py")
    for inner in folder.iterdir():
        if inner.is_dir() and inner.name not in NOT_OURS:
            yield from _files(inner)


def imports(module: Module) -> list[tuple[int, str]]:
    """Line and dotted name of each import: a module where it can be resolved, otherwise a package."""
    return _imports()[module.name]


@cache
def _imports() -> dict[str, list[tuple[int, str]]]:
    """The imports of every module of the gateway, by the name of the module."""
    return {module.name: [*_imports_of(module)] for module in modules().values()}


def _imports_of(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in modules() else base


def _base(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".") if module.path.name == "__init__.py" else module.name.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
