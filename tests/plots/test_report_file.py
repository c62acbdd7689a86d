"""The report as a file: complete, small, closed to the network, and deaf to whatever a model writes into it."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from faithprobe.errors import StoreError
from faithprobe.markup import pieces
from faithprobe.plots import ReportInput, render_report, write_report
from faithprobe.plots.chain_viewer import json_island, viewer_chains, within_budget
from tests.plots.sample import hostile_input, report_input


class Page(HTMLParser):
    """Every element with its attributes, and the text of every script by its id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._script = dict(attrs).get("id", "program") if tag == "script" else None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    def handle_endtag(self, tag):
        self._script = None


@pytest.fixture(scope="module")
def text() -> str:
    return render_report(report_input())


def test_the_file_is_whole_small_and_alone(tmp_path):
    path = write_report(report_input(), tmp_path / "new folder" / "report.html")
    assert path.stat().st_size < 6_000_000
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8").endswith("</html>\n")


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"report\.html"):
        write_report(report_input(), tmp_path / "file" / "report.html")


def test_nothing_is_loaded_from_anywhere(text):
    for tag, attributes in Page(text).elements:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            target = attributes.get(name) or ""
            assert target.startswith(("#", "data:,")) or not target, (tag, name, target)
    assert "url(" not in re.sub(r'<script type="application/octet-stream".*?</script>', "", text, flags=re.DOTALL)


def test_the_policy_names_exactly_the_two_scripts_that_run(text):
    page = Page(text)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    library = gzip.decompress(base64.b64decode(page.scripts["plotly-gzip"])).decode()
    expected = {
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in (page.scripts["program"], library)
    }
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == expected
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy
    assert not re.search(r"script-src[^;]*unsafe-inline", policy)


def test_the_islands_are_json_and_hold_every_chain(text):
    page = Page(text)
    viewer = json.loads(page.scripts["viewer-data"])
    assert [chain["id"] for chain in viewer["chains"]] == [chain["chain"] for chain in report_input().chains]
    for given, shown in zip(report_input().chains, viewer["chains"]):
        assert "".join(piece[0] for piece in shown["pieces"]) == given["text"]
        assert len(shown["steps"]) == 3
    figures = json.loads(page.scripts["figures-data"])
    assert set(figures["figures"]) == {"decodability", "lead", "use", "bypass", "mediation", "accuracy"}
    assert all("template" not in v["layout"] for f in figures["figures"].values() for v in f.values())


def test_sections_stand_in_the_order_of_the_reading(text):
    ids = re.findall(r'<section id="(\w+)"', text)
    figures = ["decodability", "lead", "use", "bypass", "accuracy"]
    assert ids == ["chains", "verdicts", *figures, "published", "unscored", "again", "legend", "limits"]
    head = text[: text.index("<section")]
    assert len(re.findall(r"<li>[^<]*(?:<strong>[^<]*</strong>[^<]*)*</li>", head)) >= 3
    assert "<strong>92%</strong> (95% interval 65% to 99%, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}12)" in head


def test_findings_of_the_audit_come_first():
    view = report_input()
    view = dataclasses.replace(view, summary={**view.summary, "findings": ["One <b>.", "Two.", "Three."]})
    assert "<li>One &lt;b&gt;.</li><li>Two.</li><li>Three.</li>" in render_report(view)


def test_reasons_commands_and_versions_are_told(text):
    for told in (
        "no replacement of equal token count changes the answer",
        "stated twice with different results in one clause",
        "faithprobe audit SmolLM2-360M --task arithmetic --steps 3 -n 12 --seed 0",
        "4 min 12 s",
        "version of torch",
        "What this does not show",
    ):
        assert told in text


def test_effects_stand_with_their_controls_and_what_was_left_out(text):
    for told in (
        "They do not sum to the total",
        "Left out: no value is stated before the answer (2); on the partner: &lt;b&gt;none&lt;/b&gt; (1).",
        '<td dir="auto">2</td><td dir="auto">indirect</td><td class="number">0.58</td>',
        '<td dir="auto">3 (readout)</td><td dir="auto">indirect</td><td class="number">0.83</td>',
        "answer to q&#x27;, given prompt q, chain q&#x27;",
    ):
        assert told in text


