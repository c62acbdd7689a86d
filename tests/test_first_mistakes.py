"""The mistakes that people make first, provoked for real: each message names what is wrong and what to do next.

Others are tested where they are raised: names with a typo and usage in `test_cli.py` and `models/test_load.py`, folders
of another audit and damaged files in `test_audit_files.py`, `test_probe.py` and `chains/test_store.py`, rows of a data
file in `tasks/test_files.py`, batches without counterfactual columns and hooks after `torch.compile` in
`training/test_bad_input.py`.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from html import escape

import httpx
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from faithprobe import Audit, FaithprobeError, Probes, Validation, audit, load_task
from faithprobe.cli import main
from faithprobe.errors import MetricError, ModelError, OutOfMemoryError, StoreError, TaskError
from faithprobe.models import load_model, register_model, registry
from faithprobe.models.hub import unavailable
from faithprobe.scores.advice import advice
from faithprobe.tasks import task_class
from faithprobe.training import FaithfulnessLoss
from tests.tiny import tiny_language_model, tiny_model, tiny_tokenizer

QUICK = ["--problems", "2", "--probe-problems", "0", "--no-report"]
ORGANISM = ["--model", "organism:faithful", "--task", "organism"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `faithprobe audit ...` in this process; its exit code, and all that it printed."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["faithprobe", "audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out + printed.err

    return call


@pytest.fixture
def folder(tmp_path):
    """A model's folder as `save_pretrained` writes it."""
    tiny_model("llama", max_position_embeddings=1024).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def says(text: str, *words: str) -> None:
    """One error in few lines, with these words in this order, and no traceback."""
    assert "Traceback" not in text
    place = 0
    for word in words:
        assert word in text[place:], f"{word!r} is not said, or too early: {text}"
        place = text.index(word, place) + len(word)
    shown = [line for line in text.replace("\r", "\n").splitlines() if line and "it/s]" not in line]
    assert len(shown) == 1, text


# Models


def test_a_hub_model_without_a_network_is_refused_at_once(run, monkeypatch, tmp_path):
    def nowhere(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("faithprobe.models.hub.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    began = time.monotonic()
    code, text = run("--model", "nobody/no-such-model", "--task", "arithmetic", "--out", tmp_path / "out", *QUICK)
    assert code == 2
    assert time.monotonic() - began < 20  # the hub's own client tries again for half a minute, for each file
    says(text, "'nobody/no-such-model'", "cannot be reached", "not downloaded before", ".gguf", "smollm2")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (GatedRepoError, ("it is gated", "https://huggingface.co/owner/name", "hf auth login")),
        (RepositoryNotFoundError, ("no such model, or it is private", "https://huggingface.co/models")),
    ],
)
def test_a_hub_model_that_may_not_be_had(kind, words):
    cause = kind("401", response=httpx.Response(401, request=httpx.Request("GET", "https://huggingface.co")))
    error = OSError("You are trying to access ...")
    error.__cause__ = cause
    says(str(unavailable("owner/name", error)), "'owner/name'", *words)


def test_a_folder_with_a_typo(folder):
    with pytest.raises(ModelError) as raised:
        load_model(folder.with_name("tiy"))
    says(str(raised.value), "no folder", "tiy", "did you mean", str(folder))


def test_a_folder_of_checkpoints(folder):
    with pytest.raises(ModelError) as raised:
        load_model(folder.parent)
    says(str(raised.value), "no config.json", "name what is in it", str(folder))


def test_an_adapter_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError) as raised:
        load_model(tmp_path)
    says(str(raised.value), "PEFT adapter", "merge_and_unload", "pass the loaded PeftModel")


def test_a_folder_without_its_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError) as raised:
        load_model(folder)
    says(str(raised.value), "no tokenizer", "copy tokenizer.json", "load_model(source, tokenizer)")


def test_a_configuration_that_was_cut(folder):
    (folder / "config.json").write_text((folder / "config.json").read_text()[:40])
    with pytest.raises(ModelError) as raised:
        load_model(folder)
    says(str(raised.value), "config.json is no JSON", "copy it again")


