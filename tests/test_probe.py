"""`faithprobe.probe` from end to end: what it finds, that it goes on where it was, and what it refuses."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from faithprobe import FaithprobeError, Probes, load_model, probe
from faithprobe.chains.capture import probe_positions, probe_sites, record_forced
from faithprobe.chains.store import Trace
from faithprobe.errors import StoreError, UnknownNameError
from faithprobe.metrics.traces import force_and_store, forced_chains
from faithprobe.organisms.networks import OrganismName
from faithprobe.probes.estimator import MIXED
from tests.models.test_sites import bridge_of
from tests.subjects import arithmetic, organism

JOB = import_module("faithprobe.probe")  # the package's own `probe` is the function
QUICK = {"problems": 400, "layers": [3], "shuffles": 2, "show_progress": False, "responses": "reference"}


def run(name: str, out: Path, **options: object) -> Probes:
    task = OrganismName.parse(name).task()
    return probe(f"organism:{name}", task, out=out, **{**QUICK, **options})


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Probes]:
    """Two organisms that print the same chains."""
    out = tmp_path_factory.mktemp("found")
    names = ("post-hoc", "faithful")
    return {name: run(name, out / name, layers=[2, 3], responses="generated") for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Probes:
    """A run that nothing interrupted."""
    return run("post-hoc", tmp_path_factory.mktemp("whole"))


def beyond(probes: Probes, step: str, position: str, target: str = "class") -> pd.Series:
    rows = probes.sources
    rows = rows[rows["chosen"] & (rows["source"] == "beyond control")]
    (row,) = rows[(rows["step"] == step) & (rows["position"] == position) & (rows["target"] == target)].to_dict(
        "records"
    )
    return row


def assert_same(a: Probes, b: Probes, *, within: float = 0.0) -> None:
    assert a.weights.keys() == b.weights.keys()
    for name, tensor in a.weights.items():
        torch.testing.assert_close(tensor, b.weights[name], rtol=within, atol=within)
    exact = {"check_exact": True} if not within else {"rtol": within, "atol": within}
    pd.testing.assert_frame_equal(a.sources, b.sources, **exact)
    pd.testing.assert_frame_equal(a.pointwise, b.pointwise, **exact)


def test_what_is_known_before_the_chain_tells_two_networks_apart(found):
    """By construction: post-hoc has the last value before the first token of the chain, faithful only at its turn."""
    early, late = (beyond(found[name], "v3", "before") for name in ("post-hoc", "faithful"))
    assert early["low"] > 0.8 * early["entropy"]
    assert late["score"] < 0.1 * late["entropy"]
    for probes in found.values():
        assert beyond(probes, "v3", "predicting")["low"] > 0.8 * late["entropy"]
        assert beyond(probes, "v1", "ahead")["score"] < 0.1 * late["entropy"]


def test_what_was_not_probed_is_listed_with_its_reason(found, tmp_path):
    assert found["faithful"].info["unscored"] == {}
    with pytest.raises(FaithprobeError, match=r"no place could be probed: v1/before: .*held-out operand combinations"):
        run("faithful", tmp_path, problems=12)


def test_a_model_that_writes_the_reference_gives_the_same_probes_either_way(found, tmp_path):
    own = found["faithful"]
    forced = run("faithful", tmp_path, layers=[2, 3], responses="reference")
    assert forced.sources["n_train"].tolist() == own.sources["n_train"].tolist()
    assert forced.pointwise["chain"].tolist() == own.pointwise["chain"].tolist()
    np.testing.assert_allclose(forced.sources["score"], own.sources["score"], atol=1e-3)


@pytest.mark.parametrize("responses", ["reference", "generated"])
def test_an_interrupted_run_goes_on_and_ends_bit_for_bit_the_same(responses, whole, tmp_path, monkeypatch):
    if responses == "generated":
        whole = run("post-hoc", tmp_path / "whole", responses=responses, temperature=0.5)
    options = {"responses": responses, "temperature": 0.5 if responses == "generated" else 0.0}
    interrupt(tmp_path / "cut", monkeypatch, **options)
    read = count_parts(monkeypatch)
    assert_same(run("post-hoc", tmp_path / "cut", **options), whole)
    assert len(read) == 5  # of seven
    assert sorted(path.name for path in (tmp_path / "cut" / "work").iterdir()) == ["run.json"]


def interrupt(out: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> Path:
    """A run that dies while it reads the third of its seven parts; its checkpoint."""
    with monkeypatch.context() as patched:
        patched.setattr(JOB, "SECONDS", 0.0)
        read = count_parts(patched, last=2)
        with pytest.raises(KeyboardInterrupt):
            run("post-hoc", out, **options)
        assert len(read) == 3
    return out / "work" / "moments-0-of-1.safetensors"


def count_parts(monkeypatch: pytest.MonkeyPatch, *, last: int = 1000) -> list[int]:
    add, read = JOB.Collector.add, []

    def counted(self, observed):
        read.append(len(observed))
        if len(read) > last:
            raise KeyboardInterrupt
        add(self, observed)

    monkeypatch.setattr(JOB.Collector, "add", counted)
    return read


def test_a_finished_folder_is_loaded_and_not_computed_again(tmp_path, monkeypatch):
    first = run("post-hoc", tmp_path)
    monkeypatch.setattr(JOB, "_read_all", lambda *_: pytest.fail("read again"))
    assert_same(run("post-hoc", tmp_path), first)


def test_a_folder_of_another_run_is_refused(tmp_path, monkeypatch):
    checkpoint = interrupt(tmp_path, monkeypatch)
    for options, words in (({"seed": 1}, "seed: 0 there, 1 asked for"), ({"layers": [2]}, r"layers: \[3\] there")):
        with pytest.raises(StoreError, match=words):
            run("post-hoc", tmp_path, **options)
    monkeypatch.setattr(JOB.Processes, "now", classmethod(lambda cls: cls(0, 2)))
    with pytest.raises(StoreError, match="begun with 1 processes, not 2"):
        run("post-hoc", tmp_path)
    assert checkpoint.exists()


def test_a_damaged_checkpoint_is_refused_with_the_way_out(whole, tmp_path, monkeypatch):
    checkpoint = interrupt(tmp_path, monkeypatch)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(StoreError, match="delete it"):
        run("post-hoc", tmp_path)
    checkpoint.unlink()
    assert_same(run("post-hoc", tmp_path), whole)


@pytest.mark.slow
def test_two_processes_give_the_probes_of_one(tmp_path):
    options = ["--problems", "400", "--layers", "3", "--shuffles", "2", "--no-report", "--out", str(tmp_path / "two")]
    command = ["probe", "--model", "organism:post-hoc", "--task", "organism", *options]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "faithprobe", *command], capture_output=True, text=True, timeout=120, env=one_thread()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("probes and tables") == 1  # the first process speaks for all
    two = Probes.load(tmp_path / "two")
    assert two.info["processes"] == 2
    one = run("post-hoc", tmp_path / "one", responses="generated")
    assert one.info["processes"] == 1
    assert_same(two, one, within=1e-5)
    assert sorted(path.name for path in (tmp_path / "two" / "work").iterdir()) == ["run.json"]
    assert_same(run("post-hoc", tmp_path / "two", responses="generated"), two)  # one process may load it


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_probes_are_refused_on_another_model_and_where_a_file_is_missing_or_damaged(whole, tmp_path):
    whole.save(tmp_path)
    assert_same(Probes.load(tmp_path, model=load_model("organism:post-hoc")), whole)
    with pytest.raises(StoreError, match=r"fitted on organism:post-hoc .* not on organism:post-hoc@1"):
        Probes.load(tmp_path, model=load_model("organism:post-hoc@1"))
    for name in ("sources.parquet", "pointwise.parquet", "probes.safetensors", "config.json"):
        path, content = tmp_path / name, (tmp_path / name).read_bytes()
        for damage in (content[: len(content) // 2], b"", None):
            path.unlink() if damage is None else path.write_bytes(damage)
            with pytest.raises(StoreError, match="holds no whole probes"):
                Probes.load(tmp_path)
        path.write_bytes(content)


def test_predictions_reproduce_the_held_out_bits(whole):
    """From nothing but weights and activations that are captured anew."""
    subject = organism("post-hoc")
    kept = whole.pointwise[(whole.pointwise["step"] == "v3") & (whole.pointwise["target"] == "class")]
    problems = {problem.id: problem for problem in subject.task.problems(400, seed=0)}
    assert set(kept["position"]) == {"before", "ahead", "predicting"}
    for position, rows in kept.groupby("position"):
        chains = list(forced_chains(subject, [problems[name] for name in rows["chain"]], like=" "))
        at = [probe_positions(chain, "v3")[position] for chain in chains]
        x = activations(subject, chains, at, whole.chosen(step="v3", target="class", position=position))
        probabilities = whole.predict(x, step="v3", target="class", position=position)
        classes = whole.info["classes"]["v3/class"]
        true = [classes.index(str(chain.values["v3"])) for chain in chains]
        null = 2 ** -rows["surprisal"].to_numpy()
        mixed = (1 - MIXED) * probabilities[np.arange(len(true)), true] + MIXED * null
        np.testing.assert_allclose(np.log2(mixed / null), rows["bits"], atol=1e-6)
        assert len(rows) > 20


def activations(subject, chains, positions, layer) -> torch.Tensor:
    """(items, d_model) of the residual stream."""
    recorded = record_forced(
        subject.model,
        [chain.tokens for chain in chains],
        [[position] for position in positions],
        [f"blocks.{layer}.hook_resid_post"],
        prefixes=subject.prefixes,
    )
    return torch.cat([row.activations[:, 0] for row in sorted(recorded, key=lambda row: row.index)])


@pytest.mark.parametrize("target", ["last digit", "value"])
def test_every_kind_of_activations_gives_the_same_predictions(target, tmp_path):
    subject = arithmetic(high=20)
    probes = probe(subject.model, subject.task, out=tmp_path / "probes", **{**QUICK, "problems": 300, "layers": [0, 2]})
    chains = list(forced_chains(subject, subject.task.problems(4, seed=7), like=" "))
    at = [probe_positions(chain, "v2")["predicting"] for chain in chains]
    layer = 2
    asked = {"step": "v2", "target": target, "layer": layer}
    x = activations(subject, chains, at, layer)
    expected = probes.predict(x, **asked)
    assert expected.shape == ((4,) if target == "value" else (4, len(probes.info["classes"]["v2/last digit"])))

    cache = at_positions(bridge_of(subject.model.hf), chains, at)
    force_and_store(
        subject.model, chains, probe_sites([0, 2]), tmp_path / "store", prefixes=subject.prefixes, batch_size=4
    )
    for given in (
        x.numpy(),
        x.double().requires_grad_(),
        {f"blocks.{layer}.hook_resid_post": x},
        {f"blocks.{layer}.hook_out": x},
        cache,
        Trace(tmp_path / "store"),
    ):
        np.testing.assert_allclose(probes.predict(given, **asked), expected, atol=1e-3 * np.abs(expected).max())


def at_positions(bridge, chains, positions):
    """An ActivationCache of TransformerLens whose residual streams are those at one position of each chain."""
    caches = [bridge.run_with_cache(torch.tensor([chain.tokens]))[1] for chain in chains]
    cache = caches[0]
    for name in [name for name in cache.cache_dict if name.endswith(("hook_resid_post", "hook_out"))]:
        if cache[name].ndim == 3:
            pairs = zip(caches, positions, strict=True)
            cache.cache_dict[name] = torch.stack([other[name][0, position] for other, position in pairs])
    return cache


def test_what_was_not_probed_cannot_be_asked_for(whole):
    x = torch.zeros(1, whole.weights["v3/before/last digit.coef"].shape[1])
    for asked, words in (
        ({"step": "v4", "target": "last digit"}, "v4/predicting/last digit"),
        ({"step": "v3", "target": "last digits"}, "v3/predicting/last digit"),
        ({"step": "v3", "target": "last digit", "layer": 1}, "no probed layer is called '1'"),
    ):
        with pytest.raises(UnknownNameError, match=words):
            whole.predict(x, **asked)
    with pytest.raises(UnknownNameError, match=r"blocks\.3\.hook_resid_post"):
        whole.predict({"blocks.1.hook_out": x}, step="v3", target="last digit")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"problems": 0}, "problems must be at least 1, not 0"),
        ({"problems": 10_000}, "organism has 8019 problems"),
        ({"problems": 12}, "held-out operand combinations, at least 8 are needed"),
        ({"layers": [99]}, "blocks.99.hook_resid_post"),
        ({"layers": []}, "layers must be at least 1, not 0"),
        ({"responses": "x"}, "responses must be 'generated' or 'reference', not 'x'"),
        ({"moduli": [1]}, "moduli must be at least 2, not 1"),
        ({"shuffles": -1}, "shuffles must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_named(options, words, tmp_path):
    with pytest.raises(FaithprobeError, match=words):
        run("faithful", tmp_path / "out", **options)


def test_chains_problems_and_activations_are_gone_when_probes_are_fitted(tmp_path, monkeypatch):
    """But for held-out items of the first problems, which are copies. `make bench BENCH=probe_memory` measures the
    memory of 2,000 and of 20,000 problems."""
    add, conclude, seen, held = JOB.Collector.add, JOB._conclude, [], []

    def watched(self, observed):
        seen.extend(weakref.ref(part) for one in observed for part in (one.chain, one.chain.problem, one.activations))
        add(self, observed)
        held.append(sum(tensor.nbytes for tensor in self.state()[0].values()))

    def checked(*arguments):
        gc.collect()
        alive = [ref() for ref in seen if ref() is not None]
        assert len(seen) == 3 * 400
        assert not alive, alive[:3]
        return conclude(*arguments)

    monkeypatch.setattr(JOB, "HELD_OUT_PROBLEMS", 192)
    monkeypatch.setattr(JOB.Collector, "add", watched)
    monkeypatch.setattr(JOB, "_conclude", checked)
    run("post-hoc", tmp_path)
    assert held[0] < held[2]
    assert held[2:] == [held[2]] * 5  # the first three of seven parts are 192 problems
