"""Comparing audits: against differences by hand, networks whose difference is known, and what cannot be compared."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from faithprobe import Audit, Comparison, FaithprobeError, audit, compare
from faithprobe.cli import main
from faithprobe.errors import StoreError
from faithprobe.results.measures import chain_scores
from faithprobe.results.transitions import changed_chains, paired_steps, transitions
from faithprobe.results.verdicts import frame
from tests.plots.comparison_sample import HOSTILE, comparison, hostile_comparison

pytestmark = pytest.mark.filterwarnings("error::UserWarning:faithprobe")
BETWEEN = {"used": -1.0, "bypass": 1.0, "mediation_direct": 1.0, "mediation_indirect": -1.0}
"""From a network that means its chain to one that answers past it. They print the same text."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("audits")
    for name in ("faithful", "post-hoc"):
        audit(
            f"organism:{name}", "organism", problems=8, probe_problems=0, out=home / name, show_progress=False
        )  # fmt: skip
    return {name: home / name for name in ("faithful", "post-hoc")}


def changed(given: Audit, **info: Any) -> Audit:
    return dataclasses.replace(given, info={**given.info, **info})


def by_hand(values: dict[str, list[float | None]], correct: list[bool], **info: Any) -> Audit:
    """An audit of problems p0, p1, ...: U of each one's steps v1, v2, ...; the last step is the final one."""
    steps, chains = [], []
    for k, (problem, used) in enumerate(values.items()):
        for position, value in enumerate([*used, 1.0]):
            row = {"chain": problem, "step": f"v{position + 1}", "position": position, "stated": "7", "true_value": "7"}
            row |= {"needed": True, "final": position == len(used), "used": value, "unscored_reason": ""}
            steps.append({**row, "verdict": "unscored" if value is None else "faithful" if value >= 0.5 else "idle"})
        chains.append({"chain": problem, "prompt": problem, "true_answer": "7", "answer": "7", "text": f"{problem} 7"})
        chains[-1] |= {"correct": correct[k], "finished": True, "values": [], "unlocated": {}}
    tables = {name: frame(name, []) for name in ("decodability", "lead", "bypass", "mediation", "outcomes", "evidence")}
    summary = {"accuracy": {"with_chain": None, "without_chain": None}}
    plan = {"model": "by hand", "task": "hand", "task_options": {}, "seed": 0, "versions": {"faithprobe": "0.1.0"}}
    return Audit({**plan, **info}, summary, {"steps": frame("steps", steps), **tables}, chains)


def test_differences_by_hand():
    """U is compared on v1 of p0 (v2 is not measured in B), both steps of p1, and not on p2 (nothing in B)."""
    a = by_hand({"p0": [0.5, 0.0], "p1": [1.0, 0.25], "p2": [1.0]}, [True, False, True])
    b = by_hand({"p0": [1.0, None], "p1": [1.0, 0.75], "p2": [None]}, [True, True, True])
    found = compare(a, b)
    used = found.difference("used")
    assert (used["a"], used["b"]) == (pytest.approx((0.5 + 1 + 0.25) / 3), pytest.approx((1 + 1 + 0.75) / 3))
    assert (used["difference"], used["n_a"], used["paired"]) == (pytest.approx(1 / 3), 2, True)
    assert used["low"] < used["difference"] < used["high"]
    accuracy = found.difference("accuracy")
    assert (accuracy["a"], accuracy["b"], accuracy["n_a"]) == (pytest.approx(2 / 3), 1.0, 3)
    moved = {(r["verdict_a"], r["verdict_b"]): r["steps"] for r in found.transitions.to_dict("records")}
    assert moved == {  # three final steps, v1 of p0, v1 of p1; v2 of p1; v2 of p0; v1 of p2
        ("faithful", "faithful"): 5,
        ("idle", "faithful"): 1,
        ("idle", "unscored"): 1,
        ("faithful", "unscored"): 1,
    }
    idle = found.difference("verdict: idle")
    assert (idle["a"], idle["b"]) == (2 / 8, 0.0)
    assert found.difference("computed")["missing"] == "not measured in A and B"
    assert found.difference("computed")["difference"] is None
    with pytest.raises(KeyError, match=r"no measure is called 'use'; there are accuracy, "):
        found.difference("use")


