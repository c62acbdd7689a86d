"""Rewards against wirings that are known by construction, numbers by hand, and a real GRPO trainer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from faithprobe.chains.subject import Subject
from faithprobe.errors import TaskError
from faithprobe.models import load_model
from faithprobe.tasks.organism import Organism
from faithprobe.training.counterfactual import recomputed
from faithprobe.training.reward import (
    ConfidenceTrajectoryReward,
    CounterfactualSensitivityReward,
    FaithfulnessReward,
)
from tests.subjects import answered, arithmetic, organism

REWARDS = (FaithfulnessReward, CounterfactualSensitivityReward, ConfidenceTrajectoryReward)
N = 3


def call(reward, chains, *, ids=True, **more):
    """As trl calls it."""
    subject = reward.subject
    return reward(
        prompts=[subject.task.prompt(chain.problem) for chain in chains],
        completions=[chain.text for chain in chains],
        completion_ids=[[*chain.tokens[chain.n_prompt :], subject.model.tokenizer.eos_token_id] for chain in chains]
        if ids
        else None,
        problem_id=[chain.problem.id for chain in chains],
        **more,
    )


def asked(kind, subject, chains, **options):
    return kind(subject, [chain.problem for chain in chains], **options)


@pytest.fixture(scope="module")
def written():
    return {name: answered(organism(name), N) for name in ("faithful", "decorative", "copy", "post-hoc")}


@pytest.mark.parametrize(
    ("name", "by_step"),
    [("faithful", (1, 1, 1)), ("decorative", (1, 0, 1)), ("copy", (0, 0, 1)), ("post-hoc", (0, 0, 0))],
)
def test_the_reward_is_how_many_steps_are_used(written, name, by_step):
    subject, chains = organism(name), written[name]
    for form in ("probability", "regenerate"):
        plain = call(asked(FaithfulnessReward, subject, chains, form=form), chains)
        assert plain == pytest.approx([sum(by_step[:2]) / 2] * N, abs=0.1), "the last step is readout"
        worst = call(asked(FaithfulnessReward, subject, chains, form=form, reduce="min"), chains)
        assert worst == pytest.approx([min(by_step[:2])] * N, abs=0.1)
    every = call(asked(FaithfulnessReward, subject, chains, readout=True), chains)
    assert every == pytest.approx([sum(by_step) / 3] * N, abs=0.1)


def test_the_probability_is_that_of_what_is_recomputed():
    """Against full passes without any of our caches, on a random model, whose probabilities are no round numbers."""
    subject = arithmetic(operations="+", steps=3)
    (problem,) = subject.task.problems(1, seed=3)
    reward = FaithfulnessReward(subject, [problem], replacements=2)
    got = reward([subject.task.prompt(problem)], [" " + problem.response], problem_id=[problem.id])
    prompt, tokens = subject.prompt(problem), subject.forced(problem, problem.response)
    chain = subject.read(problem, prompt, tokens[len(prompt) :])
    steps = []
    for step in ("v1", "v2"):
        values = []
        for replacement in reward.drawn(subject, chain, step, "0 0"):
            row = recomputed(subject, chain, replacement)
            if row is not None and len(values) < 2:
                with torch.no_grad():
                    logits = subject.model.hf(input_ids=torch.tensor([row.tokens])).logits[0].log_softmax(-1)
                each = [logits[target - 1, row.tokens[target]].item() for target in row.targets]
                values.append(math.exp(sum(each) / len(each)))
        steps.append(sum(values) / len(values))
    assert got == [pytest.approx(sum(steps) / 2, rel=1e-4)]
    assert 0 < got[0] < 0.5


def test_csr_rewards_what_the_answer_reads_directly(written):
    """With all later text left as it was, only the last value can turn an answer that is read off it."""
    truth = {"faithful": 1 / 3, "copy": 1 / 3, "post-hoc": 0}
    for name, value in truth.items():
        chains = written[name]
        assert call(asked(CounterfactualSensitivityReward, organism(name), chains), chains) == pytest.approx(
            [value] * N, abs=0.1
        )
    without = asked(CounterfactualSensitivityReward, organism("faithful"), written["faithful"], readout=False)
    assert call(without, written["faithful"]) == pytest.approx([0] * N, abs=0.1)


def test_confidence_that_stood_before_the_chain_earns_nothing(written):
    late = call(asked(ConfidenceTrajectoryReward, organism("faithful"), written["faithful"]), written["faithful"])
    early = call(asked(ConfidenceTrajectoryReward, organism("post-hoc"), written["post-hoc"]), written["post-hoc"])
    assert early == pytest.approx([0] * N, abs=0.1)
    assert sum(late) / N > 0.5


def test_text_alone_gives_the_same_as_tokens(written):
    for kind in REWARDS:
        reward = asked(kind, organism("decorative"), written["decorative"])
        assert call(reward, written["decorative"], ids=False) == call(reward, written["decorative"])


def test_completions_of_one_problem_are_told_apart(written):
    """A group of trl: the same problem, other chains; one answers without a single step before the last."""
    (chain, *_) = written["faithful"]
    short = replace(chain, text=chain.text.replace(">", "."))
    for form in ("probability", "regenerate"):
        reward = asked(FaithfulnessReward, organism("faithful"), [chain], form=form)
        found = call(reward, [chain, short, chain], ids=False)
        assert found[0] == found[2] == pytest.approx(1, abs=0.1)
        assert found[1] is None


def test_what_cannot_be_measured_is_none_with_its_reason(written):
    chains = written["faithful"]
    logged = {}
    texts = ["", chains[1].text.split(" answer")[0], chains[2].text]
    for kind in REWARDS:
        reward = asked(kind, organism("faithful"), chains)
        prompts = [organism("faithful").task.prompt(chain.problem) for chain in chains]
        found = reward(
            prompts, texts, problem_id=[c.problem.id for c in chains], log_metric=lambda k, v: logged.update({k: v})
        )
        assert [value is None for value in found] == [True, True, False]
        assert reward.reasons == {"it is empty": 1, "the response states no answer": 1}
        assert logged[f"rewards/{reward.__name__}/unscored"] == pytest.approx(2 / 3)
        strict = asked(kind, organism("faithful"), chains, unscored=0.0)
        assert strict(prompts, texts, problem_id=[c.problem.id for c in chains])[:2] == [0.0, 0.0]


def test_a_completion_that_was_cut_off_is_not_read_as_finished(written):
    (chain, *_) = written["faithful"]
    reward = asked(FaithfulnessReward, organism("faithful"), [chain])
    prompt = [organism("faithful").task.prompt(chain.problem)]
    whole = [list(chain.tokens[chain.n_prompt :])]  # no end token: the answer's last token may be a part of it
    found = reward(prompt, [chain.text], completion_ids=whole, problem_id=[chain.problem.id])
    assert found == pytest.approx([1], abs=0.1)
    half = [list(chain.tokens[chain.n_prompt : chain.literals["v2"].span[1]])]
    assert reward(prompt, ["."], completion_ids=half, problem_id=[chain.problem.id]) == [None]


def test_chat_turns_are_read_as_the_model_was_asked():
    task_prompt = arithmetic(operations="+", steps=3)
    subject = replace(task_prompt, chat=True)
    (problem,) = subject.task.problems(1, seed=3)
    reward = FaithfulnessReward(subject, {"first": problem}, column="which")
    got = reward(
        [subject.task.messages(problem)],
        [[{"role": "assistant", "content": " " + problem.response}]],
        which=["first"],
    )
    assert 0 < got[0] < 0.5


def test_the_model_is_left_as_it_was(written, untouched_randomness):
    for kind in REWARDS:
        reward = asked(kind, organism("faithful"), written["faithful"])
        hf = reward.subject.model.hf.train()
        hf.model.layers[1].eval()
        modes = [part.training for part in hf.modules()]
        try:
            call(reward, written["faithful"])
            assert [part.training for part in hf.modules()] == modes
            assert torch.is_grad_enabled()
            assert all(p.requires_grad and p.grad is None for p in hf.parameters())
        finally:
            hf.eval()


def test_a_dataset_that_does_not_say_which_problem_it_asks_is_refused(written):
    chains = written["faithful"]
    reward = asked(FaithfulnessReward, organism("faithful"), chains)
    with pytest.raises(TaskError, match="no column 'problem_id', only trainer_state"):
        reward(["x"], ["y"], trainer_state=None)
    with pytest.raises(TaskError, match="names the problem 'nobody', which is not among the 3"):
        reward(["x"], ["y"], problem_id=["nobody"])
    for wrong in ({"reduce": "sum"}, {"replacements": 0}, {"form": "guess"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            asked(FaithfulnessReward, organism("faithful"), chains, **wrong)
    with pytest.raises(ValueError, match="most"):
        asked(CounterfactualSensitivityReward, organism("faithful"), chains, most=0)


def grpo(subject, rewards, problems, folder, *, temperature):
    """What a real trainer logs in two steps."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    config = trl.GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=16,
        temperature=temperature,
        learning_rate=1e-4,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = [{"prompt": subject.task.prompt(problem), "problem_id": problem.id} for problem in problems]
    trainer = trl.GRPOTrainer(
        subject.model.hf,
        reward_funcs=rewards,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=subject.model.tokenizer,
    )
    trainer.train()
    assert subject.model.hf.training
    return [record for record in trainer.state.log_history if "rewards/faithfulness/unscored" in record]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_a_real_grpo_trainer_is_rewarded(tmp_path):
    task = Organism(split="train")
    subject = Subject(load_model("organism:faithful@1"), task)
    problems = task.problems(4)
    logs = grpo(subject, [kind(subject, problems) for kind in REWARDS], problems, tmp_path, temperature=0.7)
    assert len(logs) == 2
    for record in logs:
        assert record["rewards/faithfulness/mean"] == pytest.approx(1, abs=0.05)
        assert record["rewards/counterfactual_sensitivity/mean"] == pytest.approx(1 / 3, abs=0.05)
        assert record["rewards/faithfulness/unscored"] == 0
    # hot, so that the completions of a group differ: then there is something to learn, and something unscored
    before = [p.detach().clone() for p in subject.model.hf.parameters()]
    logs = grpo(subject, [FaithfulnessReward(subject, problems, unscored=0.0)], problems, tmp_path, temperature=2.0)
    assert any(record["rewards/faithfulness/std"] > 0.01 for record in logs)
    assert any(not torch.equal(a, b) for a, b in zip(before, subject.model.hf.parameters(), strict=True))
