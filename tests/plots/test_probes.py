"""Figures and report of a probe run against a table whose numbers are known, and the report as a file."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from faithprobe.errors import UnknownNameError
from faithprobe.plots.palette import BLUE
from faithprobe.plots.probe_figures import MOST_ROWS
from faithprobe.plots.probe_words import LOOKS, MEANINGS, READING_AID, headline
from faithprobe.plots.probes import (
    decodable_not_used,
    probe_curves,
    probe_summary_table,
    render_probe_report,
    write_probe_report,
)
from faithprobe.scores.probe_tables import SOURCES
from tests.plots.probes_sample import INFO, SITES, sources
from tests.plots.test_report_file import Page

HOSTILE = "</script><img src=x onerror=alert(1)>"
CONTROLS = ["text", "text-linear", "embedding", "random twin", "shuffled"]


def of_group(fig, group, part=""):
    """Traces of one source: its curves, or its bands."""
    return [t for t in fig.data if t.legendgroup == group and (t.fill == "toself") == (part == "band")]


def test_every_source_is_promised_by_the_table_and_looks_like_no_other():
    promised = re.split(r"[:;,]\s*", SOURCES["source"])
    assert {"activations", *CONTROLS} == set(LOOKS)
    assert all(name in promised or name == "activations" for name in LOOKS), promised
    for cue in ("colour", "symbol"):
        assert len({getattr(look, cue) for look in LOOKS.values()}) == len(LOOKS)
    assert set(CONTROLS) - {"shuffled"} < set(MEANINGS)


def test_curves_draw_every_control_at_its_layers():
    table = sources(steps=["v10", "v2"], targets=["parity", "value"]).sample(frac=1, random_state=0)
    fig = probe_curves(table)
    titles = [a.text for a in fig.layout.annotations]
    assert titles == ["before the chain", "ahead", "at the literal"]
    sides = [axis.title.text for axis in fig.select_yaxes() if axis.title.text]
    assert sides == ["v2<br>parity, bits", "v2<br>value, R²", "v10<br>parity, bits", "v10<br>value, R²"]
    for source in ("activations", *CONTROLS):
        curves = of_group(fig, source)
        assert len(curves) == 4 * 3, source
        assert [t.showlegend for t in curves].count(True) == 1
        rows = table[(table["source"] == source) & (table["step"] == "v2") & (table["target"] == "parity")]
        for curve, site in zip(curves, SITES):
            here = rows[rows["position"] == site].sort_values("layer")
            assert list(curve.x) == list(here["layer"])
            assert list(curve.y) == pytest.approx(list(here["score"]))
    widths = {source: of_group(fig, source)[0].line.width for source in LOOKS}
    assert max(widths, key=widths.get) == "activations"
    assert not [t for t in fig.data if t.legendgroup in ("control task", "beyond control")]


def test_bands_are_the_interval_and_the_quantiles_of_shuffles():
    table = sources(steps=["v1"], targets=["class"])
    fig = probe_curves(table)
    for source in ("activations", "shuffled"):
        bands = of_group(fig, source, "band")
        assert len(bands) == 3
        rows = table[(table["source"] == source) & (table["position"] == "before")]
        assert list(bands[0].y) == pytest.approx([*rows["high"], *reversed(rows["low"].tolist())])
        assert list(bands[0].x) == [*rows["layer"], *reversed(rows["layer"].tolist())]
    assert not of_group(fig, "text", "band")


def test_the_chosen_layer_the_ceiling_and_the_zone_of_the_literal_are_marked():
    table = sources(steps=["v1"], targets=["class", "value"])
    fig = probe_curves(table)
    acts = table[(table["source"] == "activations") & table["chosen"]]
    rings = [t for t in fig.data if t.legendgroup == "chosen"]
    assert [(t.x[0], t.y[0]) for t in rings] == [
        (24, pytest.approx(float(acts[(acts["target"] == target) & (acts["position"] == site)]["score"].iloc[0])))
        for target in ("class", "value")
        for site in SITES
    ]
    ceilings = [t for t in fig.data if t.legendgroup == "entropy"]
    assert len(ceilings) == 3, "R2 has no entropy"
    assert set(ceilings[0].y) == {acts["entropy"].max()}
    shaded = [shape for shape in fig.layout.shapes if shape.type == "rect"]
    assert {shape.xref for shape in shaded} == {"x3 domain", "x6 domain"}


def test_a_point_tells_accuracy_n_and_what_is_beyond_the_control():
    fig = probe_curves(sources(steps=["v1"], targets=["parity"]))
    told = of_group(fig, "activations")[1].customdata[4]
    assert re.search(
        r"\(95%: \.3\d to \.4\d\), accuracy \d+%, n = 380<br>beyond the largest control \(text\): \.27", told
    )
    assert "beyond" not in of_group(fig, "text")[0].customdata[0]


def test_rows_share_an_axis_that_a_bad_control_cannot_blow_up():
    table = sources(steps=["v1"], targets=["class", "value"])
    table.loc[(table["source"] == "random twin") & (table["target"] == "value"), ["score", "low"]] = -40.0
    fig = probe_curves(table)
    assert fig.layout.yaxis2.matches == fig.layout.yaxis3.matches == "y"
    assert fig.layout.yaxis4.range[0] > -1
    assert fig.layout.yaxis.range[1] > table["entropy"].max(), "the ceiling is inside"
    assert -40.0 in of_group(fig, "random twin")[3].y, "what is drawn is what was measured"


def test_many_rows_keep_the_target_that_tells_most_apart_and_say_what_is_left_out():
    table = sources()
    assert table[["step", "target"]].drop_duplicates().shape[0] > MOST_ROWS
    fig = probe_curves(table)
    sides = [axis.title.text for axis in fig.select_yaxes() if axis.title.text]
    assert sides == [f"v{i}<br>{name}" for i in (1, 2, 3) for name in ("class, bits", "value, R²")]
    note = fig.layout.annotations[-1].text.replace("<br>", " ")
    assert note.endswith("in the tables: last digit, parity.")
    many = probe_curves(sources(steps=[f"v{i}" for i in range(6)], sites=["ahead"]))
    assert [axis.title.text for axis in many.select_yaxes()] == [f"v{i}<br>class, bits" for i in range(6)]
    asked = probe_curves(table, steps=["v2"], targets=["parity"])
    assert [axis.title.text for axis in asked.select_yaxes() if axis.title.text] == ["v2<br>parity, bits"]
    assert len(asked.layout.annotations) == 3, "nothing was left out but what was not asked for"
    with pytest.raises(UnknownNameError, match="did you mean 'parity'"):
        probe_curves(table, targets=["party"])


def test_one_layer_is_drawn_as_points_with_whiskers():
    fig = probe_curves(sources(steps=["v1"], targets=["class"], layers=[3]))
    acts = of_group(fig, "activations")[2]
    assert acts.x == (3,)
    assert acts.error_y.array[0] == pytest.approx(acts.error_y.arrayminus[0])
    assert not of_group(fig, "activations", "band")


def test_an_empty_table_gives_a_reason_instead_of_a_figure():
    for table in (pd.DataFrame(), pd.DataFrame(columns=list(SOURCES)), sources().assign(score=float("nan"))):
        assert "no probe was fitted" in probe_curves(table).layout.meta["missing"]
    assert "no probe was fitted" in probe_summary_table(pd.DataFrame())
    text = render_probe_report({}, pd.DataFrame())
    assert 'class="missing"' in text
    assert "No class of any value was probed." in text
    assert json.loads(Page(text).scripts["figures-data"])["figures"] == {}
    assert "nan" not in re.sub(r"<(script|style).*?</(script|style)>", "", text, flags=re.DOTALL).lower().split()


def test_the_summary_holds_every_place_at_its_chosen_layer():
    table = sources()
    html = probe_summary_table(table)
    lines = re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", html)
    assert len(lines) == 3 * 4 * 3
    first = [re.sub(r"<[^>]+>", " ", cell).split() for cell in re.split(r"</t[dh]>", lines[1])]
    assert first[:3] == [["v1", "class"], ["ahead"], ["24"]]
    assert first[3] == ["2.25", "bits", "1.91", "to", "2.60"]
    assert first[4] == ["text", ".69", "bits"]
    assert first[5] == ["1.57", "bits", "1.16", "to", "1.97"]
    assert first[6][:2] == ["37%", "(2%)"]
    assert first[7] == [".07", ".02", "to", ".13"]
    assert first[8] == ["380"]
    framed = ["claim" in line for line in lines]
    below = [line for line in lines if "before the chain" in line]
    assert sum(framed) == 3 * 3 * 2
    assert not any("claim" in line for line in below), "text explains what is read before the chain"
    assert not any("claim" in line for line in lines if ">value<" in line), "an additive target is no evidence"


def test_the_headline_counts_what_is_beyond_every_control():
    table = sources()
    kept = table[table["chosen"]]
    assert "At 18 of 27 places" in headline(kept)
    assert "the most at v1, at the literal, class: 4.38 bits beyond it" in headline(kept)
    nothing = kept.assign(low=-1.0)
    assert headline(nothing).endswith(
        "At 0 of 27 places of step, position and target, activations tell more than the "
        "largest control (95% interval above 0)."
    )


def test_the_report_is_one_whole_file(tmp_path):
    path = write_probe_report(INFO, sources(), tmp_path / "new folder" / "probes.html")
    text = path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["probes.html"]
    assert text.endswith("</html>\n")
    assert path.stat().st_size < 6_000_000
    for told in (READING_AID, INFO["command"], INFO["fingerprint"], "4 min 12 s", "12 held-out operand combinations"):
        assert told in text
    assert re.findall(r'<section id="(\w+)"', text) == ["curves", "table", "legend", "again"]
    assert set(json.loads(Page(text).scripts["figures-data"])["figures"]) == {"curves"}
    for tag, attributes in Page(text).elements:
        for name in ("src", "href", "action"):
            target = attributes.get(name) or ""
            assert target.startswith(("#", "data:,")) or not target, (tag, name, target)
    numbers = text[text.index("<summary>The numbers") : text.index('<section id="table"')]
    assert numbers.count("<tr>") == 1 + 3 * 4 * 3 * 6, "what is not drawn is in the table"


def test_text_of_a_model_a_task_and_a_step_stays_text():
    table = sources(steps=[HOSTILE, "v2"])
    table["control"] = table["control"].replace("text", HOSTILE)
    table["source"] = table["source"].replace("embedding", HOSTILE)
    info = {**INFO, "model": HOSTILE, "task": HOSTILE, "command": HOSTILE, "unscored": {HOSTILE: HOSTILE}}
    text = render_probe_report({**info, "versions": {HOSTILE: HOSTILE}, "fingerprint": HOSTILE}, table)
    page = Page(text)
    assert [tag for tag, _ in page.elements if tag in ("script", "img", "iframe")] == ["script"] * 3
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert text.count("&lt;img") > 20
    figure = json.loads(page.scripts["figures-data"])["figures"]["curves"]["wide"]
    assert "<img" not in json.dumps(figure)


def compared() -> pd.DataFrame:
    rows = [
        {"label": name, "source": source, "score": score, "low": score - 0.1, "high": score + 0.1, "entropy": 3.3}
        | {"used": used, "used_low": None if used is None else 0.0, "used_high": None if used is None else 1.0}
        for name, own, used in (("a network", 2.9, 0.8), ("post-hoc", 3.1, 0.0), ("not replaced", 3.0, None))
        for source, score in {"activations": own, **dict.fromkeys(CONTROLS, 0.3), "beyond control": own - 0.3}.items()
    ]
    return pd.DataFrame(rows)


def test_decodable_and_used_stand_side_by_side():
    fig = decodable_not_used(compared())
    traces = {t.name: t for t in fig.data}
    acts = traces[LOOKS["activations"].words]
    assert list(acts.x) == [2.9, 3.1, 3.0]
    assert list(acts.error_x.array) == pytest.approx([0.1] * 3)
    assert acts.marker.color == BLUE
    assert sum(t.xaxis == "x" and t.mode == "markers" for t in fig.data) == 1 + len(CONTROLS)
    used = traces["U, with 95% interval"]
    assert used.xaxis == "x2"
    assert (list(used.x), list(used.y)) == ([0.8, 0.0], [0, 1])
    assert list(used.error_x.arrayminus) == pytest.approx([0.8, 0.0])
    assert list(fig.layout.yaxis.ticktext) == ["a network", "post-hoc", "not replaced"]
    gap = [a for a in fig.layout.annotations if a.text == "not measured"]
    assert [(a.y, a.xref) for a in gap] == [(2, "x2")]
    heights = [t.y[0] for t in fig.data if t.xaxis == "x" and t.mode == "markers"]
    assert len(set(heights)) == len(heights), "no source hides another"
    assert max(map(abs, heights)) < 0.5


def test_decodable_not_used_takes_networks_and_refuses_half_a_table():
    named = compared().rename(columns={"label": "network"}).drop(columns="entropy")
    assert list(decodable_not_used(named).layout.yaxis.ticktext) == ["a network", "post-hoc", "not replaced"]
    with pytest.raises(ValueError, match="used_high, used_low"):
        decodable_not_used(named.drop(columns=["used_low", "used_high"]))
    assert decodable_not_used(named.iloc[:0]).layout.meta["missing"]
    hostile = decodable_not_used(compared().replace("a network", HOSTILE))
    assert "<img" not in json.dumps(hostile.to_plotly_json(), default=str)