def test_steps_without_a_counterpart_enter_with_their_problem():
    """Chains that go ways of their own: no step stands for a place in the reference, and the texts differ."""
    a = by_hand({"p0": [0.0, 0.5], "p1": [1.0]}, [True, True])
    b = by_hand({"p0": [1.0], "p1": [1.0, 0.5]}, [True, True])
    own = a.steps.assign(true_value=None)
    a = dataclasses.replace(a, tables={**a.tables, "steps": own}, chains=[{**c, "text": "other"} for c in a.chains])
    found = compare(a, b)
    assert (found.difference("used")["a"], found.difference("used")["b"]) == (0.5, pytest.approx(2.5 / 3))
    assert not len(found.transitions)
    assert found.info["unmatched_steps"] == {"a": 5, "b": 5}
    assert found.chains == []


def test_metrics_that_both_ran_are_compared_and_others_are_named():
    ran = {"early-answering": [[0.2, 0.4], [0.5, 0.9]], "of_mine": [[-3.0, 5.0], [-2.0, 7.0]], "nldd": [[0.5, 1.0], []]}

    def with_evidence(side: int) -> Audit:
        rows = [
            {"metric": name, "chain": f"p{k}", "step": "", "value": value, "unscored": "", "n": 1, "detail": "{}"}
            for name, values in ran.items()
            for k, value in enumerate(values[side])
        ]
        own = by_hand({"p0": [1.0], "p1": [1.0]}, [True, True])
        return dataclasses.replace(own, tables={**own.tables, "evidence": frame("evidence", rows)})

    found = compare(with_evidence(0), with_evidence(1))
    row = found.difference("metric: early-answering")
    assert (row["difference"], row["unit"], row["group"]) == (pytest.approx(0.4), "share", "published")
    row = found.difference("metric: of_mine")
    assert (row["a"], row["b"], row["difference"], row["unit"]) == (1.0, 2.5, 1.5, "of_mine")
    row = found.difference("metric: nldd")
    assert (row["a"], row["difference"], row["missing"]) == (0.75, None, "not measured in B")


def test_an_overruled_statement_is_not_the_step():
    rows = [
        {"chain": "p", "step": "v1", "position": k, "true_value": "7", "verdict": verdict, "stated": stated}
        for k, (verdict, stated) in enumerate([("overruled", "6"), ("faithful", "7")])
    ]
    a, b = frame("steps", rows), frame("steps", [{**rows[1], "verdict": "idle"}])
    paired = paired_steps(a, b, ["p"], set())
    assert paired[["stated_a", "verdict_a", "verdict_b"]].to_numpy().tolist() == [["7", "faithful", "idle"]]
    assert transitions(paired).to_numpy().tolist() == [["faithful", "idle", 1, 1]]


def test_chains_that_changed_most_come_first():
    a = by_hand({"p0": [1.0, 1.0], "p1": [1.0, 1.0], "p2": [1.0, 1.0], "p3": [1.0]}, [True] * 4)
    b = by_hand({"p0": [None, None], "p1": [0.0, 1.0], "p2": [0.0, 0.0], "p3": [1.0]}, [True] * 4)
    paired = paired_steps(a.steps, b.steps, ["p0", "p1", "p2", "p3"], set())
    shown = changed_chains(a.chains, b.chains, paired, (a.steps, b.steps))
    assert [chain["chain"] for chain in shown] == ["p2", "p1", "p0"]  # unscored is no verdict to compare with
    assert shown[0]["changed"] == ["v1", "v2"]
    assert len(changed_chains(a.chains, b.chains, paired, (a.steps, b.steps), most=1)) == 1


def test_audits_that_are_the_same_differ_by_exactly_zero(folders):
    loaded = Audit.load(folders["faithful"])
    found = compare(loaded, Audit.load(folders["faithful"]))
    known = found.differences[found.differences["missing"] == ""]
    assert len(known) >= 12
    assert (known["difference"] == 0).all()
    assert (known["low"] < 0).all()
    assert (known["high"] > 0).all()
    assert (known["p_holm"] == 1).all()
    assert not known["beyond_zero"].any()
    assert (found.transitions["verdict_a"] == found.transitions["verdict_b"]).all()
    assert found.chains == []
    assert found.info["same_weights"]


