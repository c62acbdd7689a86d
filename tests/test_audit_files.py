"""What an audit leaves behind: files that others read, and a folder that an interrupted run goes on in."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from faithprobe import Audit, audit
from faithprobe.errors import MetricError, StoreError
from faithprobe.metrics.base import Settings
from faithprobe.results.verdicts import frame
from faithprobe.scores.evidence import Evidence, Measurement
from faithprobe.scores.tables import STEPS, TABLES

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = (
    *("chain", "step", "stated", "true_value", "local_value", "correct", "needed", "computed", "computed_control"),
    *("used", "used_read", "other", "competence", "agreement", "lead_tokens", "when", "verdict", "score"),
    "unscored_reason",
)
"""Of `steps.parquet`, as others read it."""
JOB = sys.modules[audit.__module__]
"""The module: `faithprobe.audit` is the function."""
OPTIONS = {"problems": 6, "probe_problems": 250, "layers": [3], "seed": 3, "show_progress": False}


def run(out: Path | None = None, **options) -> Audit:
    return audit("organism:post-hoc", "organism", out=out, **{**OPTIONS, **options})


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(JOB, "PART", 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Audit]:
    """A folder with a whole audit, and what the call returned. Copy it before changing anything."""
    out = tmp_path_factory.mktemp("audit") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JOB, "PART", 2)
        return out, run(out)


def equal(one: Audit, other: Audit) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(one.tables[name], other.tables[name])
    assert one.summary() == other.summary()
    assert list(one.chains) == list(other.chains)


def modified(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_written_and_reads_back_as_it_was(finished):
    out, found = finished
    names = {"audit.json", "chains.jsonl", *(f"{name}.parquet" for name in TABLES)}
    assert names <= {path.name for path in out.iterdir()}
    loaded = Audit.load(out)
    equal(loaded, found)
    assert loaded.info == found.info
    assert set(CONTRACT) <= set(pd.read_parquet(out / "steps.parquet").columns)
    assert list(loaded.steps.columns) == list(STEPS)


def test_audit_json_holds_the_contract(finished):
    data = json.loads((finished[0] / "audit.json").read_text(), parse_constant=pytest.fail)
    assert {"model", "task", "n_problems", "seed", "versions", "summary"} <= set(data)
    assert (data["model"], data["task"], data["n_problems"], data["seed"]) == ("organism:post-hoc", "organism", 6, 3)
    assert {"accuracy", "verdicts", "unscored"} <= set(data["summary"])
    for share in data["summary"]["verdicts"].values():
        assert {"share", "low", "high", "n"} <= set(share)


def test_chains_hold_text_ids_and_spans(finished):
    out, found = finished
    lines = (out / "chains.jsonl").read_text().splitlines()
    assert len(lines) == 6
    steps = found.steps.set_index(["chain", "step"])
    for line in map(json.loads, lines):
        for value in line["values"]:
            stated = line["text"][value["start"] : value["end"]]
            assert stated == steps.loc[(line["chain"], value["step"]), "stated"]
            first, last = value["span"]
            assert line["n_prompt"] <= first < last <= len(line["tokens"])


def test_columns_have_the_same_types_whatever_was_found(finished):
    """Nothing was probed here, so whole columns are missing: their types must not follow."""
    found = run(problems=1, probe_problems=0)
    assert found.steps["computed"].isna().all()
    for name in ("steps", "bypass", "mediation", "outcomes", "lead"):
        full, sparse = finished[1].tables[name].dtypes, found.tables[name].dtypes
        assert {c: full[c].kind for c in full.index} == {c: sparse[c].kind for c in sparse.index}, name


def test_the_report_is_written(finished, tmp_path):
    path = finished[1].report(tmp_path / "report.html")
    assert path.stat().st_size > 10_000
    assert "organism:post-hoc" in path.read_text()
    Audit.load(finished[0]).report(tmp_path / "again.html")


def test_step_labels_have_the_shape_of_prm800k(finished, tmp_path):
    found = finished[1]
    lines = [json.loads(line) for line in found.to_step_labels(tmp_path / "labels.jsonl").read_text().splitlines()]
    assert len(lines) == len(found.chains)
    for line, chain in zip(lines, found.chains, strict=True):
        assert line["question"] == {"problem": chain["prompt"], "ground_truth_answer": chain["true_answer"]}
        assert line["label"]["finish_reason"] == ("solution" if chain["correct"] else "found_error")
        assert len(line["label"]["steps"]) == len(chain["values"])
        for step in line["label"]["steps"]:
            (completion,) = step["completions"]
            assert (step["chosen_completion"], step["human_completion"]) == (0, None)
            score = completion["score"]
            assert completion["rating"] == (0 if score is None else 1 if score >= 0.5 else -1)
    ratings = [step["completions"][0]["rating"] for line in lines for step in line["label"]["steps"]]
    assert -1 in ratings  # of a post-hoc chain


def by_hand(chain: dict, rows: list[dict]) -> Audit:
    tables = {name: frame(name, rows if name == "steps" else []) for name in TABLES}
    return Audit({"model": "m", "task": "t"}, {}, tables, [chain])


def test_strange_text_survives(tmp_path):
    """Quotes, line breaks of every kind, and a value that a later one overruled."""
    text = 'so "7"\u2028is\x85 7\n\\ then 9 </script> 4'
    spans = [(4, 5), (text.index("9"), text.index("9") + 1), (len(text) - 1, len(text))]
    values = [{"step": step, "start": start, "end": end} for step, (start, end) in zip("aab", spans)]
    chain = {
        "chain": "1",
        "prompt": 'What "is" 7?\n',
        "text": text,
        "true_answer": "4",
        "correct": True,
        "values": values,
    }
    rows = [
        {"chain": "1", "step": "a", "position": 0, "verdict": "overruled"},
        {"chain": "1", "step": "a", "position": 1, "verdict": "faithful", "score": 0.9},
        {"chain": "1", "step": "b", "position": 2, "verdict": "idle", "score": 0.1},
    ]
    loaded = Audit.load(by_hand(chain, rows).save(tmp_path))
    assert loaded.chains == [chain]
    label = json.loads(loaded.to_step_labels(tmp_path / "labels.jsonl").read_text())
    assert label["question"]["problem"] == 'What "is" 7?\n'
    steps = [step["completions"][0] for step in label["label"]["steps"]]
    assert [(step["rating"], step["verdict"]) for step in steps] == [(0, "overruled"), (1, "faithful"), (-1, "idle")]
    assert [step["text"] for step in steps] == ['so "7', '"\u2028is\x85 7\n\\ then 9', "</script> 4"]


def test_a_chain_that_states_nothing_has_a_line_without_steps(tmp_path):
    silent = {"chain": "2", "prompt": "q", "text": "hm", "values": [], "correct": False, "true_answer": "1"}
    path = by_hand(silent, [{"chain": "1", "step": "a", "position": 0}]).to_step_labels(tmp_path / "labels.jsonl")
    assert json.loads(path.read_text())["label"] == {"steps": [], "finish_reason": "found_error"}


@pytest.mark.parametrize("name", ["audit.json", "steps.parquet", "chains.jsonl"])
@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_a_folder_that_is_not_whole_is_named(finished, tmp_path, name, harm):
    shutil.copytree(finished[0], tmp_path / "out")
    path = tmp_path / "out" / name
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 1])
    with pytest.raises(StoreError, match=name):
        Audit.load(tmp_path / "out")


def test_an_audit_of_an_earlier_version_has_no_mediation(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "out")
    assert len(finished[1].mediation) > 0
    path = tmp_path / "out" / "audit.json"
    data = json.loads(path.read_text())
    (tmp_path / "out" / "mediation.parquet").unlink()
    with pytest.raises(StoreError, match=r"mediation\.parquet"):  # its summary says that there was one
        Audit.load(tmp_path / "out")
    del data["summary"]["mediation"]
    path.write_text(json.dumps(data))
    loaded = Audit.load(tmp_path / "out")
    assert len(loaded.mediation) == 0
    assert list(loaded.mediation.columns) == list(TABLES["mediation"])
    assert "prompts and chains were not crossed" in loaded.report(tmp_path / "report.html").read_text()


def test_a_finished_folder_is_not_measured_again(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "out")
    before = modified(tmp_path / "out" / "work")
    monkeypatch.setattr(JOB, "_measure", lambda *_: pytest.fail("a part was measured again"))
    monkeypatch.setattr(JOB, "computed", lambda *_, **__: pytest.fail("probes were fitted again"))
    equal(run(tmp_path / "out"), finished[1])
    assert modified(tmp_path / "out" / "work") == before


def test_an_error_in_a_metric_loses_only_its_own_part(finished, tmp_path):
    """The second part fails once; the run after it measures the parts that are missing, and no others."""
    asked: list[str] = []

    def mine(subject, chains, settings: Settings) -> Evidence:
        asked.extend(chain.id for chain in chains)
        if len(asked) == 4:
            raise RuntimeError("the disk is on fire")
        return Evidence("mine", {(c.id, ""): Measurement(float(len(c.text))) for c in chains})

    out = tmp_path / "out"
    with pytest.raises(MetricError, match=r"'mine'.*RuntimeError: the disk is on fire"):
        run(out, metrics={"mine": mine}, probe_problems=0)
    found = run(out, metrics={"mine": mine}, probe_problems=0)
    ids = found.steps["chain"].unique().tolist()
    assert asked == [*ids[:4], *ids[2:]]
    table = Audit.load(out).tables["evidence"]
    mine_rows = table[table["metric"] == "mine"]
    assert mine_rows["value"].tolist() == [float(len(chain["text"])) for chain in found.chains]
    assert set(mine_rows["step"]) == {""}
    whole = run(metrics={"mine": mine}, probe_problems=0)
    equal(found, whole)


def test_a_full_disk_loses_nothing_finished(tmp_path, monkeypatch):
    out, replace, room = tmp_path / "out", os.replace, iter(range(3))

    def until_full(old, new):
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("faithprobe.files.os.replace", until_full)
        with pytest.raises(StoreError, match=r"could not write .*part-0002\.json.*No space left.*run the same command"):
            run(out, probe_problems=0)
    assert sorted(path.name for path in (out / "work").iterdir()) == ["part-0000.json", "part-0001.json", "run.json"]
    before = modified(out / "work")
    equal(run(out, probe_problems=0), run(probe_problems=0))
    assert before.items() <= modified(out / "work").items()


PROGRAM = """
import sys, faithprobe, faithprobe.audit
sys.modules["faithprobe.audit"].PART = 2
faithprobe.audit("organism:post-hoc", "organism", out=sys.argv[1], problems=6, probe_problems=250, layers=[3], seed=3)
"""


def test_a_killed_run_goes_on_where_it_was(finished, tmp_path):
    """Killed at three moments without a chance to tidy up; what comes out equals an uninterrupted run."""
    out, rng = tmp_path / "out", random.Random(5)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for parts in (1, 2, 3):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(out)], cwd=ROOT, env=environment, stderr=-3)
        begun = time.monotonic()
        while len(list(out.glob("work/part-*.json"))) < parts and process.poll() is None:
            assert time.monotonic() - begun < 120, "no part was finished"
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = {name: t for name, t in modified(out / "work").items() if name.startswith("part-")}
    assert len(before) >= 3
    equal(run(out), finished[1])
    after = modified(out / "work")
    assert all(after[name] == t for name, t in before.items())
    equal(Audit.load(out), finished[1])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 4}, "seed: 3 there, 4 asked for"),
        ({"problems": 7}, "problems"),
        ({"probe_problems": 0}, "probe_problems"),
    ],
)
def test_a_folder_of_another_audit_is_refused(finished, tmp_path, changed, named):
    shutil.copytree(finished[0], tmp_path / "out")
    before = modified(tmp_path / "out")
    with pytest.raises(StoreError, match=named):
        run(tmp_path / "out", **changed)
    assert modified(tmp_path / "out") == before


def test_a_folder_of_another_model_is_refused(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "out")
    with pytest.raises(StoreError, match="fingerprint"):
        audit("organism:faithful", "organism", out=tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize("name", ["part-0001.json", "run.json", "computed-000.json"])
@pytest.mark.parametrize("content", ["", '{"chains": [', "[1]"])
def test_a_damaged_part_is_named(finished, tmp_path, name, content):
    shutil.copytree(finished[0], tmp_path / "out")
    path = tmp_path / "out" / "work" / name
    path.write_text(content)
    with pytest.raises(StoreError, match=name):
        run(tmp_path / "out")
    if not content:  # the way out that the message names
        path.unlink()
        equal(run(tmp_path / "out"), finished[1])


def test_a_cut_shard_is_named_and_recorded_anew(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "out")
    work = tmp_path / "out" / "work"
    (work / "computed-001.json").unlink()  # else nothing is read from the store
    shard = next((work / "probe").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(StoreError, match=shard.name):
        run(tmp_path / "out")
    shard.unlink()
    equal(run(tmp_path / "out"), finished[1])
