"""The stop rule on histories made by hand, the guard's file, and the callback in a real trainer."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from faithprobe.chains.subject import Subject
from faithprobe.errors import FaithprobeError, ModelError, StoreError
from faithprobe.models import load_model
from faithprobe.tasks.organism import Organism
from faithprobe.training import callback as module
from faithprobe.training.callback import FILE, GoodhartCallback, Guard, StopRule
from faithprobe.training.evaluate import Evaluation, Score
from tests.subjects import organism

PROBLEMS = Organism(split="held-out").problems(3)


def score(value, width=0.05):
    if value is None:
        return Score(None, unscored={"for want of it": 3})
    return Score(value, max(0.0, value - width), min(1.0, value + width), 40, 80)


def evaluation(swap, exchange, accuracy=1.0, width=0.05):
    evidence = {"swap": score(swap, width), "exchange": score(exchange, width)}
    return Evaluation(score(accuracy, width), evidence, {"swap": {}}, {}, ("swap",), 0.5)


def history(*numbers, width=0.05):
    """Checks at steps 0, 10, ...: (swap, exchange) or (swap, exchange, accuracy)."""
    return [{"step": 10 * k, **evaluation(*each, width=width).record()} for k, each in enumerate(numbers)]


@pytest.fixture
def planned(monkeypatch):
    """Evaluations in the order in which they will be asked for, in place of a model's; what was asked is kept."""

    def plan(*numbers):
        waiting, asked = [evaluation(*each) for each in numbers], []

        def stub(subject, problems, **options):
            asked.append(subject.model.hf.training)
            return waiting.pop(0)

        monkeypatch.setattr(module, "evaluate_training", stub)
        return asked

    return plan


def test_a_gap_stops_when_its_interval_is_beyond_the_limit_often_enough():
    rule = StopRule(max_gap=0.2, patience=2)
    wide, narrow = history((0.5, 0.5), (0.9, 0.5), (0.9, 0.5), width=0.2), history((0.5, 0.5), (0.9, 0.5), (0.9, 0.5))
    assert rule.reason(wide) == "", "a gap of .4 in [.12, ..]: it may be less than the limit"
    assert "Goodhart gap is 0.40 (95% interval 0.33 to 0.47), beyond the limit of 0.2" in rule.reason(narrow)
    assert rule.reason(narrow[:2]) == "", "once is not often enough"
    assert rule.reason(history((0.9, 0.5), (0.5, 0.5), (0.9, 0.5))) == "", "not in a row"
    assert StopRule(max_gap=0.2, patience=1).reason(narrow[:2])
    assert StopRule(max_gap=None).reason(narrow) == ""
    assert rule.reason(history((0.9, None), (0.9, None))) == "", "what was not measured stops nothing"
    assert rule.reason([]) == ""


def test_accuracy_is_held_against_the_best_that_was_seen():
    rule = StopRule(max_gap=None, max_accuracy_drop=0.1, patience=1)
    climbing = [(0.5, 0.5, a) for a in (0.2, 0.9, 0.85, 0.6)]
    assert [bool(rule.reason(history(*climbing[: k + 1]))) for k in range(4)] == [False, False, False, True]
    assert "the fall of accuracy is 0.30" in rule.reason(history(*climbing))
    assert StopRule(max_gap=None, max_accuracy_drop=None, patience=1).reason(history(*climbing)) == ""


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"max_gap": -0.1}, {"max_accuracy_drop": 2}])
def test_a_rule_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StopRule(**wrong)