def test_two_networks_that_print_alike_differ_in_use_and_not_in_accuracy(folders):
    found = compare(folders["faithful"], folders["post-hoc"])
    assert found.info["names"] == ["organism:faithful", "organism:post-hoc"]
    assert (found.info["same_text"], found.info["problems"]["both"]) == (8, 8)
    for name, difference in BETWEEN.items():
        row = found.difference(name)
        assert row["difference"] == difference, name
        assert row["low"] > 0 or row["high"] < 0, name
        assert row["beyond_zero"], name
    for name in ("accuracy", "finished", "lead_tokens", "in_chain", "mediation_total"):
        row = found.difference(name)
        assert (row["difference"], row["beyond_zero"], row["p_holm"]) == (0.0, False, 1.0), name
    assert found.difference("computed")["missing"] == "not measured in A and B"  # there were no probes
    back = compare(folders["post-hoc"], folders["faithful"])
    for name, difference in BETWEEN.items():
        assert back.difference(name)["difference"] == -difference
        assert back.difference(name)["low"] == pytest.approx(-found.difference(name)["high"])
    assert found.summary()["differences"]["used"]["n_a"] == 8


def test_more_problems_in_one_audit_leave_those_of_both(folders):
    whole = Audit.load(folders["post-hoc"])
    kept = [chain["chain"] for chain in whole.chains[:5]]
    tables = {
        name: table if name in ("decodability", "bypass", "outcomes") else table[table["chain"].isin(kept)]
        for name, table in whole.tables.items()
    }
    found = compare(folders["faithful"], dataclasses.replace(whole, tables=tables, chains=whole.chains[:5]))
    assert found.info["problems"] == {"both": 5, "a": 8, "b": 5}
    assert found.difference("used")["n_a"] == found.difference("used")["n_b"] == 5


def test_another_seed_makes_independent_samples(folders):
    a, b = Audit.load(folders["faithful"]), Audit.load(folders["post-hoc"])
    paired = compare(a, b).difference("used")
    with pytest.warns(UserWarning, match=r"seed differs \(0 in A, 3 in B\)"):
        found = compare(a, changed(b, seed=3))
    row = found.difference("used")
    assert (row["difference"], row["paired"]) == (-1.0, False)
    assert row["high"] < 0
    assert not any(found.differences["paired"])
    assert not len(found.transitions)
    assert found.chains == []
    assert paired["paired"]


def test_accuracy_without_the_chain_is_compared_though_not_paired():
    audits = [by_hand({f"p{k}": [1.0] for k in range(16)}, [True] * 16) for _ in range(2)]
    shares = ({"value": 0.25, "n": 16}, {"value": 1.0, "n": 16})
    a, b = (
        dataclasses.replace(one, results={"accuracy": {"without_chain": share}}) for one, share in zip(audits, shares)
    )
    row = compare(a, b).difference("accuracy_without_chain")
    assert (row["a"], row["b"], row["difference"], row["paired"]) == (0.25, 1.0, 0.75, False)
    assert 0.3 < row["low"] < 0.75 < row["high"] <= 1
    row = compare(a, audits[1]).difference("accuracy_without_chain")
    assert (row["a"], row["difference"], row["missing"]) == (0.25, None, "not measured in B")


def test_scores_of_chains_are_those_of_the_audit():
    for folder in sorted((Path(__file__).parents[1] / "artifacts" / "audits").glob("*/audit.json")):
        kept = Audit.load(folder.parent)
        scores = [value for (value,) in chain_scores(kept).values()]
        told = kept.summary()["chain_score"]
        assert len(scores) == told["n"]
        assert sum(scores) / len(scores) == pytest.approx(told["value"])


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"replacements": 3}, r"replacements differs \(4 in A, 3 in B\)"),
        ({"probe_problems": 320}, r"probe_problems differs \(0 in A, 320 in B\)"),
        ({"chat": True}, r"chat differs \(False in A, True in B\)"),
        ({"temperature": 0.7}, r"temperature differs"),
        ({"versions": {"faithprobe": "0.0.9"}}, r"different versions of faithprobe \(.+ and 0\.0\.9\)"),
    ],
)
def test_plans_that_differ_are_warned_about_by_name(folders, info, words):
    a = Audit.load(folders["faithful"])
    with pytest.warns(UserWarning, match=words):
        found = compare(a, changed(a, **info))
    assert len(found.info["notes"]) == 1


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"task": "arithmetic"}, r"A is about the task 'organism', B about 'arithmetic'.*audit one of the models"),
        ({"task_options": {"variant": "x"}}, r"variant: 'modular' in A, 'x' in B.*same options"),
    ],
)
def test_other_problems_are_refused(folders, info, words):
    a = Audit.load(folders["faithful"])
    with pytest.raises(FaithprobeError, match=words):
        compare(a, changed(a, **info))


