"""Tests observe behavior: they patch no private names (Ruff's SLF finds the private attributes) and their waits end."""

import ast
from collections.abc import Iterator

from tests.rules.modules import Module, modules

# Functions whose first arguments are an object and the name of its attribute, or both in one string.
NAMING = {"delattr", "getattr", "object", "patch", "setattr"}
# Modules with endless loops that something else ends.
ENDED_ELSEWHERE = {
    "tests/bench/echo.py": "the end of a request body",
    "tests/soak/clients.py": "the time limit in history_run.py",
}


def _calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Each call, with the last part of the function's name."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    yield node, name


def test_no_private_name_is_patched() -> None:
    found = [
        f"{module.place}:{argument.lineno} {argument.value}"
        for module in modules("tests").values()
        for call, name in _calls(module)
        if name in NAMING
        for argument in call.args[:2]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        if any(part.startswith("_") for part in argument.value.split("."))
    ]
    assert found == []


def test_loops_are_bounded() -> None:
    """`tests/waiting.py` has what waits for a condition, and what bounds the passes of a loop."""
    found = {
        module.place: f"{module.place}:{node.lineno}"
        for module in modules("tests").values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.While)
        if isinstance(node.test, ast.Constant) or all(isinstance(statement, ast.Pass) for statement in node.body)
    }
    assert [place for module, place in found.items() if module not in ENDED_ELSEWHERE] == []
    assert ENDED_ELSEWHERE.keys() - found.keys() == set(), "These modules have no endless loops any more."
