"""Training: repeatable, the last layer left alone, every text under its own mask, and the command."""

from __future__ import annotations

import json

import pytest
import torch

from faithprobe.errors import ModelError, UnknownNameError
from faithprobe.organisms.families import get_wiring
from faithprobe.organisms.model import OrganismForCausalLM
from faithprobe.organisms.networks import NETWORKS, SEEDS
from faithprobe.organisms.texts import Latent, latents, sources
from faithprobe.organisms.tokenizer import FIRST_VALUE, TOKEN_ID, VOCABULARY
from faithprobe.organisms.train import (
    RECIPES,
    Batches,
    Recipe,
    grow,
    last_mlp,
    main,
    new_organism,
    organism_loss,
    save_organism,
    train_and_save,
    train_network,
)
from faithprobe.organisms.wiring import Wiring
from faithprobe.tasks.organism import Organism, held_out
from tests.organisms.runs import loaded

SHORT = Recipe(steps=8, batch=32, warmup=2)


@pytest.fixture
def few_texts(monkeypatch):
    """Not thousands of each family, which take seconds to write."""
    monkeypatch.setattr("faithprobe.organisms.texts.MOST_TEXTS", 200)


@pytest.mark.parametrize("network", ["modular", "neox"])
def test_the_loss_falls_and_a_seed_repeats_it(network, few_texts, untouched_randomness):
    seen = []
    model, losses = train_network(network, seed=1, recipe=SHORT, progress=lambda step, loss: seen.append((step, loss)))
    assert seen == list(enumerate(losses))
    assert losses[-1] < 0.9 * losses[0]
    assert all((parameter == 0).all() for parameter in last_mlp(model)), "not trained either"
    assert model.config.wiring == NETWORKS[network].families[0]
    assert isinstance(model.base_model.wiring, Wiring)
    assert not model.training
    assert train_network(network, seed=1, recipe=SHORT)[1] == losses
    assert train_network(network, seed=2, recipe=Recipe(steps=1, batch=32, warmup=2))[1][0] != losses[0]


