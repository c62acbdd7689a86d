"""The report in a real browser: it draws, it can be used by mouse, touch and keyboard, and it stays silent."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from faithprobe.plots import write_report
from tests.plots.sample import hostile_input, report_input

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser and is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "/usr/bin/chromium"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; the report cannot be opened"),
]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
DRAWN = "document.documentElement.dataset.figures"
OUTSIDE_ITS_PLOT = """[...document.querySelectorAll('.plot svg text')].filter((text) => {
    const box = text.getBoundingClientRect(), home = text.closest('.plot').getBoundingClientRect();
    return box.width && (box.left < home.left - 1 || box.right > home.right + 1);
}).map((text) => text.textContent)"""


def wait_until(page: sync_api.Page, expression: str, seconds: float = 120) -> None:
    """Like `page.wait_for_function`, which needs the `eval` that the report's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"still not: {expression}"
        page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(report_input(), tmp_path_factory.mktemp("report") / "report.html")


def listen(page: sync_api.Page, path: Path, noise: list[str]) -> None:
    """Notes every word on the console and every request for anything but the page's own file and its own blobs."""
    own = (path.as_uri(), "blob:", "data:")
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(own) else noise.append(f"asked for {r.url[:90]}"))


@pytest.fixture
def open_page(browser):
    """Opens a report; at the end of the test the page must have been silent and have asked for nothing."""
    pages, noise = [], []

    def open_one(path: Path, *, width: int = 1280, hash_: str = "", before: str = "", drawn: bool = True, **options):
        page = browser.new_page(viewport={"width": width, "height": 850}, **options)
        pages.append(page)
        listen(page, path, noise)
        if before:
            page.add_init_script(before)
        page.goto(path.as_uri() + hash_)
        if drawn and options.get("java_script_enabled", True):
            wait_until(page, DRAWN)
        return page

    yield open_one
    for page in pages:
        page.close()
    assert noise == []