def test_an_architecture_that_transformers_does_not_know(folder):
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**held, "model_type": "tomorrow"}))
    with pytest.raises(ModelError) as raised:
        load_model(folder)
    says(str(raised.value), "tomorrow", "pip install -U transformers")


def test_a_gguf_file_that_was_not_downloaded_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setenv("FAITHPROBE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + bytes(range(64)))
    with pytest.raises(ModelError) as raised:
        load_model(tmp_path / "cut.gguf")
    says(str(raised.value).replace("\n", " "), "cut.gguf", "68 bytes", "download it again")


def test_a_compiled_model(folder):
    with pytest.raises(ModelError) as raised:
        load_model(torch.compile(tiny_model("llama")), tiny_tokenizer())
    says(str(raised.value), "is compiled", "pass the plain model")


# Devices and memory


@pytest.mark.parametrize(("device", "words"), [("gpu", "no device is called 'gpu'"), ("cuda:99", "'cuda:99' cannot")])
def test_a_device_that_is_not_there(folder, device, words):
    with pytest.raises(ModelError) as raised:
        load_model(folder, device=device)
    says(str(raised.value).replace("\n", " "), words, "here there is: cpu")


def test_a_model_that_does_not_fit_on_its_device(folder, monkeypatch):
    def full(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    monkeypatch.setattr(type(tiny_model("llama")), "to", full)
    with pytest.raises(OutOfMemoryError) as raised:
        load_model(folder, device="cpu")
    says(str(raised.value), "LlamaForCausalLM takes 0.0 GB in torch.float32", "cpu has no room", "--dtype bfloat16")


@contextmanager
def registered(monkeypatch, refuses):
    """A model called `tiny` that runs out of memory on the inputs that `refuses` says."""
    hf = tiny_model("llama", max_position_embeddings=1024)

    def hook(module, args, kwargs):
        if refuses(kwargs["input_ids"]):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory ...")

    hf.register_forward_pre_hook(hook, with_kwargs=True)
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    register_model("tiny", lambda: (hf, tiny_tokenizer()))
    yield


def test_a_row_that_does_not_fit_into_memory(run, monkeypatch, tmp_path):
    with registered(monkeypatch, lambda ids: ids.shape[1] > 20):
        code, text = run("--model", "tiny", "--task", "arithmetic", "--out", tmp_path, *QUICK)
    assert code == 2
    text = text[text.index("faithprobe: ") :]  # behind the lines of progress
    says(text, "out of memory (CUDA out of memory. Tried", "--dtype bfloat16", "shots", "smaller model")
    assert "Of the allocated memory" not in text


def test_no_memory_at_all(run, monkeypatch, tmp_path):
    with registered(monkeypatch, lambda ids: True):
        code, text = run("--model", "tiny", "--task", "arithmetic", "--out", tmp_path, *QUICK)
    assert code == 2
    says(text, "faithprobe: out of memory", "--batch-size", "--dtype bfloat16")


# Tasks


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("step=3", ("'arithmetic' has no option 'step'", "did you mean 'steps'", "steps=2", "shots=6")),
        ("steps=three", ("cannot use steps='three'", "by default it has steps=2")),
    ],
)
def test_an_option_that_a_task_does_not_have(run, tmp_path, option, words):
    code, text = run("--model", "organism:faithful", "--task", "arithmetic", "-o", option, "--out", tmp_path, *QUICK)
    assert code == 2
    says(text, *words)


def test_what_is_no_task():
    with pytest.raises(TaskError) as raised:
        audit("organism:faithful", task_class("arithmetic"))
    says(str(raised.value), "Arithmetic is a family", "make one, Arithmetic()")
    with pytest.raises(TaskError) as raised:
        audit("organism:faithful", 3)
    says(str(raised.value), "not 3", "arithmetic")


def test_metrics_without_their_functions():
    with pytest.raises(MetricError) as raised:
        audit("organism:faithful", "organism", metrics=["early-answering"])
    says(str(raised.value), "is no list", "metrics=published(['early-answering'])")


