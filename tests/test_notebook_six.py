"""Notebook 6 takes a user's own folder: Llama, GPT-NeoX and Gemma models pass through it as it stands.

The folders hold what `save_pretrained` writes, and a byte-level BPE tokenizer that was trained on other text. One model
of each family is random: it states nothing, and the notebook must say so. One has learnt how a chain is written, so
every part of an audit meets its architecture.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import plotly.io as pio
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from faithprobe import tasks
from tests.tiny import tiny_config

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "6_your_own_task_and_your_own_model.ipynb"
FAMILIES = ("llama", "gpt_neox", "gemma")


def cells() -> dict[str, str]:
    """Code by the cell's id, in order."""
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return {cell["id"]: "".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"}


def run(until: str | None = None, **variables: object) -> dict[str, Any]:
    """The names that the notebook leaves, with the variables of its first cell set as a user would."""
    code = cells()
    for name, value in variables.items():
        lines = code["model"].splitlines()
        (at,) = [k for k, line in enumerate(lines) if line.startswith(f"{name} = ")]
        lines[at] = f"{name} = {value!r}"
        code["model"] = "\n".join(lines)
    names: dict[str, Any] = {"__name__": "notebook"}
    for id_, source in code.items():
        exec(compile(source, f"<cell {id_}>", "exec"), names)
        if id_ == until:
            break
    return names


@pytest.fixture(autouse=True)
def as_a_user(monkeypatch, tmp_path):
    """A folder to write into; what a notebook changes for itself is put back."""
    monkeypatch.setattr(tasks, "_USER_FAMILIES", {})
    monkeypatch.chdir(tmp_path)
    renderer = pio.renderers.default
    yield
    pio.renderers.default = renderer


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")


def saved(family: str, folder: Path, *, steps: int) -> str:
    """A tiny model of a family in a folder, after so many steps of training on the notebook's own task."""
    task = run(until="problem", PROBLEMS=1)["task"]
    prompts, responses = zip(*((task.prompt(p), f" {p.response}\n") for p in task.problems(400, seed=3)), strict=True)
    tokenizer = tokenizer_of([*prompts, *responses])
    batch = tokenizer([a + b for a, b in zip(prompts, responses, strict=True)], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, ids in zip(labels, tokenizer(list(prompts))["input_ids"], strict=True):
        row[: len(ids)] = -100
    ids = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None}
    config = tiny_config(family, vocab_size=len(tokenizer), initializer_range=0.1, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        drawn = torch.randint(len(labels), (16,), generator=generator)
        loss = model(batch["input_ids"][drawn], batch["attention_mask"][drawn], labels=labels[drawn]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_model_goes_through_and_states_nothing(family, tmp_path, capsys):
    found = run(MODEL=saved(family, tmp_path / f"my-{family}", steps=0), PROBLEMS=3, PROBE_PROBLEMS=0)
    assert found["model"].hf.config.model_type == tiny_config(family).model_type
    assert found["audit"].summary()["used"] is None
    said = capsys.readouterr().out
    assert "values found:  0 of 6" in said
    assert "(U): not measured" in said
    assert f"my-{family}" in (tmp_path / "runs/notebook-6/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_of_the_audit_meets_the_architecture(family, tmp_path, capsys):
    found = run(MODEL=saved(family, tmp_path / f"my-{family}", steps=150), PROBLEMS=4, PROBE_PROBLEMS=300)
    audit = found["audit"]
    assert "values found:  8 of 8" in capsys.readouterr().out
    assert audit.summary()["used"]["value"] is not None
    assert audit.steps["when"].notna().any()
    assert audit.steps["computed"].notna().any()
    assert len(audit.bypass)
    assert (tmp_path / "runs/notebook-6/audit/steps.parquet").is_file()


def test_the_family_is_short_and_keeps_its_promises(capsys):
    found = run(until="check-promises", PROBLEMS=5)
    assert len(cells()["task"].splitlines()) < 50
    assert "if full were 20" in capsys.readouterr().out
    task, problem = found["task"], found["problem"]
    partner = next(task.partners(problem, "full", rng=random.Random(0)))
    assert tasks.task.is_intervention(problem, partner, "full")