def test_a_guard_goes_on_with_its_file(planned, tmp_path, caplog):
    path = tmp_path / "deep" / "history.json"
    planned((0.5, 0.5), (0.9, 0.5), (0.9, 0.5), (0.6, 0.6))
    subject = organism("faithful")
    guard = Guard(subject, PROBLEMS, path=path)
    with caplog.at_level(logging.WARNING):
        assert guard.check(0) == evaluation(0.5, 0.5)
        guard.check(10)
        assert (guard.reason, caplog.messages) == ("", [])
        guard.check(20)
    assert "Goodhart gap" in guard.reason
    assert caplog.messages == [f"step 20: training is to stop: {guard.reason}"]
    assert [entry.name for entry in path.parent.iterdir()] == ["history.json"], "nothing temporary is left"
    resumed = Guard(subject, PROBLEMS, path=path)
    assert resumed.history == guard.history
    assert resumed.reason == guard.reason
    resumed.check(20)  # resumed from before step 20, which is measured again
    assert [(record["step"], record["held_out_score"]) for record in resumed.history] == [
        (0, 0.5),
        (10, 0.5),
        (20, 0.6),
    ]
    assert resumed.reason == ""
    assert json.loads(path.read_text())["history"] == resumed.history


def test_the_file_of_another_guard_is_refused(planned, tmp_path):
    planned((0.5, 0.5))
    subject, path = organism("faithful"), tmp_path / "history.json"
    Guard(subject, PROBLEMS, path=path).check(0)
    with pytest.raises(StoreError, match="trained_on='counterfactual'"):
        Guard(subject, PROBLEMS, path=path, trained_on="interchange")
    with pytest.raises(StoreError, match="problems"):
        Guard(subject, PROBLEMS[:2], path=path)
    for damaged in ("", "[]", '{"guard": {}}'):
        path.write_text(damaged)
        with pytest.raises(StoreError, match="no history of a guard"):
            Guard(subject, PROBLEMS, path=path)


def test_a_guard_measures_a_model():
    guard = Guard(organism("faithful"), PROBLEMS)
    found = guard.check(5)
    assert (found.held_out_score.value, guard.reason) == (1, "")
    assert guard.history[0]["step"] == 5
    assert guard.history[0]["goodhart_gap"] == 0


def test_other_processes_hear_what_the_first_one_decided(planned, monkeypatch):
    asked = planned((0.9, 0.5))
    first = Guard(organism("faithful"), PROBLEMS, StopRule(patience=1))
    first.check(7)
    message = {"record": first.history[0]}
    monkeypatch.setattr(module, "_processes", lambda: (1, 2))
    monkeypatch.setattr(module, "_from_the_first", lambda mine: message)
    other = Guard(organism("faithful"), PROBLEMS, StopRule(patience=1))
    assert other.check(7) == evaluation(0.9, 0.5)
    assert other.reason == first.reason != ""
    assert len(asked) == 1, "the others only wait"
    monkeypatch.setattr(module, "_from_the_first", lambda mine: {"error": "RuntimeError: no memory"})
    with pytest.raises(FaithprobeError, match="first process: RuntimeError: no memory"):
        other.check(8)


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(FaithprobeError, match=r"torch\.distributed is not set up"):
        Guard(organism("faithful"), PROBLEMS).check(0)


TWO = """
from pathlib import Path
import torch, torch.distributed as dist
from faithprobe.training import callback
from tests.leaving import leave
from tests.subjects import organism
from tests.training.test_callback import PROBLEMS, evaluation
dist.init_process_group("gloo")
rank = dist.get_rank()
def stub(subject, problems, **options):
    assert rank == 0, "only the first process measures"
    if fails:
        raise MemoryError("too little")
    return evaluation(0.9, 0.5)
callback.evaluate_training, fails = stub, False
guard = callback.Guard(organism("faithful"), PROBLEMS, callback.StopRule(patience=1))
found = guard.check(3)
assert dist.get_world_size() == 2
assert found == evaluation(0.9, 0.5) and "Goodhart gap" in guard.reason
fails = True
try:
    guard.check(4)
except MemoryError:
    assert rank == 0
except callback.FaithprobeError as error:
    assert rank == 1 and "MemoryError: too little" in str(error)
else:
    raise AssertionError("nothing was raised")
Path(__file__).with_name(f"rank {rank} is done").touch()  # two processes' lines may mix in one pipe
leave()
"""


