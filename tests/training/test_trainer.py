"""The trainers of Hugging Face and TRL, with the mixin, against a bare loop: the same weights after some steps."""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

trl = pytest.importorskip("trl")
peft = pytest.importorskip("peft")

from datasets import Dataset  # noqa: E402 - with trl
from transformers import Trainer, TrainingArguments  # noqa: E402

from faithprobe.training import BatchError, FaithfulnessLoss  # noqa: E402
from faithprobe.training.trainer import FaithfulnessTrainerMixin, stacked_beside  # noqa: E402
from tests.tiny import tiny_model  # noqa: E402
from tests.training import bare  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # options that TRL and transformers will rename
SAME = 2e-6
"""Float32 sums in another order; a step moves the weights by .01 and more."""
TOKENIZER = bare.subject().model.tokenizer


class FaithfulTrainer(FaithfulnessTrainerMixin, Trainer):
    pass


class FaithfulSFT(FaithfulnessTrainerMixin, trl.SFTTrainer):
    pass


class FaithfulDPO(FaithfulnessTrainerMixin, trl.DPOTrainer):
    pass


KINDS = {"hf": (FaithfulTrainer, TrainingArguments), "sft": (FaithfulSFT, trl.SFTConfig)}
KINDS["dpo"] = (FaithfulDPO, trl.DPOConfig)


@pytest.fixture(autouse=True)
def what_is_there_is_no_garbage():
    """Every `train` collects garbage, which takes half a second where all that was imported is looked at."""
    gc.freeze()
    yield
    gc.unfreeze()


def settings(kind, folder, **options):
    plain = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": bare.RATE,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return KINDS[kind][1](**{**plain, **options})


def made(kind, model, faithful, rows, folder, *, given=None, **options):
    """A trainer; `given` goes to it, `options` to its settings."""
    given = {"processing_class": TOKENIZER, "train_dataset": Dataset.from_list(rows), **(given or {})}
    return KINDS[kind][0](model=model, args=settings(kind, folder, **options), faithfulness=faithful, **given)


def trained(kind, rows, folder, *, given=None, loss=None, **options):
    """A fresh model, trained once over `rows`; its trainer."""
    model = tiny_model("llama")
    if kind == "dpo":
        given = {"ref_model": copy.deepcopy(model), **(given or {})}
    faithful = FaithfulnessLoss(model, **{"share": 1.0, "weight": 3.0, **(loss or {})})
    trainer = made(kind, model, faithful, rows, folder, given=given, **options)
    trainer.train()
    return trainer


def logged(trainer, name="faithfulness"):
    return [entry[name] for entry in trainer.state.log_history if name in entry and "train_runtime" not in entry]


@pytest.mark.parametrize("kind", ["hf", "sft"])
def test_a_trainer_ends_where_the_bare_loop_ends(kind, tmp_path):
    loss = {"share": 1.0, "weight": 3.0, "every": 2, "warmup": 4}
    trainer = trained(kind, bare.examples(24), tmp_path, loss=loss)
    model, plain = tiny_model("llama"), tiny_model("llama")
    logs = bare.train(model, FaithfulnessLoss(model, **loss), bare.batches(bare.examples(24), 8))
    bare.train(plain, FaithfulnessLoss(plain, objective="cross-entropy"), bare.batches(bare.examples(24), 8))
    assert bare.distance(trainer.model, model) < SAME
    assert bare.distance(trainer.model, plain) > 1e-3, "the term does nothing"
    assert logged(trainer) == pytest.approx([logs[0]["faithfulness"], logs[2]["faithfulness"]], abs=1e-5)
    assert logged(trainer, "counterfactual_rows") == [8, 8]