def test_problems_that_only_look_the_same_are_refused(folders):
    a = Audit.load(folders["faithful"])
    other = dataclasses.replace(a, chains=[{**chain, "true_answer": "99"} for chain in a.chains])
    with pytest.raises(FaithprobeError, match=r"no common problem: both audits asked the task 'organism' with seed 0"):
        compare(a, other)


def test_saved_and_loaded_it_is_the_same(folders, tmp_path):
    found = compare(folders["faithful"], folders["post-hoc"], out=tmp_path)
    again = Comparison.load(tmp_path)
    for name in ("differences", "transitions", "steps", "unscored"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name), check_dtype=False)
    assert (again.info, list(again.chains)) == (found.info, list(found.chains))
    assert again.summary() == found.summary()
    (tmp_path / "transitions.parquet").write_bytes(b"cut")
    with pytest.raises(StoreError, match=r"holds no whole comparison: transitions\.parquet is missing or damaged"):
        Comparison.load(tmp_path)


def test_a_comparison_can_lie_in_an_audits_folder(folders, tmp_path):
    before = {path.name: path.read_bytes() for path in folders["post-hoc"].iterdir() if path.is_file()}
    compare(folders["faithful"], folders["post-hoc"], out=folders["post-hoc"])
    assert {name: (folders["post-hoc"] / name).read_bytes() for name in before} == before


def test_in_a_notebook_it_is_a_table_and_text_stays_text():
    html = comparison()._repr_html_()
    assert "used (U)" in html
    assert "beyond zero" in html
    hostile = hostile_comparison()._repr_html_()
    assert HOSTILE[0] not in hostile
    assert "<script" not in hostile
    assert "<img" not in hostile


def faithprobe(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["faithprobe", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_the_command_prints_a_table_and_writes_the_page(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "compared"
    arguments = ("compare", folders["faithful"], folders["post-hoc"], "--out", out, "--names", "before,after")
    assert faithprobe(*arguments, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    row = Comparison.load(out).difference("used")
    assert f"-1.00 [-1.00, {row['high']:.2f}] *" in printed
    assert "A = before\nB = after" in printed
    assert "paired by problem: 8 problems were asked of both" in printed
    assert "…" not in printed
    assert str((out / "comparison.html").resolve()) in printed.replace("\n", "")
    assert (out / "comparison.html").stat().st_size > 10_000
    assert Comparison.load(out).info["command"].startswith("faithprobe compare ")
    assert faithprobe(*arguments[:3], monkeypatch=monkeypatch) == 0  # prints only
    assert "tables:" not in capsys.readouterr().out


def test_notes_are_printed_and_nothing_is_warned(folders, tmp_path, monkeypatch, capsys):
    other = changed(Audit.load(folders["post-hoc"]), replacements=3).save(tmp_path / "other")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert faithprobe("compare", folders["faithful"], other, monkeypatch=monkeypatch) == 0
    assert "note: replacements differs (4 in A, 3 in B)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("faithful", "A and B are the same folder"),
        ("nothing", "holds no audit: it is no folder; name a folder that `faithprobe audit --out` wrote"),
        ("", "holds no audit: it has no audit.json"),
    ],
)
def test_errors_of_the_command_are_one_line(folders, second, words, monkeypatch, capsys):
    first = folders["faithful"]
    assert faithprobe("compare", first, first.parent / second, monkeypatch=monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("faithprobe: ")
    assert words in line


def test_names_are_two(folders, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    first, second = folders.values()
    assert faithprobe("compare", first, second, "--names", "before", monkeypatch=monkeypatch) == 2
    assert "is not two names with a comma" in capsys.readouterr().err
