"""The page in a real browser: no errors, no requests, readable on a phone, light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cpool.report import write_report
from tests.report.conftest import make_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(make_run(tmp_path_factory.mktemp("run"))).as_uri()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One opened page, with what it complained about and what it asked for."""

    def __init__(self, browser: Any, url: str, width: int, scheme: str) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector(".plot .main-svg")

    def style(self, selector: str, key: str) -> str:
        script = f"e => getComputedStyle(e)[{key!r}]"
        return str(self.page.eval_on_selector(selector, script))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_no_error_no_request_no_sideways_scroll(
    browser: Any, page_url: str, width: int, scheme: str
) -> None:
    visit = Visit(browser, page_url, width, scheme)
    assert visit.complaints == []
    assert visit.requests == [page_url]
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.page.locator(".plot .main-svg").count() >= 5
    assert visit.page.locator("#no-script").count() == 0
    visit.page.close()


def test_what_a_screen_reader_finds(browser: Any, page_url: str) -> None:
    page = Visit(browser, page_url, 1200, "light").page
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("heading", level=2).count() == 8
    pictures = page.locator(".plot[role=img]")
    labels = [pictures.nth(k).get_attribute("aria-label") for k in range(pictures.count())]
    assert len(labels) == 5
    assert all(label and len(label) > 40 for label in labels)
    assert page.locator(".plot:not([aria-label])").count() == 0
    assert page.locator("figure:not(:has(figcaption))").count() == 0
    page.close()


def test_the_theme_button_recolours_page_and_plots(browser: Any, page_url: str) -> None:
    visit = Visit(browser, page_url, 1200, "light")
    button, tick = visit.page.locator("#theme"), "#curves .xtick text"
    light = visit.style("body", "backgroundColor"), visit.style(tick, "fill")
    button.click()  # system → light
    assert (visit.style("body", "backgroundColor"), visit.style(tick, "fill")) == light
    button.click()  # light → dark
    assert button.inner_text() == "Theme: dark"
    dark = visit.style("body", "backgroundColor"), visit.style(tick, "fill")
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    visit.page.reload()
    visit.page.wait_for_selector(".plot .main-svg")
    assert visit.style("body", "backgroundColor") == dark[0]
    assert visit.complaints == []
    visit.page.close()


def test_a_dark_page_prints_light(browser: Any, page_url: str) -> None:
    visit = Visit(browser, page_url, 1200, "dark")
    visit.page.emulate_media(media="print")
    assert visit.style("body", "backgroundColor") == "rgb(255, 255, 255)"
    assert visit.style("#theme", "display") == "none"
    visit.page.close()


def test_without_scripts_texts_and_numbers_stay(browser: Any, page_url: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_url)
    assert page.get_by_text("The plots need JavaScript").is_visible()
    assert page.get_by_text("RanPAC is best").is_visible()
    assert page.locator(".heat td").count() > 100
    context.close()


def test_a_page_of_almost_nothing_works_too(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"runs": [{"method": "l2p"}]}')
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(write_report(tmp_path).as_uri())
    assert page.locator("h2").count() == 8
    assert complaints == []
    page.close()