@pytest.mark.parametrize("kind", ["hf", "sft"])
def test_accumulated_batches_are_one_large_batch(kind, tmp_path):
    rows = bare.examples(16)
    whole = trained(kind, rows, tmp_path)
    parts = trained(kind, rows, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    model = tiny_model("llama")
    bare.train(model, FaithfulnessLoss(model, share=1.0, weight=3.0), bare.batches(rows, 2), accumulate=4)
    assert bare.distance(whole.model, parts.model) < SAME
    assert bare.distance(whole.model, model) < SAME
    assert parts.state.global_step == 2
    assert logged(parts) == pytest.approx(logged(whole), abs=1e-5)


def test_the_last_step_of_an_epoch_may_have_fewer_batches(tmp_path):
    rows = bare.examples(12)
    parts = trained("sft", rows, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    model = tiny_model("llama")
    bare.train(model, FaithfulnessLoss(model, share=1.0, weight=3.0), bare.batches(rows, 4), accumulate=2)
    assert bare.distance(parts.model, model) < SAME


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", ["hf", "sft", "dpo"])
def test_both_kinds_of_gradient_checkpointing_change_nothing(kind, reentrant, tmp_path):
    """The interchange is done in a layer, which checkpointing runs again during the backward pass."""
    rows = preferences(16, "interchange") if kind == "dpo" else bare.examples(16, "interchange")
    again = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    loss = {"objective": "interchange", "share": 1.0}
    off = trained(kind, rows, tmp_path, loss=loss)
    on = trained(kind, rows, tmp_path, loss=loss, **again)
    assert on.model.is_gradient_checkpointing
    assert bare.distance(on.model, off.model) < SAME
    assert logged(on) == pytest.approx(logged(off), abs=1e-5)


def adapted(seed=0):
    model = tiny_model("llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], lora_dropout=0.0, task_type="CAUSAL_LM")
        return peft.get_peft_model(model, config)


@pytest.mark.parametrize("kind", ["hf", "sft"])
def test_with_adapters_only_they_move_and_the_reference_is_the_model_without_them(kind, tmp_path):
    loss, rows = {"share": 1.0, "weight": 3.0, "kl": 2.0}, bare.examples(24)
    model, other = adapted(), adapted()
    faithful = FaithfulnessLoss(model, **loss)
    trainer = made(kind, model, faithful, rows, tmp_path)
    trainer.train()
    logs = bare.train(other, FaithfulnessLoss(other, **loss), bare.batches(rows, 8))
    assert faithful.reference.adapters_off
    assert bare.distance(trainer.model, other) < SAME
    kl = logged(trainer, "faithfulness_kl")
    assert kl == pytest.approx([entry["kl"] for entry in logs], abs=1e-5)
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[2] > 1e-5
    base, fresh = model.get_base_model().state_dict(), adapted().get_base_model().state_dict()
    moved = {name for name in base if not torch.equal(base[name], fresh[name])}
    assert moved
    assert all("lora_" in name for name in moved)


@pytest.mark.parametrize("kind", [pytest.param("hf", marks=pytest.mark.slow), "sft"])
def test_in_bfloat16_the_term_is_nearly_that_of_float32(kind, tmp_path):
    rows = bare.examples(24)
    full, half = trained(kind, rows, tmp_path), trained(kind, rows, tmp_path, bf16=True)
    assert logged(half) == pytest.approx(logged(full), rel=0.03)
    assert logged(half) != logged(full)
    assert 0 < bare.distance(half.model, full.model) < 0.05


@pytest.mark.parametrize("kind", ["hf", "sft"])
def test_evaluation_stacks_nothing_and_leaves_the_model_as_it_was(kind, tmp_path):
    rows, held_out = bare.examples(24)[:16], bare.examples(24)[16:]
    alone = trained(kind, rows, tmp_path)
    plain = held_out  # SFT's own collator makes batches of data without our columns
    if kind == "sft":
        plain = [{name: example[name] for name in ("input_ids", "labels")} for example in held_out]
    given = {"eval_dataset": Dataset.from_list(plain)}
    watched = trained(kind, rows, tmp_path, given=given, eval_strategy="steps", eval_steps=1)
    assert bare.distance(alone.model, watched.model) == 0
    last = [entry for entry in watched.state.log_history if "eval_loss" in entry][-1]
    assert not [name for name in last if "faithful" in name]
    (batch,) = bare.batches(held_out, 8)
    model = watched.model.eval()
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    by_hand = functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert last["eval_loss"] == pytest.approx(by_hand.item(), abs=1e-4)
    assert watched.evaluate(Dataset.from_list(held_out))["eval_loss"] == pytest.approx(by_hand.item(), abs=1e-4)


def test_terms_are_averaged_since_the_last_log_and_a_step_without_one_adds_nothing(tmp_path):
    rows, loss = bare.examples(32), {"every": 2}
    each, once = (trained("sft", rows, tmp_path, loss=loss, logging_steps=n) for n in (1, 4))
    assert [entry["step"] for entry in each.state.log_history if "faithfulness" in entry] == [1, 3]
    first, second = logged(each)
    assert logged(once) == pytest.approx([(first + second) / 2], abs=1e-5)
    assert second < first


@pytest.mark.parametrize("kind", [pytest.param("hf", marks=pytest.mark.slow), "sft"])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(kind, tmp_path):
    """Half of the examples are drawn at every step, and a layer."""
    rows, loss = bare.examples(32, "interchange"), {"objective": "interchange", "share": 0.5}
    whole = trained(kind, rows, tmp_path, loss=loss, save_strategy="steps", save_steps=2)
    model = tiny_model("llama")
    faithful = FaithfulnessLoss(model, weight=3.0, **loss)
    resumed = made(kind, model, faithful, rows, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert bare.distance(whole.model, resumed.model) < SAME
    assert logged(whole)[2:] == pytest.approx(logged(resumed)[2:], abs=1e-5)


def test_label_smoothing_keeps_the_term_and_its_gradient(tmp_path):
    """SFT then runs the model a second time, without gradient, for its metrics."""
    hf, sft = (trained(kind, bare.examples(16), tmp_path, label_smoothing_factor=0.1) for kind in ("hf", "sft"))
    assert logged(sft) == pytest.approx(logged(hf), abs=1e-5)
    assert bare.distance(sft.model, hf.model) < SAME


@pytest.mark.parametrize("kind", ["hf", "sft"])
def test_outputs_are_given_to_those_who_ask(kind, tmp_path):
    """SFT makes them in a second pass without gradient; the term's gradient is that of the first."""
    model = tiny_model("llama")
    trainer = made(kind, model, FaithfulnessLoss(model, share=1.0), bare.examples(8), tmp_path)
    (batch,) = bare.batches(bare.examples(8), 8)
    trainer.model.train()
    gradients = []
    for asked in (False, True):
        found = trainer.compute_loss(trainer.model, batch, return_outputs=asked)
        loss, out = found if asked else (found, None)
        gradients.append(torch.autograd.grad(loss, model.model.embed_tokens.weight)[0])
    assert len(out.logits) == 16
    assert torch.allclose(*gradients, atol=1e-6)
    trainer.model.eval()
    with torch.no_grad():
        _, out = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert len(out.logits) == 8


# DPO


def preferences(n, objective="counterfactual"):
    """Examples with a pair of responses: the reference, and one with a wrong value."""
    found = []
    for example in bare.examples(n, objective):
        start = example["labels"].count(-100)
        right, wrong = example["input_ids"], example["row_tokens"][0]
        texts = {"prompt": right[:start], "chosen": [t for t in right[start:] if t != 1], "rejected": wrong[start:]}
        found.append({**example, **{name: TOKENIZER.decode(tokens) for name, tokens in texts.items()}})
    return found


def log_probability(model, example, response):
    """Of a response and its end, by hand."""
    prompt, tokens = TOKENIZER(example["prompt"]).input_ids, [*TOKENIZER(example[response]).input_ids, 1]
    ids = torch.tensor([[*prompt, *tokens]])
    found = model(input_ids=ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    return found.gather(1, torch.tensor(tokens)[:, None]).sum()


def bare_dpo(model, reference, faithful, rows, *, size):
    """DPO (Rafailov et al., arXiv 2305.18290, equation 7; beta .1) one pair at a time, and the term in its own pass."""
    optimizer = torch.optim.SGD(model.parameters(), lr=bare.RATE)
    model.train()
    for step, first in enumerate(range(0, len(rows), size)):
        part = rows[first : first + size]
        own = 0
        for example in part:
            with torch.no_grad():
                before = [log_probability(reference, example, name) for name in ("chosen", "rejected")]
            after = [log_probability(model, example, name) for name in ("chosen", "rejected")]
            ratios = [new - old for new, old in zip(after, before, strict=True)]
            own = own - functional.logsigmoid(0.1 * (ratios[0] - ratios[1])) / len(part)
        (batch,) = bare.batches(part, size)
        batch = faithful.stack(batch, step=step)
        (own + faithful.term(model(**batch), batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("objective", ["counterfactual", "csr"])
def test_dpo_ends_where_the_bare_loop_ends(objective, tmp_path):
    """`csr` compares with the batch's own rows, which are in the second pass as well then."""
    loss = {"objective": objective, "share": 1.0, "weight": 3.0, "every": 2}
    rows = preferences(24, objective)
    trainer = trained("dpo", rows, tmp_path, loss=loss)
    model = tiny_model("llama")
    bare_dpo(model, copy.deepcopy(model), FaithfulnessLoss(model, **loss), rows, size=8)
    assert bare.distance(trainer.model, model) < 2 * SAME
    assert logged(trainer, "counterfactual_rows") == [8, 8]
    assert len(logged(trainer, "rewards/margins")) == 3, "the trainer's own terms are gone"


def test_dpo_accumulates_batches(tmp_path):
    rows = preferences(16)
    whole = trained("dpo", rows, tmp_path)
    parts = trained("dpo", rows, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert bare.distance(whole.model, parts.model) < SAME
    assert logged(parts) == pytest.approx(logged(whole), abs=1e-5)


@pytest.mark.slow
def test_dpo_with_adapters_and_precomputed_references(tmp_path):
    rows = preferences(16)
    model, other = adapted(), adapted()
    loss = {"share": 1.0, "weight": 3.0}
    off = made("dpo", model, FaithfulnessLoss(model, **loss), rows, tmp_path)
    off.train()
    held = Dataset.from_list(rows)
    options = {"precompute_ref_log_probs": True}
    ahead = made("dpo", other, FaithfulnessLoss(other, **loss), rows, tmp_path, given={"eval_dataset": held}, **options)
    ahead.train()
    assert bare.distance(off.model, other) < 2 * SAME
    assert ahead.evaluate(held)["eval_loss"] == pytest.approx(ahead.evaluate()["eval_loss"], abs=1e-5)


def test_rows_beside_a_pass_are_the_stacked_ones_without_the_batch_and_of_another_shape():
    (batch,) = bare.batches(bare.examples(8, "interchange"), 8)
    model = tiny_model("llama").train()
    faithful = FaithfulnessLoss(model, objective="interchange", share=1.0, layers=(1,))
    whole = faithful.stack(batch, step=0)
    term = faithful.term(model(**whole), whole)
    faithful.stack(batch, step=1)  # so that step 0 begins anew, and draws the same
    shape = (8, whole["input_ids"].shape[1])
    rows = stacked_beside(faithful, batch, step=0, unlike=shape)
    assert tuple(rows["input_ids"].shape) == (8, shape[1] + 1)
    assert torch.equal(rows["input_ids"][:, :-1], whole["input_ids"][8:])
    assert faithful.term(model(**rows), rows).item() == pytest.approx(term.item(), abs=1e-5)


# Bad input


def test_removed_columns_are_missed_before_training(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "row_targets"} for row in bare.examples(8)]
    for kind in ("hf", "sft"):
        with pytest.raises(BatchError, match=r"no column 'row_targets'.*training_examples"):
            trained(kind, rows, tmp_path)


def test_a_batch_without_counterfactuals_is_refused(tmp_path):
    """The columns are there, but a collator of the user's has dropped them."""

    def collate(rows):
        return {"input_ids": torch.tensor([rows[0]["input_ids"]]), "labels": torch.tensor([rows[0]["labels"]])}

    with pytest.raises(BatchError, match="no 'counterfactuals'"):
        trained("hf", bare.examples(8), tmp_path, given={"data_collator": collate})


def test_texts_are_neither_cut_nor_packed(tmp_path):
    for options, message in (
        ({"max_length": 100}, "has 1.. tokens, and the trainer cuts it at max_length=100"),
        ({"packing": True}, "packing=False"),
        ({"padding_free": True, "max_length": None}, "padding_free=False"),
    ):
        with pytest.raises(BatchError, match=message):
            trained("sft", bare.examples(8), tmp_path, **options)


def test_what_does_not_fit_together_is_refused(tmp_path):
    model, other, rows = tiny_model("llama"), tiny_model("llama"), bare.examples(8)
    faithful = FaithfulnessLoss(other, share=1.0)
    with pytest.raises(ValueError, match="another model than the one that is trained"):
        made("hf", model, faithful, rows, tmp_path)
    with pytest.raises(BatchError, match="processing_class=tokenizer"):
        made("hf", other, faithful, rows, tmp_path, given={"processing_class": None})
    with pytest.raises(ValueError, match="'markovian' takes the answers out"):
        trained("dpo", preferences(8), tmp_path, loss={"objective": "markovian"})


# Two processes

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
torch.set_num_threads(1)
from tests.leaving import leave
from tests.training import bare
from tests.training.test_trainer import logged, preferences, trained
folder = Path(sys.argv[1])
for kind in ("hf", "sft", "dpo"):
    rows = preferences(16) if kind == "dpo" else bare.examples(16)
    trainer = trained(kind, rows, folder / f"{kind}-run", per_device_train_batch_size=4, loss={"weight": 3.0})
    assert trainer.accelerator.num_processes == 2, trainer.accelerator.num_processes
    if trainer.accelerator.is_main_process:
        weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
        save_file(weights, folder / f"{kind}.safetensors")
        (folder / f"{kind}.json").write_text(json.dumps(logged(trainer)))
leave()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes made, with all kinds of trainers."""
    folder, root = tmp_path_factory.mktemp("two"), Path(__file__).parents[2]
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(folder / "program.py"), str(folder)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hf", "sft", "dpo"])
def test_two_processes_are_one_with_twice_the_batch(kind, two, tmp_path):
    rows = preferences(16) if kind == "dpo" else bare.examples(16)
    one, weights = trained(kind, rows, tmp_path / "one"), load_file(two / f"{kind}.safetensors")
    assert max(float((p.detach() - weights[n]).abs().max()) for n, p in one.model.named_parameters()) < SAME
    assert json.loads((two / f"{kind}.json").read_text()) == pytest.approx(logged(one), abs=1e-5)