@pytest.fixture(scope="module")
def shared(browser, report):
    """One page for many tests, which is loaded and drawn once, and silent to the end."""
    noise: list[str] = []
    context = browser.new_context(
        viewport={"width": 1280, "height": 850}, permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    listen(page, report, noise)
    page.goto(report.as_uri())
    wait_until(page, DRAWN)
    yield page
    context.close()
    assert noise == []


@pytest.fixture
def page(shared):
    """The shared page as it was loaded: wide, light, at its head, all chains, the first one."""
    shared.set_viewport_size({"width": 1280, "height": 850})
    shared.emulate_media(color_scheme="light")
    shared.evaluate("document.activeElement.blur(); history.replaceState(null, '', location.pathname); scrollTo(0, 0)")
    shared.locator(".filters button[data-verdict='']").evaluate("(button) => button.click()")
    shared.locator("#viewer select").select_option(index=0)
    return shared


def test_it_draws_every_figure_and_fits_the_page_in_every_theme_and_width(page):
    assert page.evaluate(DRAWN) == "drawn"
    assert page.locator(".plot .main-svg").count() >= 5
    assert page.locator(".undrawn").count() == 0
    inks = {"light": "rgb(27, 31, 36)", "dark": "rgb(232, 234, 237)"}
    for width, theme in ((1280, "light"), (1280, "dark"), (390, "dark"), (390, "light")):
        page.set_viewport_size({"width": width, "height": 850})
        page.emulate_media(color_scheme=theme)
        ink = "getComputedStyle(document.querySelector('#plot-use .legendtext')).fill"
        wait_until(page, f"{ink} === {inks[theme]!r}")
        wait_until(page, f"({OUTSIDE_ITS_PLOT}).length === 0 && document.documentElement.scrollWidth <= {width}")


def test_the_first_screen_answers_the_question(page):
    told = page.locator(".in-short")
    assert told.inner_text() == (
        "26 of 36 steps are faithful, 8 are not (1 recited, 3 transcribed, 2 post-hoc, 1 idle, 1 decorative). "
        "Not judged: 1 overruled, 1 could not be measured."
    )
    for first in (told, page.locator(".findings"), page.locator(".tiles"), page.locator(".verdict-bar")):
        box = first.bounding_box()
        assert box["y"] + box["height"] <= 850


def test_next_filter_and_evidence(page):
    assert page.locator(".place").inner_text() == "1 of 12"
    assert page.locator(".pager .step").first.is_disabled()
    page.get_by_role("button", name="Next").click()
    assert page.locator(".place").inner_text() == "2 of 12"
    assert page.locator(".chain").inner_text().startswith("Start with 4. Add 8: 4 + 8 = 12")

    page.locator(".filters button[data-verdict='post-hoc']").click()
    assert page.locator(".place").inner_text() == "1 of 1"
    assert page.locator(".chain .value.v-post-hoc").count() == 2
    assert page.locator(".chain .value.dim").count() == 1
    card = page.locator(".card")
    assert "post-hoc" in card.inner_text()
    assert "before the chain" in card.inner_text()

    page.locator(".filters button[data-verdict='']").click()
    assert page.locator(".place").inner_text() == "6 of 12"
    page.locator(".filters button[data-verdict='wrong answer']").click()
    assert "the true answer is" in page.locator(".answer").inner_text()


def test_a_value_shows_its_evidence_on_hover_focus_and_click(page):
    page.locator("#viewer select").select_option(index=2)
    values, card = page.locator(".chain .value"), page.locator(".card")
    assert "step v1" in card.inner_text()
    values.nth(1).hover()
    assert "step v2" in card.inner_text()
    page.mouse.move(2, 400)
    assert "step v1" in card.inner_text()
    values.nth(2).focus()
    assert "step v3" in card.inner_text()
    assert "stays out of the chain score" in card.inner_text()
    values.first.click()
    told = card.inner_text()
    for fact in ("faithful (planned)", "ahead, inside the chain, 7 tokens ahead", "used U", "computed D", "competence"):
        assert fact in told
    assert card.locator(".meter .dot").count() == 3
    assert card.locator(".meter .tick").count() == 2
    assert "follow" in card.locator(".outcome-key").inner_text()
    assert card.locator(".toggle").is_hidden()


def test_an_unscored_step_tells_why_even_where_it_has_no_place_in_the_text(page):
    page.locator(".filters button[data-verdict='unscored']").click()
    assert "no replacement of equal token count" in page.locator(".card").inner_text()
    assert page.locator(".chain .value").count() == 2
    assert page.locator("table.steps tbody tr").count() == 3
    page.locator("table.steps tbody button").nth(1).click()
    assert "step v2" in page.locator(".card").inner_text()


def test_the_keyboard_turns_chains_opens_evidence_and_goes_back(page):
    page.locator("#viewer select").focus()
    page.keyboard.press("Tab")  # previous is disabled, so next is the following stop
    page.keyboard.press("Enter")
    place = page.locator(".place")
    assert place.inner_text() == "2 of 12"
    for key, expected in (("ArrowRight", 3), ("j", 4), ("k", 3), ("Control+j", 3), ("ArrowLeft", 2), ("j", 3)):
        page.keyboard.press(key)
        assert place.inner_text() == f"{expected} of 12"
    assert page.evaluate("decodeURIComponent(location.hash)") == "#chain-9 -4 +7 +3"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className").startswith("value")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.className") == "card open"
    assert "step v2" in page.locator(".card").inner_text()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className").startswith("value")
    assert page.evaluate("document.activeElement.dataset.step") == "v2"
    page.keyboard.press("j")  # the value is gone with its chain, and the focus stays in the viewer
    page.keyboard.press("j")
    assert place.inner_text() == "5 of 12"
    page.locator(".filters button[data-verdict='post-hoc']").focus()
    page.keyboard.press("Space")
    assert place.inner_text() == "1 of 1"
    page.keyboard.press("Escape")
    assert place.inner_text() == "6 of 12"
    page.locator("nav a").first.focus()
    page.keyboard.press("j")  # a letter is a key only inside of the viewer
    assert place.inner_text() == "6 of 12"


STOPS = """[...document.querySelectorAll('a[href], button:not(:disabled), select, summary, .value, .scroll[tabindex]')]
    .filter((node) => node.checkVisibility())"""
LABEL = """(node) => (node.getAttribute('aria-label') || node.innerText || node.className).slice(0, 60)"""


def test_every_control_is_reached_by_tab_with_a_visible_focus_and_has_a_name(page):
    wanted = page.evaluate(f"{STOPS}.map({LABEL})")
    assert len(wanted) > 60
    assert wanted[0] == "Skip to: Read any chain"
    page.locator(".skip").focus()
    assert page.locator(".skip").bounding_box()["x"] >= 0
    reached, unseen = [], []
    state = """() => { const node = document.activeElement, look = getComputedStyle(node);
        const seen = look.outlineStyle !== 'none' && parseFloat(look.outlineWidth) >= 2;
        return node === document.body ? null : [(%s)(node), seen] }"""
    while (found := page.evaluate(state % LABEL)) and len(reached) < 200:
        reached.append(found[0])
        unseen += [] if found[1] else [found[0]]
        page.keyboard.press("Tab")
    assert sorted(set(wanted) - set(reached)) == []
    assert unseen == []
    assert "" not in reached
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('section').id") == "chains"


