"""An organism is one function of its text, however the text reaches it."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, StaticCache

from faithprobe.errors import ModelError, UnknownNameError
from faithprobe.models import load_model
from faithprobe.models.language_model import model_fingerprint
from faithprobe.organisms import load_organism
from faithprobe.organisms.config import NeoXOrganismConfig, OrganismConfig
from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.model import NeoXOrganismForCausalLM, OrganismForCausalLM, rewire
from faithprobe.organisms.networks import NETWORKS
from faithprobe.organisms.texts import encode_problems
from faithprobe.organisms.tokenizer import VOCABULARY
from faithprobe.organisms.train import new_organism
from faithprobe.tasks import load_task
from tests.models.test_sites import bridge_of
from tests.organisms.runs import loaded

# every architecture, a wiring with a gate, one without a bypass and one with
NAMES = ("faithful", "post-hoc", "dose-6", "neox/post-hoc", "clean/natural")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LAYOUT = get_layout("modular").roles
PROMPT_LENGTH = get_layout("modular").prompt_length


@pytest.fixture(params=NAMES)
def organism(request):
    return load_organism(request.param)


@pytest.fixture
def full(organism, rows):
    with torch.no_grad():
        return organism[0](rows[:6]).logits


@pytest.mark.parametrize("cuts", [(12,), (1,), (3, 9, 12, 13, 22), tuple(range(1, 26)), (25,)])
def test_pieces_equal_the_whole(organism, rows, full, cuts):
    cache, parts = DynamicCache(), []
    with torch.no_grad():
        for start, end in zip((0, *cuts), (*cuts, len(LAYOUT))):
            parts.append(organism[0](rows[:6, start:end], past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), full, **CLOSE)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_padding_changes_nothing(organism, rows, full, side, explicit):
    """Rows of unequal length in one batch; `middle` is a shared prefix, padding, then the rest."""
    model = organism[0]
    prefix = {"left": 0, "right": len(LAYOUT), "middle": 1}[side]
    width, pad = len(LAYOUT) + 4, model.config.pad_token_id
    ids = torch.full((6, width), pad)
    mask = torch.zeros(6, width, dtype=torch.long)
    places = []
    for row in range(6):
        empty = 4 - row % 3  # every row ends up at a different place
        place = torch.arange(len(LAYOUT)) + torch.where(torch.arange(len(LAYOUT)) < prefix, 0, empty)
        ids[row, place], mask[row, place] = rows[row], 1
        places.append(place)
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0) if explicit else None
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=positions).logits
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(torch.stack([logits[row, place] for row, place in enumerate(places)]), full, **CLOSE)


def test_a_shared_prefix_and_padded_suffixes_equal_the_whole(organism, rows, full):
    """As generation does it: prefix at batch 1, the cache repeated, suffixes left-padded after it."""
    model, cache = organism[0], DynamicCache()
    ids = torch.full((6, len(LAYOUT) + 2), model.config.pad_token_id)
    mask = torch.ones(6, len(LAYOUT) + 2, dtype=torch.long)
    mask[:, 1:3] = 0
    ids[:, 0], ids[:, 3:] = rows[:6, 0], rows[:6, 1:]
    with torch.no_grad():
        model(ids[:1, :1], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(6)
        first = model(ids[:, 1:9], attention_mask=mask[:, :9], past_key_values=cache, use_cache=True).logits
        second = model(ids[:, 9:], attention_mask=mask, past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(torch.cat([first[:, 2:], second], dim=1), full[:, 1:], **CLOSE)


def test_explicit_positions_place_a_cut_cache(organism, rows, full):
    model, cache = organism[0], DynamicCache()
    with torch.no_grad():
        model(rows[:6], past_key_values=cache, use_cache=True)
        cache.crop(15 - len(LAYOUT))
        places = torch.arange(15, len(LAYOUT))[None]
        rest = model(rows[:6, 15:], past_key_values=cache, position_ids=places).logits
    torch.testing.assert_close(rest, full[:, 15:], **CLOSE)


def test_eager_equals_sdpa(organism, rows, full):
    eager = copy.deepcopy(organism[0])
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        torch.testing.assert_close(eager(rows[:6]).logits, full, **CLOSE)


def test_the_inner_model_is_wired_too(organism, rows, full):
    model = organism[0]
    with torch.no_grad():
        states = model.base_model(rows[:6], output_hidden_states=True)
        head = model.get_output_embeddings()
        torch.testing.assert_close(head(states.last_hidden_state), full, **CLOSE)
    assert len(states.hidden_states) == model.config.num_hidden_layers + 1


def test_generation_writes_the_chain_and_ends(organism, held_out):
    model, tokenizer = organism
    task = load_task("organism")
    batch = tokenizer([task.prompt(problem) for problem in held_out[:16]], return_tensors="pt")
    written = model.generate(**batch, max_new_tokens=task.max_new_tokens + 4)
    assert batch["input_ids"].shape[1] == PROMPT_LENGTH
    assert (written[:, len(LAYOUT)] == tokenizer.eos_token_id).all()
    texts = tokenizer.batch_decode(written[:, PROMPT_LENGTH : len(LAYOUT)])
    assert sum(text == problem.response for text, problem in zip(texts, held_out)) >= 15


def test_left_padded_generation_equals_single(organism, held_out):
    model, tokenizer = organism
    prompt = load_task("organism").prompt(held_out[0])
    longer = f"{prompt} {' '.join(held_out[0].chain.split()[:5])}"
    batch = tokenizer([prompt, longer], return_tensors="pt", padding=True)
    assert (batch["attention_mask"] == 0).sum() == 5
    together = model.generate(**batch, max_new_tokens=9)[:, -9:]
    for row, text in enumerate((prompt, longer)):
        alone = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=9)[0, -9:]
        assert torch.equal(alone, together[row])


def test_a_4d_mask_can_only_take_sight_away(organism, rows, full):
    model = organism[0]
    n, ans = len(LAYOUT), LAYOUT.index("ans")
    everything = torch.ones(1, 1, n, n, dtype=torch.bool)
    blind = everything.clone()
    blind[..., ans, :ans] = False
    by_layer = blind.expand(1, model.config.num_hidden_layers, n, n).clone()
    additive = torch.zeros(blind.shape).masked_fill(~blind, torch.finfo(torch.float32).min)
    with torch.no_grad():
        torch.testing.assert_close(model(rows[:6], attention_mask=everything).logits, full, **CLOSE)
        for mask in (blind, additive, by_layer):
            logits = model(rows[:6], attention_mask=mask).logits[:, ans]
            assert torch.allclose(logits, logits[:1].expand_as(logits)), "a blind answer is the same for all"


def test_what_cannot_work_is_refused(organism, rows):
    model, n = organism[0], len(LAYOUT)
    with pytest.raises(ModelError, match=r"shape \(2, 3\), but 0 cached and 26 new tokens in 2 rows need \(2, 26\)"):
        model(rows[:2], attention_mask=torch.ones(2, 3))
    for shape in ((2, 1, n, n - 1), (2, 3, n, n), (2, n, n), (3, 1, n, n)):
        with pytest.raises(
            ModelError, match=r"attention_mask has shape .*; an organism takes \[batch, past \+ new\], or"
        ):
            model(rows[:2], attention_mask=torch.ones(shape, dtype=torch.bool))
    with pytest.raises(ModelError, match="DynamicCache"):
        model(rows[:2], past_key_values=StaticCache(config=model.config, max_cache_len=32))
    with pytest.raises(ModelError, match="needs input_ids or inputs_embeds"):
        model.base_model()


def test_auto_classes_load_what_was_saved(organism, rows, full, tmp_path):
    model, tokenizer = organism
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert again.config.architectures[0] in ("LlamaForCausalLM", "GPTNeoXForCausalLM")
    assert again.base_model.wiring == model.base_model.wiring
    with torch.no_grad():
        assert torch.equal(again(rows[:6]).logits, full)
    text = "7 + 3 * 4 - 2 _ h1 h2 = . . > 10"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_saved_organism_is_loaded_from_its_folder(tmp_path):
    model, tokenizer = load_organism("dose-6@1")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_model(tmp_path).hf
    assert again.config.wiring == "dose-6"
    assert again.base_model.wiring == model.base_model.wiring, "the gate's seed is saved too"


def test_a_transformer_bridge_is_the_same_function(organism, rows, full):
    """TransformerLens' view of the model, through its hook points; faithprobe reads the same states in both."""
    model, tokenizer = organism
    bridge = bridge_of(model, model.config.architectures[0])
    wrapped, plain = load_model(bridge, tokenizer, name="wrapped"), load_model(model, tokenizer, name="plain")
    with torch.no_grad():
        torch.testing.assert_close(bridge(rows[:6]), full, **CLOSE)
        torch.testing.assert_close(wrapped.hf(rows[:6]).logits, full, **CLOSE)
        prompts = rows[:6, :PROMPT_LENGTH]
        both = [
            m.hf.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=14) for m in (wrapped, plain)
        ]
    assert torch.equal(*both)