def test_text_of_a_model_stays_text():
    page_text = render_report(hostile_input())
    page = Page(page_text)
    viewer = json.loads(page.scripts["viewer-data"])
    for given, shown in zip(hostile_input().chains, viewer["chains"]):
        assert "".join(piece[0] for piece in shown["pieces"]) == given["text"].replace("\ud800", "?")
    assert not re.search(r"<(script|img|svg)[^>]*(alert|hacked|onerror)", page_text)
    kinds = [tag for tag, _ in page.elements if tag in ("script", "img", "iframe", "svg")]
    assert kinds == ["script"] * 4
    assert not [a for _, a in page.elements for name in a if name.startswith("on")]


def test_an_island_cannot_be_left():
    data = {"</script><!--": "\u2028\u2029&<>"}
    shown = json_island(data)
    assert json.loads(shown) == data
    assert not set("<>&\u2028\u2029") & set(shown)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(3, 5, [])], [("\N{GRINNING FACE}= ", "", ""), ("12", "v0", "value"), (" 12", "", "")]),
        (
            [(3, 5, [[6, 8]])],
            [("\N{GRINNING FACE}= ", "", ""), ("12", "v0", "value"), (" ", "", ""), ("12", "v0", "mention")],
        ),
        (
            [(3, 5, [[0, 99]])],
            [("\N{GRINNING FACE}= ", "v0", "mention"), ("12", "v0", "value"), (" 12", "v0", "mention")],
        ),
        ([(-5, 0, []), (8, 20, [])], [("\N{GRINNING FACE}= 12 12", "", "")]),
        ([(3, 5, []), (5, 8, [])], [("\N{GRINNING FACE}= ", "", ""), ("12", "v0", "value"), (" 12", "v1", "value")]),
    ],
)
def test_pieces_join_to_the_text_whatever_the_spans_are(spans, expected):
    values = [{"step": f"v{i}", "start": a, "end": b, "mentions": m} for i, (a, b, m) in enumerate(spans)]
    assert pieces("\N{GRINNING FACE}= 12 12", values) == expected
    assert pieces("", values) == []


def test_values_without_evidence_and_steps_without_a_value_have_a_line():
    view = report_input()
    shown = viewer_chains(view.chains, view.steps.iloc[:0])[10]
    reasons = {row["step"]: row["unscored_reason"] for row in shown["steps"]}
    assert reasons["v1"] == "stated twice with different results in one clause"
    assert reasons["v2"] == "no evidence was taken for this value"


def test_too_many_chains_are_cut_and_the_report_says_so():
    view = report_input()
    many = [{**view.chains[0], "chain": str(i), "text": "x" * 50_000} for i in range(100)]
    view = dataclasses.replace(view, chains=many)
    assert len(within_budget(viewer_chains(many, view.steps))) < 100
    page = render_report(view)
    assert len(page.encode()) < 6_000_000
    assert re.search(r"The first \d+ of 100 chains are shown here", page)


@pytest.mark.parametrize("columns", [False, True])
def test_an_audit_that_measured_nothing_is_a_report_full_of_gaps(columns):
    view = report_input()
    tables = ("steps", "decodability", "lead", "bypass", "outcomes")
    empty = {name: getattr(view, name).iloc[:0] if columns else pd.DataFrame() for name in tables}
    text = render_report(ReportInput(info={}, summary={}, chains=[], **empty))
    assert text.count('class="missing"') >= 7
    assert "No step has a verdict." in text
    assert json.loads(Page(text).scripts["figures-data"])["figures"] == {}


def test_missing_numbers_are_called_not_measured():
    view = report_input()
    nothing = {"accuracy": {"with_chain": None}, "chain_score": {"value": None}, "verdicts": None, "unscored": None}
    text = render_report(dataclasses.replace(view, summary=nothing))
    assert text.count("not measured") > 4
    assert "answers that are right with the chain: not measured, without it: not measured." in text
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).lower().split()