@pytest.mark.slow
def test_two_processes_decide_together(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    root = Path(__file__).resolve().parents[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    run = subprocess.run([*torchrun, script], cwd=root, env=env, capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr[-3000:]
    assert sorted(path.name for path in tmp_path.glob("rank *")) == ["rank 0 is done", "rank 1 is done"]


class Rows(torch.utils.data.Dataset):
    """Reference responses, all of one length."""

    def __init__(self, subject):
        task = subject.task
        texts = [f"{task.prompt(problem)} {problem.response} <eos>" for problem in task.problems(32)]
        self.rows = [torch.tensor(subject.model.tokenizer(text)["input_ids"]) for text in texts]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


@pytest.fixture(scope="module")
def trainable():
    return Subject(load_model("organism:clean/natural"), Organism(split="train"))


def trainer_of(subject, callback, folder, *, steps=6):
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-6,
        eval_strategy="steps",
        eval_steps=1,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = Rows(subject)
    return Trainer(
        subject.model.hf,
        arguments,
        train_dataset=rows,
        eval_dataset=torch.utils.data.Subset(rows, range(4)),
        callbacks=[callback],
    )


def test_a_trainer_is_stopped_by_the_rule_and_its_log_says_why(planned, trainable, tmp_path):
    asked = planned((0.5, 0.5), (0.6, 0.5), (0.9, 0.5), (0.9, 0.5))
    callback = GoodhartCallback(trainable, PROBLEMS, StopRule(max_gap=0.2, patience=2))
    trainer = trainer_of(trainable, callback, tmp_path)
    trainer.train()
    assert trainer.state.global_step == 3, "checks at 0, 1, 2 and 3; those of 2 and 3 are beyond the limit"
    assert len(asked) == 4
    logged = [record for record in trainer.state.log_history if "goodhart_gap" in record]
    assert [record["step"] for record in logged] == [0, 1, 2, 3]
    assert [record["goodhart_gap"] for record in logged] == pytest.approx([0, 0.1, 0.4, 0.4])
    for name in ("goodhart_gap", "trained_on_score", "held_out_score", "accuracy"):
        assert all(record[f"{name}_low"] <= record[name] <= record[f"{name}_high"] for record in logged)
    (why,) = [record for record in trainer.state.log_history if "goodhart_stop" in record]
    assert (why["step"], why["goodhart_stop"]) == (3, callback.guard.reason)
    held = json.loads((tmp_path / FILE).read_text())["history"]
    assert [record["step"] for record in held] == [0, 1, 2, 3]


def test_a_run_that_is_healthy_goes_on_to_its_end(planned, trainable, tmp_path):
    planned(*[(0.9, 0.9)] * 3, (0.9, 0.8))
    callback = GoodhartCallback(trainable, PROBLEMS, at_start=False)
    trainer = trainer_of(trainable, callback, tmp_path, steps=3)
    callback.trainer = trainer  # now the trainer logs, and tells its reporters
    trainer.train()
    assert trainer.state.global_step == 3
    logged = [record for record in trainer.state.log_history if "goodhart_gap" in record]
    assert [record["step"] for record in logged] == [1, 2, 3]
    callback.guard.forget(3)
    assert trainer.evaluate()["eval_held_out_score"] == 0.8


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_the_callback_measures_the_model_that_is_trained(trainable, tmp_path):
    callback = GoodhartCallback(trainable, PROBLEMS[:2])
    trainer = trainer_of(trainable, callback, tmp_path, steps=1)
    trainable.model.hf.gradient_checkpointing_enable()
    try:
        trainer.train()
    finally:
        trainable.model.hf.gradient_checkpointing_disable()
    assert [record["step"] for record in callback.guard.history] == [0, 1]
    assert all(record["accuracy"] == 1 for record in callback.guard.history)
    other = GoodhartCallback(organism("faithful"), PROBLEMS[:2])
    with pytest.raises(ModelError, match="another model"):
        trainer_of(trainable, other, tmp_path / "other").train()
