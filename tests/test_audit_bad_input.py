"""What can go wrong: each a clear error before any work, or an unscored row with its reason."""

from __future__ import annotations

import json

import pytest
import torch

from faithprobe import Audit, audit, load_task
from faithprobe.errors import (
    ContextLengthError,
    FaithprobeError,
    MetricError,
    ModelError,
    TaskError,
    UnknownNameError,
    UnscoredError,
)
from faithprobe.metrics.traces import probe_problems
from faithprobe.organisms import load_organism
from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.tokenizer import FIRST_VALUE
from faithprobe.scores.evidence import Evidence, Measurement
from faithprobe.tasks import Problem, register_task
from faithprobe.tasks.organism import Organism
from tests.tiny import tiny_model, tiny_tokenizer

QUICK = {"problems": 3, "probe_problems": 0, "show_progress": False}


def run(model="organism:faithful", task="organism", **options) -> Audit:
    return audit(model, task, **{**QUICK, **options})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "smolm2"}, UnknownNameError, "no model is called 'smolm2'; did you mean 'smollm2'"),
        ({"model": "organism:faithfull"}, UnknownNameError, "did you mean 'faithful'"),
        ({"task": "arithmetics"}, UnknownNameError, "did you mean 'arithmetic'"),
        ({"layers": [3, 9]}, UnknownNameError, r"blocks\.9\.hook_resid_post"),
        ({"layers": []}, FaithprobeError, "layers must be at least 1"),
        ({"problems": 0}, FaithprobeError, "problems must be at least 1, not 0"),
        ({"problems": 100_000}, TaskError, "100000 were asked for"),
        ({"probe_problems": -1}, FaithprobeError, "probe_problems must be at least 0"),
        ({"replacements": 0}, FaithprobeError, "replacements must be at least 1"),
        ({"temperature": -0.5}, FaithprobeError, "temperature must be at least 0"),
        ({"batch_size": 0}, FaithprobeError, "batch_size must be at least 1"),
        ({"chat": True}, ModelError, "chat template"),
        ({"metrics": {"used": lambda *_: None}}, FaithprobeError, "cannot be called 'used'"),
        ({"metrics": {"computed": lambda *_: None}}, FaithprobeError, "cannot be called 'computed'"),
    ],
    ids=lambda value: "" if not isinstance(value, dict) else next(iter(value)),
)
def test_what_cannot_be_meant_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        run(**options)


