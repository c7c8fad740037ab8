"""The page of ``bert-jax report`` in a headless browser: on a phone, on paper and in dark mode."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from pipelines.reports.write import write
from support import browsers

pytest_plugins = ["support.browsers"]
pytestmark = browsers.needed

# Contrast ratio of a text with its painted colors: WCAG 2, relative luminance.
CONTRAST = """element => {
    const light = name => {
        let node = element;
        const style = () => getComputedStyle(node)[name];
        const painted = () => name === "color" || style() !== "rgba(0, 0, 0, 0)";
        while (!painted()) node = node.parentElement;
        const parts = style().match(/[\\d.]+/g).slice(0, 3);
        const [r, g, b] = parts.map(x => x / 255)
            .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const [low, high] = [light("color"), light("backgroundColor")].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
}"""


@pytest.fixture(scope="module")
def reports(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the page of one run and that of two."""
    folder = tmp_path_factory.mktemp("reports")
    second = shutil.copytree(trained, folder / "another-run-with-a-rather-long-name-of-its-own")
    write([trained], folder / "one.html")
    write([trained, second], folder / "two.html")
    return folder


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a page; it must not violate its policy or contact a server."""
    page = browser.new_page()
    messages: list[str] = []
    urls: list[str] = []
    page.on("console", lambda line: messages.append(line.text))
    page.on("request", lambda request: urls.append(request.url))
    yield page
    page.close()
    assert not messages
    assert all(url.startswith("file:///") for url in urls)


def screenshot(page: Page, name: str) -> None:
    """Save a picture in the folder SCREENSHOTS, if set."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("name", ["one", "two"])
def test_it_fits_a_phone(page: Page, reports: Path, name: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto((reports / f"{name}.html").as_uri())
    for closed in page.locator("summary").all():
        closed.click()
    screenshot(page, f"phone-{name}")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # Wider content scrolls with the keyboard.
    wide = "element => element.scrollWidth > element.clientWidth"
    areas = [area for area in page.locator(".scroll").all() if area.evaluate(wide)]
    assert areas
    for area in areas:
        area.focus()
        assert area.evaluate("element => element === document.activeElement")


@pytest.mark.parametrize("name", ["one", "two"])
def test_on_paper_everything_is_expanded(page: Page, reports: Path, name: str) -> None:
    page.goto((reports / f"{name}.html").as_uri())
    folded: list[Locator] = page.locator("details pre").all()
    assert len(folded) == {"one": 2, "two": 4}[name], "card and config of every run"
    assert not any(text.is_visible() for text in folded)
    page.emulate_media(media="print")
    screenshot(page, f"paper-{name}")
    for text in folded:
        assert text.is_visible()
        box = text.bounding_box()
        assert box is not None
        assert box["height"] > 100
    assert not page.get_by_role("navigation").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(page: Page, reports: Path, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto((reports / "two.html").as_uri())
    screenshot(page, scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    for kind in ("h1", "h3", "p", ".quiet", "a", "td", "thead th", "tr.marked th", "summary", "dt"):
        for element in page.locator(kind).all()[:5]:
            assert element.evaluate(CONTRAST) >= 4.5, kind
    for number in range(2):  # graphics need a ratio of 3
        assert page.locator(f".sign.run-{number}").first.evaluate(CONTRAST) >= 3
    ticks = page.locator("svg text").first
    fill = ticks.evaluate("element => getComputedStyle(element).fill")
    assert fill == page.locator("thead th").first.evaluate(
        "element => getComputedStyle(element).color"
    )
