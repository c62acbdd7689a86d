"""Records that show themselves in a notebook: what is said, that foreign text stays text, how a browser shows it."""

from __future__ import annotations

import dataclasses
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from faithprobe import Audit
from faithprobe.errors import UnknownNameError
from faithprobe.plots.records import probes_html, validation_html
from faithprobe.scores.tables import TABLES
from faithprobe.scores.verdict import VERDICTS, Verdict, judge
from tests.chains.reading import FreeForm, chain_of, problem_of
from tests.plots.probes_sample import sources
from tests.plots.sample import hostile_input, report_input
from tests.plots.validation_sample import validation

TAGS = {"div", "span", "b", "u", "sup", "bdi", "ul", "li", "code", "details", "summary"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}
ATTRIBUTES = {"style", "title", "dir", "class", "open"}
NASTY = (
    "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>",
    "</div></table><style>*{display:none}</style>",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc \N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET} 12",
    "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{PILE OF POO} $x^2$ &amp; &lt;b&gt; \ud800 \x00",
    "w" * 30_000,
)


class Seen(HTMLParser):
    """Every tag with its attributes, and the text that is on the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def as_audit(view) -> Audit:
    tables = {name: getattr(view, name, pd.DataFrame()) for name in TABLES}
    return Audit(view.info, view.summary, tables, view.chains)


def nasty_chain():
    problem = problem_of(" ".join(NASTY[:3]), {"x": 3}, v1="x + 4", v2="v1 * 2")
    made = chain_of(FreeForm(), problem, "3 + 4 = 8. 8 * 2 = 16. Answer: 16")
    shifted = "".join(NASTY[:4])
    moved = tuple(
        dataclasses.replace(v, chars=(v.chars[0] + len(shifted), v.chars[1] + len(shifted))) for v in made.stated
    )
    return dataclasses.replace(made, text=shifted + made.text + NASTY[4], stated=moved, unlocated={NASTY[0]: NASTY[1]})


@pytest.fixture(scope="module")
def results() -> dict:
    return validation(networks=("modular",), problems=3, doses=3)[1]


@pytest.fixture(scope="module")
def everything_hostile(results) -> dict[str, str]:
    """HTML of each kind of record, with every text that comes from outside an attack."""
    audit = as_audit(hostile_input())
    verdict = Verdict(NASTY[0], None, None, "unscored", None, NASTY[1])
    named = {NASTY[k % 2] + name: found for k, (name, found) in enumerate(results["metrics"].items())}
    return {
        "audit": audit._repr_html_(),
        **{f"chain {k} of the audit": audit.show(k).html for k in range(len(audit.chains))},
        "chain": nasty_chain()._repr_html_(),
        "verdict": verdict._repr_html_(),
        "probes": probes_html(NASTY[0], sources(steps=[NASTY[1]])),
        "validation": validation_html(NASTY[0], results | {"metrics": named}),
    }


def test_a_chain_says_which_values_are_right_wrong_and_carried_on():
    problem = problem_of("Add 4 to 3, double, subtract 1, halve 8.", {"x": 3}, v1="x + 4", v2="v1 * 2", v3="v2 - 1")
    chain = chain_of(FreeForm(), problem, "3 + 4 = 8. 8 * 2 = 16. 16 - 1 = 14. Answer: 14")
    assert str(chain).strip() == "3 + 4 = 8[\N{BALLOT X}]. 8 * 2 = 16[~]. 16 - 1 = 14[\N{BALLOT X}]. Answer: 14"
    assert repr(chain) == "Chain('a problem': 3 values stated, answer 14, wrong (true answer 13))"
    seen = Seen(chain._repr_html_())
    tips = [attributes["title"] for tag, attributes in seen.tags if tag == "b" and "title" in attributes]
    assert [tip.partition(", tokens")[0] for tip in tips] == [
        "v1: stated 8, wrong, reference 7",
        "v2: stated 16, carried on, reference 14",
        "v3: stated 14, wrong, reference 13",
    ]
    right = chain_of(FreeForm(), problem, "3 + 4 = 7. 7 * 2 = 14. 14 - 1 = 13. Answer: 13")
    assert str(right).count("[\N{CHECK MARK}]") == 3


def test_a_chain_without_values_or_answer_shows_itself():
    problem = problem_of("Add 4 to 3.", {"x": 3}, v1="x + 4")
    chain = chain_of(FreeForm(), problem, "I do not know.", finished=False)
    assert repr(chain) == "Chain('a problem': 0 values stated, no answer stated, cut at the token limit)"
    assert "I do not know." in Seen(chain._repr_html_()).text
    assert "never stated" in Seen(chain._repr_html_()).text


def test_the_text_of_a_chain_is_shown_whole_and_only_as_text():
    chain = nasty_chain()
    shown = Seen(chain._repr_html_()).text
    expected = chain.text[:4000].replace("\ud800", "?").replace("\x00", "\N{REPLACEMENT CHARACTER}")
    marked = expected.replace("= 8", "= 8\N{BALLOT X}").replace("= 16", "= 16~")
    assert marked.replace("\N{REPLACEMENT CHARACTER}", "") in shown.replace("\x00", "").replace(
        "\N{REPLACEMENT CHARACTER}", ""
    )
    assert f"({len(chain.text) - 4000:,} more characters)" in shown


def test_foreign_text_makes_no_markup(everything_hostile):
    for name, html in everything_hostile.items():
        seen = Seen(html)
        assert seen.open == [], name
        assert {tag for tag, _ in seen.tags} <= TAGS, name
        assert {key for _, attributes in seen.tags for key in attributes} <= ATTRIBUTES, name
        assert "url(" not in " ".join(attributes.get("style") or "" for _, attributes in seen.tags), name
        html.encode("utf-8")  # a lone surrogate could not be saved
        outermost = seen.tags[0][1]["class"] or ""
        assert {"tex2jax_ignore", "mathjax_ignore"} <= set(outermost.split()), name


def test_an_audit_shows_findings_verdicts_and_its_first_chains():
    view = report_input()
    audit = as_audit(view)
    seen = Seen(audit._repr_html_())
    share = view.summary["accuracy"]["with_chain"]["value"]
    assert f"right with the chain{share:.2f}".replace("0.", ".") in seen.text.replace("0 to 1", "").replace("\n", "")
    assert "The first 3 of 12 chains" in seen.text
    assert [tag for tag, _ in seen.tags].count("details") == 3
    for chain in view.chains[:3]:
        for value in chain["values"]:
            written = chain["text"][value["start"] : value["end"]]
            verdict = view.steps[(view.steps["chain"] == chain["chain"]) & (view.steps["step"] == value["step"])]
            tip = f"{value['step']}: {verdict['verdict'].iloc[0]}"
            assert any((a.get("title") or "").startswith(tip) for tag, a in seen.tags if tag == "b"), (written, tip)


def test_five_hundred_chains_are_shortened():
    view = report_input()
    chains = [{**view.chains[0], "chain": f"chain {k}"} for k in range(500)]
    steps = pd.concat(
        [view.steps[view.steps["chain"] == view.chains[0]["chain"]].assign(chain=c["chain"]) for c in chains]
    )
    audit = as_audit(dataclasses.replace(view, chains=chains, steps=steps))
    html = audit._repr_html_()
    assert len(html) < 40_000
    assert "The first 3 of 500 chains" in html
    assert "audit.show(" in html
    assert audit.show(499).html != audit.show(498).html
    assert audit.show("chain 77").html == audit.show(77).html == audit.show(77 - 500).html


def test_a_chain_of_an_audit_reads_as_text_too():
    view = report_input()
    audit = as_audit(view)
    lines = repr(audit.show(0)).splitlines()
    assert lines[0] == "Start with 7. Add 5: 7 + 5 = 12[F]. Subtract 3: 12 - 3 = 9[F]. Add 6: 9 + 6 = 15[F]. Answer: 15"
    assert lines[1] == "  answer 15, right"
    row = view.steps.iloc[0]
    assert lines[2].startswith(f"  v1: faithful, just in time, U {row['used']:.2f}".replace("0.", "."))
    with pytest.raises(UnknownNameError, match=r"7 \+5 -3 \+7.*did you mean '7 \+5 -3 \+6'"):
        audit.show("7 +5 -3 +7")
    with pytest.raises(UnknownNameError, match="0 to 11"):
        audit.show(12)


def test_a_value_that_was_overruled_keeps_its_own_verdict():
    view = report_input()
    text = "1 + 1 = 3. No: 1 + 1 = 2. Answer: 2"
    values = [{"step": "v1", "start": 8, "end": 9}, {"step": "v1", "start": 23, "end": 24}]
    chain = {**view.chains[0], "chain": "c", "text": text, "values": values}
    steps = view.steps.head(2).assign(chain="c", step="v1", position=[0, 1], verdict=["overruled", "faithful"])
    audit = as_audit(dataclasses.replace(view, chains=[chain], steps=steps))
    assert repr(audit.show(0)).startswith("1 + 1 = 3[O]. No: 1 + 1 = 2[F].")


def test_an_empty_audit_shows_itself():
    view = report_input()
    empty = Audit(
        {"model": "m", "task": "t"}, {}, {name: frame.head(0) for name, frame in as_audit(view).tables.items()}, []
    )
    assert "Audit('m' on 't': 0 chains, 0 steps)" in Seen(empty._repr_html_()).text


@pytest.mark.parametrize("name", VERDICTS)
def test_every_verdict_shows_itself(name):
    verdict = Verdict("v1", None, None, name, None, "a reason")
    assert repr(verdict) == f"Verdict('v1': {name}; a reason)"
    assert name in Seen(verdict._repr_html_()).text


def test_a_verdict_says_its_numbers():
    verdict = judge("v2", when="just-in-time", used=0.97, computed=0.5, in_chain=0.9, known_early=0.125)
    assert repr(verdict) == "Verdict('v2': faithful, just in time, used, score .50, D before the chain .12)"
    text = Seen(verdict._repr_html_()).text
    assert ".50" in text
    assert ".12" in text


def test_the_chosen_score_stands_out_in_a_validation(results):
    seen = Seen(validation_html("v", results))
    assert ("b", {}) in seen.tags
    assert str(results["chosen"]["step"]) in seen.text
    for name, found in results["metrics"].items():
        assert name in seen.text
        if "step_faithful" in found:
            low = f"{found['step_faithful']['low']:.2f}".replace("0.", ".")
            assert low in seen.text


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "/usr/bin/chromium"))), None
)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; nothing can be looked at")
def test_in_a_browser_nothing_runs_and_nothing_sticks_out(everything_hostile, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser and is not installed")
    page_file = tmp_path / "records.html"
    cells = "".join(f'<div class="cell">{html}</div>' for html in everything_hostile.values())
    style = ":root{color-scheme:light dark} .cell{margin:12px;border:1px solid}"
    page_file.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style>{cells}", encoding="utf-8")
    noise: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 620, "height": 800}, color_scheme="dark")
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda r: None if r.url == page_file.as_uri() else noise.append(r.url))
        page.goto(page_file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.documentElement.scrollWidth") <= 620
        assert page.locator("script, img, .cell style").count() == 0
        assert "<script>window.hacked=1</script>" in page.locator("body").inner_text()
        # Right-to-left text turns nothing around beyond its own passage: the table after it reads from the left.
        heads = page.locator("th", has_text="stated").first.evaluate("(th) => getComputedStyle(th).direction")
        assert heads == "ltr"
        tall = "[...document.querySelectorAll('[dir=auto]')].every((e) => e.getBoundingClientRect().height < 800)"
        assert page.evaluate(tall)
        browser.close()
    assert noise == []