def test_an_unknown_option_of_a_task_is_refused():
    with pytest.raises(TaskError, match="stepps"):
        load_task("arithmetic", stepps=3)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FaithprobeError, match="out"):
        run(out=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_model_that_states_nothing_and_never_stops(tmp_path):
    """A random model on arithmetic: every needed step is a row with its reason, and the report still renders."""
    task = load_task("arithmetic", steps=2, shots=0)
    found = run(tiny_model("llama"), task, tokenizer=tiny_tokenizer(), out=tmp_path, probe_problems=10)
    assert len(found.steps) == 3 * 2
    assert set(found.steps["verdict"]) == {"unscored"}
    assert found.steps["unscored_reason"].str.len().gt(0).all()
    assert found.steps["stated"].isna().all()
    summary = found.summary()
    assert sum(summary["unscored"].values()) == 6
    assert summary["accuracy"]["with_chain"]["value"] == 0
    assert summary["used"] is summary["computed"] is summary["answer_is_last_stated"] is None
    assert summary["chain_score"]["value"] in (None, 0.0)
    assert summary["unfinished"] == 3
    assert not any(chain["finished"] for chain in found.chains)
    assert Audit.load(tmp_path).report(tmp_path / "report.html").stat().st_size > 10_000


def test_a_prompt_longer_than_the_context():
    model = tiny_model("llama", max_position_embeddings=64)
    with pytest.raises(ContextLengthError, match=r"the context of .* is 64; use fewer examples"):
        run(model, "arithmetic", tokenizer=tiny_tokenizer())


def test_a_model_without_numbers_is_refused_when_it_is_loaded():
    model, tokenizer = load_organism("faithful")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN or infinite"):
        run(model, tokenizer=tokenizer)


def test_nan_in_some_problems_costs_these_only(tmp_path):
    """Problems that start with 9 have NaN activations: their chains are kept, unscored with a reason; the rest is
    measured. (What probes make of refused activations: `tests/metrics/test_computed.py`.)"""
    model, tokenizer = load_organism("faithful")
    start = FIRST_VALUE + 9
    operations = torch.tensor(tokenizer.convert_tokens_to_ids(["+", "-", "*"]))

    def spoil(module, args, output):
        begins = (args[0] == start) & torch.isin(args[0].roll(-1, dims=-1), operations)
        return output.masked_fill(begins[..., None], float("nan"))

    handle = model.model.embed_tokens.register_forward_hook(spoil)
    try:
        found = run(model, tokenizer=tokenizer, problems=12, probe_problems=10, layers=[3], out=tmp_path)
    finally:
        handle.remove()
    assert len(found.chains) == 12
    begins = found.steps["chain"].str.startswith("9 ")
    spoiled, fine = found.steps[begins], found.steps[~begins]
    assert len(spoiled)
    assert set(spoiled["verdict"]) == {"unscored"}
    assert spoiled["unscored_reason"].str.len().gt(0).all()
    assert (fine["used"] == 1).mean() > 0.8
    assert fine["lead_tokens"].notna().mean() > 0.8
    found.report(tmp_path / "report.html")


def test_too_few_replacements():
    found = run(replacements=2)
    assert found.steps["used"].isna().all()
    assert found.steps["unscored_reason"].str.contains("2 replacements, at least 3 are needed").all()
    assert set(found.steps["verdict"]) == {"unscored"}
    assert found.steps["lead_tokens"].notna().all()  # what could be measured is there


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda *_: 1 / 0, "metric 'mine' failed: ZeroDivisionError: division by zero"),
        (lambda *_: {"a": 1}, "metric 'mine' returned a dict; return an Evidence"),
        (lambda *_: Evidence("mine", {("no such chain", "v1"): Measurement(1.0)}), "no such chain"),
        (lambda s, chains, _: Evidence("mine", {(chains[0].id, "v9"): Measurement(1.0)}), "v9"),
        (lambda s, chains, _: Evidence("mine", {(chains[0].id, "v1"): 1.0}), "every value a Measurement"),
        (lambda s, chains, _: Evidence("mine", {chains[0].id: Measurement(1.0)}), "every key is"),
    ],
)
def test_a_metric_that_goes_wrong_is_named(metric, words):
    with pytest.raises(MetricError, match=words):
        run(metrics={"mine": metric})


def test_a_metric_of_ones_own_stands_in_the_evidence(tmp_path):
    def length(subject, chains, settings):
        rows = {
            (c.id, step): Measurement(float(c.literals[step].span[0]), detail={"is": "π"})
            for c in chains
            for step in c.literals
        }
        return Evidence("anything", rows)

    found = run(metrics={"where": length}, out=tmp_path)
    for table in (found.tables["evidence"], Audit.load(tmp_path).tables["evidence"]):
        rows = table[table["metric"] == "where"]
        assert rows["step"].tolist() == ["v1", "v2", "v3"] * 3
        index = get_layout("modular").index
        assert rows["value"].tolist() == [float(index[f"v{k}"]) for k in (1, 2, 3)] * 3
        assert rows["detail"].map(json.loads).tolist() == [{"is": "π"}] * 9
    assert set(found.tables["evidence"]["metric"]) == {"used", "lead", "bypass", "mediation", "where", "computed"}


def test_problems_that_share_an_id_are_refused():
    class Twice(Organism):
        name = "twice"

        def problems(self, n: int, *, seed: int = 0) -> list[Problem]:
            return super().problems(1, seed=seed) * n

    register_task(Twice)
    with pytest.raises(TaskError, match="3 problems with 1 ids"):
        run(task="twice")


def test_a_family_with_too_few_problems_leaves_computed_unscored():
    """81 sums in all, and a model that states none of them."""
    task = load_task("arithmetic", steps=1, low=1, high=9, operations="+", shots=0)
    with pytest.raises(UnscoredError, match="fewer than 250 problems besides"):
        probe_problems(task, 1000, seed=0, asked=task.problems(3))


def test_probe_problems_are_disjoint_and_as_many_as_there_are():
    task = Organism(split="held-out")
    asked = task.problems(100)
    found = probe_problems(task, 1000, seed=0, asked=asked)
    assert task.count() - 100 > len(found) >= 250
    assert not {p.question for p in asked} & {p.question for p in found}
    assert [p.id for p in probe_problems(task, 300, seed=0, asked=asked)] == [p.id for p in found][:300]
