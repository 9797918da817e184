"""Chromium for the tests that need a browser."""

import importlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.databases import required

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="package")
def playwright() -> Any:
    """The Playwright module. Without it the test is skipped, or fails if CI requires it."""
    module = (importlib.import_module if required("browser") else pytest.importorskip)("playwright.sync_api")
    module.expect.set_options(timeout=20_000)
    return module


@pytest.fixture(scope="package")
def chromium(playwright: Any) -> Iterator["Browser"]:
    if CHROMIUM is None:
        (pytest.fail if required("browser") else pytest.skip)("Chromium is not on PATH.")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not work for root, and CI runs as root.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
