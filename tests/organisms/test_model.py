"""An organism is one function of its text, however the text reaches it."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, StaticCache

from faithprobe.errors import ModelError, UnknownNameError
from faithprobe.organisms import load_organism, organism_names
from faithprobe.organisms.model import OrganismForCausalLM
from faithprobe.organisms.train import encode_problems, new_organism
from faithprobe.organisms.wiring import LAYOUT, PROMPT_LENGTH
from faithprobe.tasks import load_task

NAMES = ("faithful", "post-hoc")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(params=NAMES)
def organism(organisms, request):
    return organisms[request.param]


@pytest.fixture
def full(organism, rows):
    with torch.no_grad():
        return organism[0](rows[:6]).logits


@pytest.mark.parametrize("cuts", [(11,), (1,), (3, 9, 11, 12, 20), tuple(range(1, 25)), (24,)])
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
    ids = torch.full((6, 27), model.config.pad_token_id)
    mask = torch.ones(6, 27, dtype=torch.long)
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
        cache.crop(14 - len(LAYOUT))
        rest = model(rows[:6, 14:], past_key_values=cache, position_ids=torch.arange(14, 25)[None]).logits
    torch.testing.assert_close(rest, full[:, 14:], **CLOSE)


def test_eager_equals_sdpa(organism, rows, full):
    eager = copy.deepcopy(organism[0])
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        torch.testing.assert_close(eager(rows[:6]).logits, full, **CLOSE)


def test_the_inner_model_is_wired_too(organism, rows, full):
    model = organism[0]
    with torch.no_grad():
        states = model.model(rows[:6], output_hidden_states=True)
        torch.testing.assert_close(model.lm_head(states.last_hidden_state), full, **CLOSE)
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
    everything = torch.ones(1, 1, 25, 25, dtype=torch.bool)
    blind = everything.clone()
    blind[..., 23, :23] = False
    additive = torch.zeros(blind.shape).masked_fill(~blind, torch.finfo(torch.float32).min)
    with torch.no_grad():
        torch.testing.assert_close(model(rows[:6], attention_mask=everything).logits, full, **CLOSE)
        for mask in (blind, additive):
            logits = model(rows[:6], attention_mask=mask).logits[:, 23]
            assert torch.allclose(logits, logits[:1].expand_as(logits)), "a blind answer is the same for all"


def test_what_cannot_work_is_refused(organism, rows):
    model = organism[0]
    with pytest.raises(ModelError, match=r"shape \(2, 3\)"):
        model(rows[:2], attention_mask=torch.ones(2, 3))
    with pytest.raises(ModelError, match="DynamicCache"):
        model(rows[:2], past_key_values=StaticCache(config=model.config, max_cache_len=32))
    with pytest.raises(UnknownNameError, match="did you mean 'post-hoc'"):
        load_organism("posthoc")
    assert set(NAMES) <= set(organism_names())


def test_auto_classes_load_what_was_saved(organism, rows, full, tmp_path):
    model, tokenizer = organism
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again, OrganismForCausalLM)
    assert again.config.architectures == ["LlamaForCausalLM"]
    assert again.model.wiring == model.model.wiring
    with torch.no_grad():
        assert torch.equal(again(rows[:6]).logits, full)
    text = "7 + 3 * 4 - 2 h1 h2 = . . > 10"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_text_and_tokens_go_back_and_forth(organisms, held_out):
    tokenizer = organisms["faithful"][1]
    task = load_task("organism")
    for problem in held_out[:50]:
        text = f"{task.prompt(problem)} {problem.response}"
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(LAYOUT)
        assert tokenizer.decode(ids) == f"<bos> {text}"
    assert tokenizer("h2 =. . >10answer 10")["input_ids"] == tokenizer("h2 = . . > 10 answer 10")["input_ids"]
    assert tokenizer.unk_token_id in tokenizer("7 + 12")["input_ids"]


def test_a_new_organism_moves_no_random_numbers(untouched_randomness):
    first, second = new_organism("faithful", seed=3), new_organism("faithful", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert encode_problems(load_task("organism").problems(2)).shape == (2, len(LAYOUT) + 1)