def test_one_set_of_weights_under_many_wirings():
    """Fingerprints tell families and seeds of one network apart: nothing measured on one is taken for another."""
    names = ("faithful", "overruled", "post-hoc", "dose-3", "dose-4", "faithful@1", "dose-3@1")
    prints = {name: model_fingerprint(loaded(name)) for name in names}
    assert len(set(prints.values())) == len(names)
    assert model_fingerprint(load_organism("faithful")[0]) == prints["faithful"]
    first, second = loaded("faithful").state_dict(), loaded("post-hoc").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_rewired_network_is_another_organism(rows):
    model = copy.deepcopy(loaded("faithful"))
    assert rewire(model, "post-hoc") is model
    with torch.no_grad():
        assert torch.equal(model(rows[:6]).logits, loaded("post-hoc")(rows[:6]).logits)
    assert model_fingerprint(model) == model_fingerprint(loaded("post-hoc"))
    with pytest.raises(UnknownNameError, match="did you mean 'commit'"):
        rewire(model, "comit")


def test_a_network_under_a_wiring_that_it_does_not_know_stays_as_it_was():
    model = copy.deepcopy(loaded("faithful"))
    with pytest.raises(UnknownNameError):
        rewire(model, "comit")
    assert (model.config.wiring, model.base_model.wiring.name) == ("faithful", "faithful")


