"""What we ship: names, weights that do what they are trained for, and their size."""

from __future__ import annotations

import json

import pytest

from faithprobe.errors import ModelError, TaskError, UnknownNameError
from faithprobe.models import load_model
from faithprobe.organisms import WEIGHTS, load_organism, organism_names
from faithprobe.organisms.networks import NETWORKS, SEEDS, OrganismName, every_organism
from faithprobe.organisms.texts import texts_of
from faithprobe.organisms.train import accuracy, exact_rows, last_mlp
from faithprobe.tasks.organism import Organism
from tests.organisms.runs import FOLDERS, loaded

ACCURACY = 0.98


@pytest.mark.parametrize("folder", FOLDERS)
def test_held_out_texts_are_written_exactly_in_every_family(folder):
    network, _, seed = folder.partition("-")
    family = NETWORKS[network].families[0]
    model, _ = load_organism(f"{network}/{family}@{seed}")
    found = accuracy(model, NETWORKS[network], texts=300)
    assert set(found) == set(NETWORKS[network].families)
    assert min(found.values()) >= ACCURACY, found
    assert model.config.wiring == family
    assert all((parameter == 0).all() for parameter in last_mlp(model)), "the last layer only reads"
    assert (model.config.variant, model.config.gate_seed) == (NETWORKS[network].variant, int(seed))


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_record_of_training_says_the_same(folder):
    network, _, _ = folder.partition("-")
    record = json.loads((WEIGHTS / folder / "training.json").read_text())
    assert set(record["accuracy"]) == set(NETWORKS[network].families)
    assert min(record["accuracy"].values()) >= ACCURACY


def test_the_weights_are_small_and_all_are_shipped():
    folders = sorted(folder.name for folder in WEIGHTS.iterdir() if folder.is_dir())
    assert folders == sorted(FOLDERS)
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 15_000_000
    assert {file.suffix for file in files} == {".json", ".safetensors"}


def test_the_wheel_has_the_weights():
    """The patterns of package-data find every file."""
    from fnmatch import fnmatch
    from pathlib import Path

    package = Path(__file__).resolve().parents[2]
    text = (package / "pyproject.toml").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("faithprobe = [")]
    patterns = json.loads(line.removeprefix("faithprobe = "))
    for file in WEIGHTS.rglob("*.*"):
        name = file.relative_to(package / "faithprobe").as_posix()
        assert any(fnmatch(name, pattern.replace("**/", "")) for pattern in patterns), name


def test_names_go_back_and_forth():
    for name in every_organism():
        assert OrganismName.parse(str(name)) == name
    assert OrganismName.parse("post-hoc") == OrganismName.parse("modular/post-hoc@0")
    assert str(OrganismName.parse("modular/dice@2")) == "dice@2"
    names = organism_names()
    assert {
        "faithful",
        "dose-9",
        "six/decorative",
        "graph/ahead",
        "additive/copy",
        "neox/commit",
        "clean/natural",
    } <= set(names)
    assert all(names.values())
    assert not any("@" in name for name in names)
    assert len(every_organism()) == len(SEEDS) * len(names)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("posthoc", "no organism is called 'posthoc'; did you mean 'post-hoc'"),
        ("six/decorativ", "did you mean 'six/decorative'"),
        ("sixx/faithful", "did you mean 'six/faithful'"),
        ("faithful@3", r"Written \[NETWORK/\]FAMILY\[@SEED\], with seeds 0, 1, 2"),
        ("faithful@x", "no organism is called 'faithful@x'"),
        ("neox/dice", "no organism is called 'neox/dice'"),
        ("natural", "did you mean"),
        ("", "no organism is called ''"),
        ("/faithful", "did you mean 'faithful'"),
    ],
)
def test_unknown_organisms_are_refused(name, words):
    with pytest.raises(UnknownNameError, match=words):
        load_organism(name)
    with pytest.raises(UnknownNameError, match=words):
        load_model(f"organism:{name}")


def test_missing_weights_name_the_command_that_makes_them(monkeypatch, tmp_path):
    monkeypatch.setattr("faithprobe.organisms.WEIGHTS", tmp_path)
    with pytest.raises(ModelError, match=r"`python -m faithprobe.organisms.train neox --seed 2` makes it"):
        load_organism("neox/faithful@2")


def test_every_organism_has_its_task():
    assert OrganismName.parse("six/copy").task().variant == "six"
    assert OrganismName.parse("filler").task().silent
    assert OrganismName.parse("hint").task(hint="wrong").hint == "wrong"
    assert not OrganismName.parse("faithful").task().silent


def test_exact_rows_of_other_texts_are_not_exact():
    rows = texts_of(NETWORKS["modular"], "faithful", split="held-out", n=20)
    assert exact_rows(loaded("faithful"), rows).float().mean() >= ACCURACY
    wrong = rows.clone()
    wrong[:, -2] = rows[:, -2].roll(1)
    changed = wrong[:, -2] != rows[:, -2]
    assert not exact_rows(loaded("faithful"), wrong)[changed].any()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("faithful", {"variant": "six"}, "read prompts of 12 tokens, and this has 21; .* with variant='modular'"),
        ("faithful", {"variant": "additive"}, "'faithful' organisms of 'modular' texts read one of 0 .* 10 at 'x0'"),
        ("faithful", {"silent": True}, "read one of = at 'eq', and this is '~'"),
        ("filler", {}, "read one of ~ at 'eq', and this is '='; .* with variant='modular', silent=True"),
    ],
)
def test_problems_outside_the_grammar_are_refused(name, options, words):
    from faithprobe.chains.subject import Subject

    task = Organism(**options)
    subject = Subject(load_model(f"organism:{name}"), task)
    (problem,) = task.problems(1)
    with pytest.raises(TaskError, match=words):
        subject.prompt(problem)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("7 + 3 * 4 - 99 _ h1 h2 =", "one of 2 3 4 at 'a3', and this is '<unk>'"),
        ("7 + 3 / 4 - 2 _ h1 h2 =", "at 'op2', and this is '<unk>'"),
        ("7 + 3 * 4 - 2 _ h2 h1 =", "one of h1 at 'h1', and this is 'h2'"),
        ("7 + 3 * 4 - 2 h1 h2 =", "read prompts of 12 tokens, and this has 11"),
        ("Tom has three apples.", "read prompts of 12 tokens"),
    ],
)
def test_prompts_outside_the_grammar_are_refused(prompt, words):
    from faithprobe.models.generation import encode

    model = load_model("organism:faithful")
    with pytest.raises(TaskError, match=words):
        encode(model, prompt)
    assert len(encode(model, "7 + 3 * 4 - 2 _ h1 h2 =")) == 12
    assert len(encode(model, "7 + 3 * 4 - 2 10 h1 h2 =")) == 12


def test_other_tasks_are_refused():
    from faithprobe import audit

    with pytest.raises(TaskError, match="ask it the problems of the task organism with variant='modular'"):
        audit("organism:faithful", "arithmetic", problems=2, probe_problems=0, show_progress=False)