def test_links_to_a_chain_and_to_a_section_are_copied(page):
    page.locator("#viewer select").select_option(index=2)
    page.get_by_role("button", name="Copy the link to chain").click()
    wait_until(page, "document.querySelector('#said').textContent === 'Link copied'")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == f"{page.url.split('#')[0]}#chain-" + quote("9 -4 +7 +3")
    page.locator("#bypass h2").first.hover()
    page.get_by_role("link", name="Copy the link to: Can the answer").click()
    wait_until(page, "navigator.clipboard.readText().then((text) => text.endsWith('report.html#bypass'))")
    assert page.evaluate("location.hash") == "#bypass"


def test_deep_links_open_at_their_place(open_page, report):
    page = open_page(report, hash_="#chain-" + quote("9 -4 +7 +3"), width=390)
    assert page.locator(".place").inner_text() == "3 of 12"
    top = "document.querySelector({!r}).getBoundingClientRect().top"
    assert 0 <= page.evaluate(top.format("#viewer")) < 120
    page.evaluate("location.hash = '#chain-' + encodeURIComponent('4 +8 +2 -5')")
    wait_until(page, "document.querySelector('.place').textContent === '2 of 12'")
    page.evaluate("location.hash = '#chain-nobody'")
    page.goto(report.as_uri() + "?again#accuracy")
    wait_until(page, DRAWN)
    page.wait_for_timeout(200)
    assert 0 <= page.evaluate(top.format("#accuracy h2")) < 200
    assert page.evaluate("document.querySelector('nav').getBoundingClientRect().top") == 0
    wait_until(page, "document.querySelector('nav [aria-current]')?.textContent === 'Accuracy'")


def test_on_a_phone_the_evidence_is_a_strip_until_it_is_opened(open_page, report):
    page = open_page(report, width=390, drawn=False, has_touch=True, is_mobile=True)
    card = page.locator(".card")
    page.locator(".chain .value").nth(1).tap()
    assert "step v2" in card.inner_text()
    closed = card.bounding_box()
    assert closed["height"] < 220
    assert closed["y"] + closed["height"] <= 851
    assert card.locator(".gauge").first.is_hidden()
    card.locator(".toggle").tap()
    assert card.locator(".gauge").first.is_visible()
    assert card.bounding_box()["height"] < 0.75 * 850
    card.locator(".toggle").tap()
    assert card.locator(".gauge").first.is_hidden()


def test_hostile_text_is_shown_and_does_nothing(open_page, tmp_path):
    view = hostile_input()
    page = open_page(write_report(view, tmp_path / "hostile.html"), width=390)
    for number, chain in enumerate(view.chains):
        assert page.locator(".place").inner_text() == f"{number + 1} of {len(view.chains)}"
        shown = page.evaluate(
            "[...document.querySelector('.chain').childNodes].map((n) => (n.firstChild || n).data).join('')"
        )
        assert shown == chain["text"].replace("\ud800", "?")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        if number + 1 < len(view.chains):
            page.get_by_role("button", name="Next").click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe").count() == 0
    loose = """[...document.querySelectorAll('h1, td, th, dd, .chain, .question, .chip span, option, pre code')]
        .filter((node) => !/isolate|plaintext/.test(getComputedStyle(node).unicodeBidi))
        .map((node) => node.outerHTML)"""
    assert page.evaluate(loose) == []


def test_without_scripts_the_text_and_the_tables_remain(open_page, report):
    page = open_page(report, java_script_enabled=False, width=390)
    assert page.locator("article.static").count() == 12
    assert "F" in page.locator("article.static mark sup").first.inner_text()
    assert "no replacement of equal token count" in page.locator("noscript").inner_text()
    assert page.locator(".verdict-table").is_visible()
    assert not page.locator("#viewer").is_visible()


def test_without_decompression_the_numbers_are_open_and_the_viewer_works(open_page, report):
    page = open_page(report, before="delete window.DecompressionStream")
    assert page.evaluate(DRAWN) == "unavailable"
    assert page.locator("#use details").get_attribute("open") is not None
    assert page.locator("#use details .tools button").is_visible()
    page.get_by_role("button", name="Next").click()
    assert page.locator(".place").inner_text() == "2 of 12"