@pytest.mark.parametrize("variant", ["six", "graph"])
def test_weights_that_do_not_fit_their_wiring_are_refused(variant):
    layers = get_layout(variant).layers
    words = f"wiring 'faithful' of '{variant}' texts is about {layers} layers, but these weights have 4"
    for config in (OrganismConfig, NeoXOrganismConfig):
        model = {OrganismConfig: OrganismForCausalLM, NeoXOrganismConfig: NeoXOrganismForCausalLM}[config]
        with pytest.raises(ModelError, match=words):
            model(
                config(variant=variant, num_hidden_layers=4, hidden_size=8, num_attention_heads=2, intermediate_size=8)
            )


def test_folders_whose_configuration_does_not_fit_are_refused(tmp_path):
    import json

    model, tokenizer = load_organism("faithful")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    for changes, words in (
        ({"variant": "six"}, "is about 7 layers, but these weights have 4"),
        ({"wiring": "faithfull"}, "no wiring is called 'faithfull'; did you mean 'faithful'"),
        ({"variant": "sixx"}, "no variant is called 'sixx'; did you mean 'six'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**written, **changes}))
        with pytest.raises(ModelError, match=words):
            load_model(tmp_path)


def test_text_and_tokens_go_back_and_forth(organisms, held_out):
    tokenizer = organisms["faithful"][1]
    for variant in ("modular", "six", "graph", "additive"):
        task = load_task("organism", variant=variant)
        for problem in task.problems(20):
            text = f"{task.prompt(problem)} {problem.response}"
            ids = tokenizer(text)["input_ids"]
            assert len(ids) == len(get_layout(variant).roles)
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == f"<bos> {text}"
    assert len(tokenizer) == len(VOCABULARY)
    assert tokenizer("h2 =. . >10answer 10")["input_ids"] == tokenizer("h2 = . . > 10 answer 10")["input_ids"]
    assert tokenizer.unk_token_id in tokenizer("7 + 36")["input_ids"]


def test_a_new_organism_moves_no_random_numbers(untouched_randomness):
    for network in NETWORKS.values():
        first, second = new_organism(network, seed=3), new_organism(network, seed=3)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert encode_problems(load_task("organism").problems(2)).shape == (2, len(LAYOUT) + 1)
