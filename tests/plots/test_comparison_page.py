"""The page of a comparison: complete, closed to the network, with a line for everything that is missing."""

from __future__ import annotations

import json
import re

import pytest

from faithprobe.plots.comparison_figure import forest
from faithprobe.plots.comparison_words import signed
from tests.plots.comparison_sample import comparison, hostile_comparison, without_anything
from tests.plots.sample import HOSTILE
from tests.plots.test_report_file import Page

SECTIONS = ["changes", "numbers", "verdicts", "chains", "unscored", "method", "again"]


@pytest.fixture(scope="module")
def found():
    return comparison()


@pytest.fixture(scope="module")
def text(found, tmp_path_factory) -> str:
    return found.report(tmp_path_factory.mktemp("page") / "new" / "comparison.html").read_text(encoding="utf-8")


def section(text: str, name: str) -> str:
    return text[text.index(f'<section id="{name}"') :].partition("</section>")[0]


def test_sections_stand_in_the_order_of_the_reading(text):
    assert re.findall(r'<section id="(\w+)"', text) == SECTIONS
    assert set(json.loads(Page(text).scripts["figures-data"])["figures"]) == {"changes"}
    assert text.endswith("</html>\n")


def test_nothing_is_loaded_from_anywhere(text):
    for tag, attributes in Page(text).elements:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            target = attributes.get(name) or ""
            assert target.startswith(("#", "data:,")) or not target, (tag, name, target)


def test_the_first_lines_say_what_was_found(text):
    header = text[text.index("<header>") : text.index("</header>")]
    assert "after against before" in header
    assert "Both were asked the same 12 problems" in header
    assert "They wrote the same text every time" in header
    assert "used (U) <strong>+" in header
    assert "The verdict changed in 18 of the 35 steps" in header
    assert "Before you compare" not in header  # the plans are the same


def test_every_measure_stands_in_the_table_with_what_is_missing(found, text):
    table = section(text, "numbers")
    assert table.count('scope="row"') == len(found.differences)
    row = found.difference("used")
    assert f"<strong>{signed(row['difference'])}</strong>" in table
    assert f"{signed(row['low'])} to {signed(row['high'])}" in table
    assert table.count("not measured in A and B") == 5  # in_chain, four effects: the sample has none
    assert "not paired" in table  # accuracy without the chain


def test_the_transitions_and_the_chains_that_changed(found, text):
    table = section(text, "verdicts")
    counts = {(r["verdict_a"], r["verdict_b"]): r["steps"] for r in found.transitions.to_dict("records")}
    assert counts["idle", "faithful"] == 13
    assert f'<td class="turns" style="--far:{100 * 13 / max(counts.values()):.0f}%">13</td>' in table
    chains = section(text, "chains")
    assert chains.count('<article class="pair">') == len(found.chains) == 11
    assert chains.count('class="side"') == 22
    first = chains[: chains.index("</article>")]
    assert first.count(" turned") == 4  # two steps of it changed, and are framed on both sides
    assert "2 changed verdicts" in first
    assert "1 changed verdict," in chains[chains.rindex("<article") :]


def test_independent_samples_show_no_pairs(tmp_path):
    found = comparison(seed=7)
    text = found.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "seed differs (0 in A, 7 in B)" in text[text.index("<header>") : text.index("</header>")]
    assert "two independent samples" in section(text, "method")
    assert 'class="missing"' in section(text, "verdicts")
    assert 'class="missing"' in section(text, "chains")
    assert "<article" not in text


def test_what_was_not_measured_leaves_a_gap_and_no_figure(tmp_path):
    text = without_anything().report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Nothing was measured in both" in text
    assert 'class="missing"' in section(text, "changes")
    assert not json.loads(Page(text).scripts["figures-data"])["figures"]


def test_the_forest_draws_every_difference_once_and_fills_those_beyond_zero(found):
    known = found.differences[found.differences["missing"] == ""]
    for narrow in (False, True):
        fig = forest(found.differences, narrow=narrow)
        drawn = [x for trace in fig.data for x in trace.x]
        assert sorted(drawn) == pytest.approx(sorted(known["difference"]))
        filled = [x for trace in fig.data if trace.marker.symbol == "circle" for x in trace.x]
        assert sorted(filled) == pytest.approx(sorted(known["difference"][known["beyond_zero"]]))
        for trace in fig.data:
            low = [x - down for x, down in zip(trace.x, trace.error_x.arrayminus)]
            assert {round(v, 9) for v in low} <= set(known["low"].round(9))
    assert len({trace.xaxis for trace in fig.data}) == 3  # shares, tokens, a metric in bits


def test_hostile_text_stays_text(tmp_path):
    text = hostile_comparison().report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<img" not in text.replace("&lt;img", "")
    assert "<script>window.hacked" not in text
    assert text.count("</script>") == 3 + text.count('<script id="')
    assert "x" * 5000 in text
    assert HOSTILE[0] not in text


@pytest.mark.parametrize(
    ("value", "shown"), [(0.36, "+.36"), (-1.0, "\N{MINUS SIGN}1"), (0.0001, "0"), (-2.5, "\N{MINUS SIGN}2.5")]
)
def test_signs_are_written(value, shown):
    assert signed(value) == shown
