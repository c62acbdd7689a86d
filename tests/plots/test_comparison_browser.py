"""The page of a comparison in a real browser: it draws, fits a phone, stays silent and asks for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plots.comparison_sample import comparison, hostile_comparison

pytest.importorskip("playwright.sync_api", reason="playwright drives the browser and is not installed")
from tests.plots.test_report_browser import DRAWN, OUTSIDE_ITS_PLOT, browser, open_page, pytestmark  # noqa: F401


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return comparison().report(tmp_path_factory.mktemp("page") / "comparison.html")


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_draws_and_fits_the_page(open_page, page_file, width, theme):  # noqa: F811
    page = open_page(page_file, width=width, color_scheme=theme)
    assert page.evaluate(DRAWN) == "drawn"
    assert page.locator("#plot-changes .main-svg").count() >= 1
    assert page.locator(".undrawn").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE_ITS_PLOT) == []
    left = page.evaluate("[...document.querySelectorAll('.side')].slice(0, 2).map(s => s.getBoundingClientRect().left)")
    assert (left[0] == left[1]) == (width == 375)  # side by side where there is room
    page.locator(".pair summary").first.click()
    assert page.locator(".pair table").first.is_visible()


def test_without_scripts_everything_but_the_figure_is_there(open_page, page_file):  # noqa: F811
    page = open_page(page_file, java_script_enabled=False)
    assert page.locator("table.changes").is_visible()
    assert page.locator("article.pair").count() == 11
    assert "drawn by a script" in page.locator("#changes").inner_text()


def test_hostile_text_is_shown_and_does_nothing(open_page, tmp_path):  # noqa: F811
    page = open_page(hostile_comparison().report(tmp_path / "hostile.html"), width=375)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert "window.hacked = 1" in page.locator("#chains").inner_text()
