"""The index page and the schema in Chromium, without JavaScript."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.serving import Served, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The contrast of an element's text with the page (WCAG 2.2, "contrast ratio").
CONTRAST = """element => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  function luminance(color) {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }
  const probe = document.body.appendChild(document.createElement('p'));
  probe.style.color = 'Canvas';
  const [dark, light] = [getComputedStyle(element).color, getComputedStyle(probe).color]
    .map(luminance).sort((one, other) => one - other);
  probe.remove();
  return (light + 0.05) / (dark + 0.05);
}"""


@pytest.fixture(scope="module")
def gateway(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite", demo=True))) as gateway:
        yield gateway


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.thorough)])
def test_the_index_page_links_to_the_schema(
    chromium: "Browser", playwright: Any, gateway: Served, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    with chromium.new_context(
        base_url=gateway.url, java_script_enabled=False, color_scheme=scheme, viewport={"width": 390, "height": 844}
    ) as context:
        page = context.new_page()
        problems: list[str] = []
        page.on("console", lambda line: problems.append(line.text))
        page.on("requestfailed", lambda request: problems.append(request.url))
        page.on("download", lambda download: problems.append(download.url))
        page.goto("/")
        page.screenshot(path=tmp_path / f"index-{scheme}.png")
        playwright.expect(page).to_have_title("Snapshot gateway")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        for element in (page.get_by_role("heading", level=1), page.get_by_role("link").first):
            assert element.evaluate(CONTRAST) >= 4.5

        page.get_by_role("link", name="/schema.graphql").click()
        page.wait_for_url("**/schema.graphql")
        playwright.expect(page.locator("body")).to_contain_text("type Subscription {")
        page.screenshot(path=tmp_path / "schema.png")
        assert problems == []