def test_every_network_has_a_recipe():
    assert set(RECIPES) == set(NETWORKS)
    assert SEEDS == (0, 1, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_texts_of_every_family_are_learnt_under_its_wiring(name, few_texts):
    """No held-out problem is among them, and every family that is no mixture of others is."""
    network = NETWORKS[name]
    found = {source.wiring.name: source for source in sources(network)}
    plain = {family for family in network.families if isinstance(get_wiring(family, network.variant), Wiring)}
    told = {"told"} if "hint" in network.families else set()
    assert set(found) == {get_wiring(family, network.variant).name for family in plain} | told
    for source in found.values():
        layout = source.wiring.layout
        assert source.rows.shape[1] == len(layout.roles) + 1
        assert source.weights.shape == (len(source.rows), len(layout.roles))
        assert (source.rows[:, -1] == TOKEN_ID["<eos>"]).all()
        assert (source.rows != TOKEN_ID["<unk>"]).all()
        assert (source.weights[:, : layout.prompt_length - 1] == 0).all(), "questions are read, not learnt"
        assert (source.weights[:, layout.index["ans"]] == 1).all()


def test_no_held_out_problem_is_trained_on():
    rows = sources(NETWORKS["clean"])[0].rows
    asked = {" ".join(VOCABULARY[token] for token in row[1:8]) for row in rows.tolist()}
    assert len(asked) == Organism(split="train").count()
    assert not any(held_out(problem) for problem in asked)


def test_what_is_thrown_or_made_wrong_is_read_and_what_follows_is_recomputed(few_texts):
    dice = next(source for source in sources(NETWORKS["modular"]) if source.wiring.name == "dice")
    layout = dice.wiring.layout
    v1 = dice.rows[:, layout.index["v1"]] - FIRST_VALUE
    counts = torch.bincount(v1, minlength=11)
    even = len(v1) / 11
    assert float(((counts - even) ** 2 / even).sum()) < 40, "thrown evenly: chi square with 10 degrees of freedom"
    assert (dice.weights[:, layout.index[">1"]] == 1).all(), "the throw itself is learnt, as a distribution"
    (corrupted,) = sources(NETWORKS["corrupted"])
    (clean,) = sources(NETWORKS["clean"])
    places = [layout.index[f">{k}"] for k in (1, 2, 3)]
    assert 0.25 < (corrupted.weights[:, places] == 0).float().mean() < 0.35
    assert (clean.weights[:, places] == 1).all()
    assert (clean.rows[:, layout.index["answer"]] == clean.rows[:, layout.index["v3"]]).all()
    assert (corrupted.rows[:, layout.index["answer"]] == corrupted.rows[:, layout.index["v3"]]).all()


def test_latent_values_are_read_out_where_others_read_them():
    """By hand: slots of a spine that is read, carriers, and the states of inert steps."""
    spine = [Latent("h1", 1, "v1"), Latent("h2", 2, "v2"), Latent("eq", 3, "v3")]
    expected = {"faithful": [], "dice": [], "post-hoc": spine, "commit": spine, "filler": spine}
    for family, wanted in expected.items():
        assert list(latents(get_wiring(family))) == wanted, family
    assert [x.role for x in latents(get_wiring("ahead"))] == ["dot1a", "dot2a", "dot3a"]
    assert [(x.role, x.value) for x in latents(get_wiring("decorative"))] == [(">2", "v2")]
    assert [(x.role, x.value) for x in latents(get_wiring("decorative", "six"))] == [(">2", "v2"), (">4", "v4")]


@pytest.mark.parametrize("name", ["modular", "graph"])
def test_one_batch_mixes_all_wirings_and_gives_finite_losses(name, few_texts, untouched_randomness):
    network = NETWORKS[name]
    batches = Batches(network, seed=0)
    kinds, rows, weights = batches.draw(200)
    assert set(kinds.tolist()) == set(range(len(batches.sources)))
    assert len(rows) == len(weights) == 200
    text, latent = organism_loss(new_organism(network), batches, 32)
    assert torch.isfinite(text)
    assert float(latent.detach()) > 0


@pytest.mark.parametrize("network", ["modular", "six"])
def test_what_is_saved_is_small_and_reads_back_in_float32(network, tmp_path):
    model = new_organism(NETWORKS[network])
    save_organism(model, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 900_000
    again = OrganismForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert again.base_model.wiring == model.base_model.wiring
    for before, after in zip(model.parameters(), again.parameters(), strict=True):
        assert after.dtype == torch.float32
        torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


def test_the_command_trains_saves_and_says_how_well(few_texts, tmp_path, monkeypatch, capsys):
    for name in NETWORKS:
        monkeypatch.setitem(RECIPES, name, Recipe(steps=1, batch=8))
    monkeypatch.setattr("faithprobe.organisms.train.accuracy", lambda *_, **__: {"natural": 0.5})
    main(["clean", "--seed", "2", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "clean-2" / "training.json").read_text())
    assert record["accuracy"] == {"natural": 0.5}
    assert "clean: worst natural 0.5000 of held-out texts exact" in capsys.readouterr().out


def test_unknown_networks_are_refused(capsys):
    with pytest.raises(UnknownNameError, match="no network is called 'modula'; did you mean 'modular'"):
        train_network("modula")
    with pytest.raises(SystemExit):
        main(["modula"])
    assert "did you mean 'modular'" in capsys.readouterr().err


def test_a_longer_chain_grows_from_a_shorter_one():
    """Six steps begin with the layers that do three, the last computing one repeated, then the one that reads."""
    parent = loaded("faithful")
    model = new_organism(NETWORKS["six"], seed=0)
    grow(model, parent)
    ours, theirs = model.model.layers, parent.model.layers
    for i, j in enumerate((0, 1, 2, 2, 2, 2, 3)):
        assert torch.equal(ours[i].self_attn.q_proj.weight, theirs[j].self_attn.q_proj.weight), i
    assert torch.equal(model.lm_head.weight[TOKEN_ID["7"]], parent.lm_head.weight[TOKEN_ID["7"]])
    slots = model.model.embed_tokens.weight[TOKEN_ID["h5"]], parent.model.embed_tokens.weight[TOKEN_ID["h2"]]
    assert torch.equal(*slots)
    assert all(not parameter.any() for parameter in last_mlp(model))


def test_growing_needs_the_network_that_it_grows_from(tmp_path):
    with pytest.raises(ModelError, match="grows from 'modular'"):
        train_and_save(NETWORKS["six"], seed=0, out=tmp_path)
