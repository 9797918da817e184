"""Modules open with what they hold; long ones and long functions explain themselves. Complexity is Ruff's C901."""

import ast

from tests.rules.modules import ROOT, Module, modules

# Lines above which a module needs a docstring of MODULE_ESSAY lines, and a function needs one at all.
LONG_MODULE, MODULE_ESSAY = 600, 5
LONG_FUNCTION = 60
# A migration is one long list by nature, and is never edited after its release.
MIGRATIONS = "gateway/store/migrations/versions/"


def everything() -> list[Module]:
    return [*modules().values(), *modules("tests").values()]


def _docstring_lines(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return len((ast.get_docstring(node) or "").splitlines())


def test_modules_open_with_what_they_hold() -> None:
    """An empty package of tests has nothing to describe."""
    assert [module.place for module in everything() if module.tree.body and not _docstring_lines(module.tree)] == []


def test_long_modules_explain_themselves() -> None:
    long = [module for module in everything() if len(module.source.splitlines()) > LONG_MODULE]
    assert [module.place for module in long if _docstring_lines(module.tree) < MODULE_ESSAY] == []


def test_long_functions_explain_themselves() -> None:
    long = [
        (f"{module.place}:{node.lineno} {node.name}", _docstring_lines(node))
        for module in everything()
        if not module.place.startswith(MIGRATIONS)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (node.end_lineno or 0) - node.lineno + 1 > LONG_FUNCTION
    ]
    assert [place for place, lines in long if not lines] == []


def test_packages_open_with_one_line_and_reexport_nothing() -> None:
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


def test_public_classes_have_docstrings() -> None:
    """Except in `graphql/`, where descriptions take their place."""
    wrong = [
        f"{module.place}:{node.lineno} {node.name}"
        for module in modules().values()
        if module.package != "graphql"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert wrong == []


def test_no_module_has_a_name_without_meaning() -> None:
    vague = {"utils", "util", "common", "helpers", "misc", "base_utils"}
    assert [module.place for module in modules().values() if module.path.stem in vague] == []
