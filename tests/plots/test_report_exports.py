"""What leaves the report in a browser: every figure as PNG and SVG, every table as CSV that no spreadsheet runs."""

from __future__ import annotations

import csv
import dataclasses
import re
import struct
import time
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from faithprobe.plots import write_report
from tests.plots.sample import report_input

pytest.importorskip("playwright.sync_api", reason="playwright drives the browser and is not installed")
from tests.plots.test_report_browser import (  # noqa: F401
    browser,
    open_page,
    page,
    pytestmark,
    report,
    shared,
)


def saved(page, button, folder: Path) -> tuple[str, bytes]:  # noqa: F811
    """The name and the content of what a button saves."""
    with page.expect_download() as waiting:
        button.click()
    target = folder / "file"
    waiting.value.save_as(target)
    return waiting.value.suggested_filename, target.read_bytes()


def table(content: bytes) -> list[dict[str, str]]:
    assert content.startswith(b"\xef\xbb\xbf")  # else Excel takes it for something other than UTF-8
    text = content.decode("utf-8-sig")
    assert text.endswith("\r\n")
    return list(csv.DictReader(text.splitlines(keepends=True)))


def test_every_figure_has_both_buttons_and_leaves_wide_light_and_under_its_heading(page, tmp_path):  # noqa: F811
    plots = page.locator(".plot")
    assert plots.count() == 6
    for kind in ("PNG", "SVG"):
        assert page.locator(".plot + .tools").get_by_role("button", name=f"Save this figure as {kind}").count() == 6
    page.set_viewport_size({"width": 390, "height": 850})
    page.emulate_media(color_scheme="dark")
    name, content = saved(page, page.locator("#use .tools").get_by_role("button", name="PNG").first, tmp_path)
    assert name == "SmolLM2-360M-on-arithmetic-use.png"
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width == 2000
    assert 500 < height < 2000

    name, content = saved(page, page.locator("#bypass .tools").get_by_role("button", name="SVG").nth(1), tmp_path)
    assert name == "SmolLM2-360M-on-arithmetic-mediation.svg"
    drawn = ElementTree.fromstring(content)
    assert drawn.attrib["width"] == "1000"
    told = " ".join("".join(text.itertext()) for text in drawn.iter("{http://www.w3.org/2000/svg}text"))
    assert "Past the chain, or through it?" in told
    assert "SmolLM2-360M on arithmetic" in told
    assert "interaction" in told
    background = next(drawn.iter("{http://www.w3.org/2000/svg}rect")).attrib["style"]
    assert "rgb(255, 255, 255)" in background
    # The words stand below the edge of the picture, and nothing of it comes from elsewhere.
    assert float(next(n for n in drawn.iter() if n.attrib.get("class") == "gtitle").attrib["y"]) > 15
    assert not re.search(rb"(href|url)\s*[=(]\s*[\"']?http", content)


def test_every_table_leaves_as_csv_with_its_numbers(page, tmp_path):  # noqa: F811
    missing = """[...document.querySelectorAll('table')].filter((table) => {
        const home = table.closest('.per-step') || (table.closest('.scroll') || table).nextElementSibling;
        return !/CSV/.test(home?.textContent);
    }).length"""
    assert page.evaluate(missing) == 0
    name, content = saved(page, page.locator("#verdicts .tools button"), tmp_path)
    assert name == "SmolLM2-360M-on-arithmetic-verdicts.csv"
    counts = report_input().steps["verdict"].value_counts()
    assert {row["verdict"]: int(row["steps"]) for row in table(content)} == counts.to_dict()
    assert {"determined": "just in time", "used": "used", "verdict": "faithful", "steps": "25"} in table(content)

    page.locator("#use details summary").click()
    rows = table(saved(page, page.locator("#use details .tools button"), tmp_path)[1])
    assert [float(row["share"]) for row in rows] == pytest.approx(list(report_input().outcomes["share"]), abs=1e-6)
    page.locator("#use details summary").click()

    page.locator("#viewer select").select_option(index=2)
    rows = table(saved(page, page.locator(".per-step .tools button").first, tmp_path)[1])
    assert [(row["chain"], row["step"]) for row in rows] == [("9 -4 +7 +3", step) for step in ("v1", "v2", "v3")]
    rows = table(saved(page, page.locator(".per-step .tools button").last, tmp_path)[1])
    assert len(rows) == 36
    expected = report_input().steps
    assert [row["verdict"] for row in rows] == list(expected["verdict"])
    assert [float(row["used"] or "nan") for row in rows] == pytest.approx(list(expected["used"]), nan_ok=True)


FORMULAS = (
    '=HYPERLINK("http://x.example","1")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "  =1",
    "\u202e=1",
    "\uff1d1",
)
HARMLESS = ("+5", "-3", "-.5", 'a, "b"\nc;d', "\u05e9\u05dc\u05d5\u05dd \U0001f600", "7 +5 -3")


def test_no_spreadsheet_runs_what_a_model_wrote(open_page, tmp_path):  # noqa: F811
    view = report_input()
    texts = [*FORMULAS, *HARMLESS]
    steps = view.steps.copy()
    steps["stated"] = [texts[i % len(texts)] for i in range(len(steps))]
    summary = {**view.summary, "unscored": dict.fromkeys(texts, 1)}
    hostile = dataclasses.replace(view, steps=steps, summary=summary)
    page = open_page(write_report(hostile, tmp_path / "report.html"), drawn=False)  # noqa: F811
    stated = [row["stated"] for row in table(saved(page, page.locator(".per-step .tools button").last, tmp_path)[1])]
    reasons = [row["reason"] for row in table(saved(page, page.locator("#unscored .tools button"), tmp_path)[1])]
    for found in (stated, reasons):
        for text in FORMULAS:
            assert f"'{text}" in found
            assert text not in found
        for text in HARMLESS:
            assert text in found


def test_five_hundred_chains_do_not_stall(open_page, tmp_path):  # noqa: F811
    view = report_input()
    copies = [{**chain, "chain": f"{chain['chain']} #{i}"} for i in range(42) for chain in view.chains][:500]
    rows = [view.steps.assign(chain=view.steps["chain"] + f" #{i}") for i in range(42)]
    many = dataclasses.replace(
        view, chains=copies, steps=pd.DataFrame([row for r in rows for row in r.to_dict("records")])
    )
    path = write_report(many, tmp_path / "many.html")
    assert path.stat().st_size < 5_000_000
    page = open_page(path, drawn=False)  # noqa: F811
    assert page.locator(".place").inner_text() == "1 of 500"
    assert page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") < 5_000
    assert page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive") < 5_000

    def took(script: str) -> float:
        """Milliseconds until the page is laid out again, the best of three: the machine has other work."""
        timed = f"const t = performance.now(); {script}; document.body.offsetHeight; return performance.now() - t"
        return min(page.evaluate(f"(() => {{ {timed} }})()") for _ in range(3))

    press = "document.querySelector('.filters button[data-verdict=\"{}\"]').click()"
    assert took(press.format("post-hoc") + ";" + press.format("")) < 2_000
    turn = "for (let i = 0; i < 20; i++) document.querySelector('.pager .step[data-move=\"1\"]').click()"
    assert took(turn) < 2_000
    assert (
        page.locator(".place").inner_text() == "66 of 500"
    )  # the filter went from the first chain to the sixth, which it keeps
    start = time.perf_counter()
    page.evaluate("scrollTo({ top: 3000, behavior: 'instant' })")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert time.perf_counter() - start < 5
    assert page.evaluate("scrollY") == 3000