def test_a_number_that_is_a_text():
    with pytest.raises(FaithprobeError, match="problems must be at least 1, not '3'"):
        audit("organism:faithful", "organism", problems="3")


def test_a_layer_that_the_model_does_not_have(run, tmp_path):
    code, text = run(*ORGANISM, "--layers", "30", "--out", tmp_path, *QUICK)
    assert code == 2
    says(text, "blocks.30", "The model has 4 layers, 0 to 3")


# Folders


def test_a_file_where_the_results_should_go(run, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, text = run(*ORGANISM, "--out", tmp_path / "out", *QUICK)
    assert code == 2
    says(text, f"could not write {tmp_path / 'out'}", "name another one")


def test_a_folder_of_another_kind_of_result(tmp_path):
    audit("organism:faithful", "organism", problems=1, probe_problems=0, out=tmp_path, show_progress=False)
    for kind in (Probes, Validation):
        with pytest.raises(StoreError) as raised:
            kind.load(tmp_path)
        says(str(raised.value), str(tmp_path), "it holds an audit: read it with Audit.load")
    for kind in (Audit, Probes):
        with pytest.raises(StoreError, match="there is no such folder"):
            kind.load(tmp_path / "nowhere")


def test_an_audit_is_looked_for_where_a_validation_was_saved(tmp_path):
    (tmp_path / "validation.json").write_text("{}")
    with pytest.raises(StoreError, match=r"it holds a validation: read it with Validation\.load"):
        Audit.load(tmp_path)


def test_probes_of_a_later_version(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format": 99, "versions": {"faithprobe": "7.0"}}))
    with pytest.raises(StoreError, match=r"written in format 99 by faithprobe 7\.0, where this one reads 1"):
        Probes.load(tmp_path)


# What is no error, and leaves numbers out


def notes(text: str) -> list[str]:
    return [line.removeprefix("note: ") for line in text.splitlines() if line.startswith("note: ")]


def test_values_that_are_not_found_in_the_chains(run, folder, tmp_path):
    """A random model writes no equations, and it was not asked through the chat template that it has."""
    code, text = run("--model", folder, "--task", "arithmetic", "--out", tmp_path / "out", *QUICK)
    assert code == 0
    said, *others = notes(text)
    for words in ("4 of 4 values were not found", "2 of 2 chains were cut off", "(--chat)", "-o shots=12", "statement"):
        assert words in said
    assert [line[:10] for line in others] == ["no probes ", "2 problems"]
    found = Audit.load(tmp_path / "out")
    assert advice(found.summary(), {**found.info, "chat": True})[0].count("without --chat") == 1


def test_a_base_model_that_is_asked_to_chat(run, folder, tmp_path):
    (folder / "chat_template.jinja").unlink()
    code, text = run("--model", folder, "--task", "arithmetic", "--chat", "--out", tmp_path / "out", *QUICK)
    assert code == 2
    says(text, "'tiny' has no chat template", "leave out --chat")


def test_too_few_problems_for_probes_and_for_an_interval(run, tmp_path):
    code, text = run(*ORGANISM, "--out", tmp_path, "--problems", "3", "--probe-problems", "50", "--no-report")
    assert code == 0
    probes, interval = notes(text)
    assert probes.startswith("50 problems are too few to fit probes on, so 'computed' (D) and the score are missing")
    assert "--probe-problems 1000 (at least 250)" in probes
    assert interval == ("3 problems leave wide intervals (accuracy: 0.44 to 1.00): --problems 50, and another --out")


def summary(right: float, *, n: int = 50, alone: float | None = None, **others) -> dict:
    def interval(value):
        return {"value": value, "low": max(value - 0.1, 0.0), "high": min(value + 0.1, 1.0), "n": n}

    accuracy = {"with_chain": interval(right), "without_chain": None if alone is None else interval(alone)}
    return {
        "problems": n,
        "steps": 2 * n,
        "accuracy": accuracy,
        "unscored": {},
        "verdicts": {},
        "unfinished": 0,
        **others,
    }


PLAN = {"probe_problems": 1000, "replacements": 4, "task_options": {"steps": 4, "high": 9}, "chat": False}


def test_advice_stands_in_the_notebook_and_the_report_in_the_words_of_who_asked(tmp_path):
    options = {"problems": 3, "probe_problems": 50, "show_progress": False}
    found = audit("organism:faithful", "organism", **options)
    assert [line.partition(":")[0] for line in found.advice()] == [
        "50 problems are too few to fit probes on, so 'computed' (D) and the score are missing",
        "3 problems leave wide intervals (accuracy",
    ]
    for line, option in zip(found.advice(), ("probe_problems=1000", "problems=50"), strict=True):
        assert option in line
        assert "--" not in line
        assert escape(line) in found._repr_html_()
        assert escape(line) in found.report(tmp_path / "report.html").read_text()
    # no step could be judged: that is no share of 0
    assert 'steps that are faithful</span><strong class="none">not measured<' in (tmp_path / "report.html").read_text()
    asked = replace(found, info={**found.info, "command": "faithprobe audit --problems 3"})
    assert "--probe-problems 1000" in asked.advice()[0]


def test_an_audit_without_a_flaw_needs_no_advice():
    chains = [{"true_answer": str(n)} for n in range(50)]
    assert advice(summary(0.9, alone=0.2), PLAN, chains) == []


def test_a_model_that_is_never_right():
    (said,) = advice(summary(0.02), PLAN)
    for words in ("right in 0.02 of 50 problems", "competence", "-o steps=2 -o high=4", "a larger model"):
        assert words in said


def test_an_answer_that_can_be_guessed():
    chains = [{"true_answer": "yes" if n % 5 else "no"} for n in range(50)]
    (said,) = advice(summary(0.82), PLAN, chains)
    for words in ("always answering 'yes' would be right in 0.80", "0.82", "guesses", "--problems 100"):
        assert words in said
    assert advice(summary(0.95), PLAN, chains) == []  # far above guessing


def test_problems_that_need_no_chain():
    (said,) = advice(summary(0.9, alone=0.88), PLAN)
    for words in ("without any chain the model is right in 0.88", "do not need the chain", "-o steps=8 -o high=18"):
        assert words in said


def test_steps_that_are_unscored_for_another_reason():
    lost = {"unscored": {"used: # replacements, at least # are needed": 70}, "verdicts": {"unscored": {"count": 80}}}
    (said,) = advice(summary(0.9, **lost), PLAN)
    assert said.startswith("80 of 100 steps are unscored, 70 of them because: used: # replacements")
    assert advice(summary(0.9, **lost), {**PLAN, "replacements": 2})[0].endswith("--replacements 4, and another --out")


# Training


def test_a_loss_on_what_is_no_model():
    with pytest.raises(ModelError) as raised:
        FaithfulnessLoss(load_task("arithmetic"))
    says(str(raised.value), "takes the Hugging Face model that is trained", "Arithmetic")
    with pytest.raises(ModelError) as raised:
        FaithfulnessLoss(tiny_language_model())
    says(str(raised.value), "LanguageModel", "pass its .hf")


# The terminal


def test_stopped_by_hand(run, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("faithprobe.models.load_model", stop)
    code, text = run(*ORGANISM, "--out", tmp_path, *QUICK)
    assert code == 130
    says(text, "what is finished is kept", "the same command goes on")


@pytest.mark.slow
def test_a_first_run_leaves_a_clean_terminal(folder, tmp_path):
    """No warning of a library, and nothing of faithprobe's own but progress, table, notes and paths."""
    program = [sys.executable, "-m", "faithprobe", "audit", "--model", folder, "--task", "arithmetic"]
    done = subprocess.run([*program, "--out", tmp_path / "out", *QUICK], capture_output=True, text=True)
    assert done.returncode == 0
    for line in done.stderr.replace("\r", "\n").splitlines():
        assert not line.strip() or line.startswith(("Loading weights", "a batch of", "answering and replaying")), line
