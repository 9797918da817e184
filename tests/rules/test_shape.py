"""Modules are small and say what lives in them."""

import ast

from tests.rules.modules import ROOT, Module, modules

LONGEST_MODULE = 400
LONGEST_FUNCTION = 50
LONGEST_DOCSTRING = 6
# A migration is one long list by nature, and never edited again.
LISTS = "gateway/store/migrations/versions/"


def everything() -> list[Module]:
    return [*modules().values(), *modules("tests").values()]


def test_modules_are_small() -> None:
    sizes = {module.place: len(module.source.splitlines()) for module in everything()}
    assert {place: size for place, size in sizes.items() if size > LONGEST_MODULE} == {}


def test_functions_are_small() -> None:
    sizes = {
        f"{module.place}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in everything()
        if not module.place.startswith(LISTS)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {place: size for place, size in sizes.items() if size > LONGEST_FUNCTION} == {}


def test_modules_open_with_what_lives_in_them() -> None:
    lengths = {
        module.place: len((ast.get_docstring(module.tree) or "").splitlines())
        for module in everything()
        if module.tree.body  # an empty package of tests has nothing to say
    }
    assert {place: lines for place, lines in lengths.items() if not 1 <= lines <= LONGEST_DOCSTRING} == {}


def test_packages_open_with_one_line_and_pass_nothing_on() -> None:
    packages = [module for module in modules().values() if module.path.name == "__init__.py"]
    holds = {str(module.path.parent.relative_to(ROOT)) for module in modules().values()}
    wrong = sorted(holds - {str(module.path.parent.relative_to(ROOT)) for module in packages})
    wrong += [module.place for module in packages if len((ast.get_docstring(module.tree) or "").splitlines()) != 1]
    wrong += [
        module.place
        for module in packages
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("gateway"))
    ]
    assert wrong == []


def test_classes_say_what_they_are() -> None:
    """Outside `api/`, where descriptions do. A class whose name begins with an underscore may go without."""
    wrong = [
        f"{module.place}:{node.lineno} {node.name}"
        for module in modules().values()
        if module.room != "api"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert wrong == []


def test_rooms_are_not_called_after_nothing() -> None:
    vague = {"utils", "util", "common", "helpers", "misc", "base_utils"}
    assert [module.place for module in modules().values() if module.path.stem in vague] == []
