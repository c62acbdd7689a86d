"""Batched generation against a loop of full passes; what ends a response; what does not fit."""

from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.peers import greedy
from faithprobe.errors import ContextLengthError
from faithprobe.models import load_model
from faithprobe.models.forcing import force
from faithprobe.models.generation import Decoding, PrefixCache, generate
from tests.tiny import FAMILIES, tiny_language_model, tiny_tokenizer

PREFIX = tuple(range(10, 24))
ROWS = [(*PREFIX, *range(30, 30 + own)) for own in (5, 1, 9, 2, 7)]
"""A common beginning longer than the sliding window of gemma, then 1 to 9 tokens of their own."""


class NothingShared(PrefixCache):
    def choose(self, rows, *, padding):
        return 0


class Logits:
    """Watches the logits that chose each token: [batch, step, vocabulary] of the last batch."""

    def __init__(self, model):
        self.head = model.hf.get_output_embeddings()

    @contextmanager
    def __call__(self, layout):
        seen = []
        hook = self.head.register_forward_hook(lambda module, args, output: seen.append(output[:, -1]))
        try:
            yield
        finally:
            hook.remove()
        self.steps = torch.stack(seen, dim=1)


def model_of(family, device="cpu", dtype=torch.float32, **options):
    model = tiny_language_model(family, **options)
    model.hf.to(device=device, dtype=dtype)
    return model


def without_end(model):
    """Random models write <eos> at any time; nothing should end a row here."""
    model.hf.generation_config.eos_token_id = 10**6
    return model


def run(model, rows, decoding, **options):
    return {done.index: list(done.tokens) for done in generate(model, rows, decoding, **options)}


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefixes", [PrefixCache, NothingShared])
def test_a_batch_writes_what_each_row_writes_alone(family, prefixes, device):
    model = without_end(model_of(family, device, torch.float64))
    found = run(model, ROWS, Decoding(max_new_tokens=12, batch_size=3), prefixes=prefixes(model))
    assert found == {i: greedy(model, row, 12)[0] for i, row in enumerate(ROWS)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefixes", [PrefixCache, NothingShared])
def test_a_batch_has_the_logits_of_each_row_alone(family, prefixes, device):
    model = without_end(model_of(family, device))
    watch = Logits(model)
    for done in generate(model, ROWS, Decoding(max_new_tokens=6), prefixes=prefixes(model), watch=watch):
        tokens, logits = greedy(model, ROWS[done.index], 6)
        same = next((i for i, (a, b) in enumerate(zip(done.tokens, tokens)) if a != b), 5) + 1
        assert relative(watch.steps[done.row, :same], logits[:same]) < 1e-5


def test_sliding_windows_share_nothing_and_the_others_do():
    for family in FAMILIES:
        model = model_of(family)
        assert PrefixCache(model).choose(ROWS, padding="left") == (0 if family == "gemma" else len(PREFIX))
        assert PrefixCache(model).choose(ROWS, padding="right") == len(PREFIX)


def test_the_shared_prefix_runs_once(monkeypatch):
    model = without_end(model_of("llama"))
    lengths = []
    model.hf.register_forward_pre_hook(lambda m, a, k: lengths.append(tuple(k["input_ids"].shape)), with_kwargs=True)
    prefixes = PrefixCache(model)
    run(model, ROWS, Decoding(max_new_tokens=2, batch_size=2), prefixes=prefixes)
    run(model, ROWS[:2], Decoding(max_new_tokens=1), prefixes=prefixes)
    assert lengths.count((1, len(PREFIX))) == 1
    assert all(length <= 9 for _, length in lengths if length != len(PREFIX))


def test_a_longer_prefix_is_computed_from_a_shorter_one():
    model = model_of("qwen2", dtype=torch.float64)
    prefixes = PrefixCache(model)
    prefixes.get(PREFIX, 1)
    extended = prefixes.get((*PREFIX, 40, 41), 3)
    direct = PrefixCache(model).get((*PREFIX, 40, 41), 3)
    for ours, theirs in zip(extended.layers, direct.layers, strict=True):
        assert ours.keys.shape[0] == 3
        assert torch.allclose(ours.keys, theirs.keys, atol=1e-12)
        assert torch.allclose(ours.values, theirs.values, atol=1e-12)


def test_caches_are_deep_copies_and_the_last_used_stay():
    model = model_of("llama")
    prefixes = PrefixCache(model, capacity=2)
    before = prefixes.get((5, 6), 1).layers[0].keys.clone()
    grown = prefixes.get((5, 6), 2)
    grown.layers[0].keys.zero_()
    prefixes.get((7, 8), 1)
    prefixes.get((5, 6), 1)
    prefixes.get((9,), 1)
    assert sorted(prefixes._caches) == [(5, 6), (9,)]
    assert torch.equal(prefixes.get((5, 6), 1).layers[0].keys, before)


def test_dropout_is_off_and_the_mode_comes_back():
    hf_options = {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    model = without_end(model_of("gpt2", dtype=torch.float64, **hf_options))
    expected = run(model, ROWS, Decoding(max_new_tokens=4))
    model.hf.train()
    assert run(model, ROWS, Decoding(max_new_tokens=4)) == expected
    assert model.hf.training


def test_rows_that_are_equal_alone_or_none():
    model = without_end(model_of("llama", dtype=torch.float64))
    decoding = Decoding(max_new_tokens=5)
    assert list(generate(model, [], decoding)) == []
    alone = run(model, [PREFIX], decoding)[0]
    assert alone == greedy(model, PREFIX, 5)[0]
    assert run(model, [PREFIX, (*PREFIX, 40), PREFIX], decoding) == {
        0: alone,
        1: greedy(model, (*PREFIX, 40), 5)[0],
        2: alone,
    }
    assert run(model, [PREFIX] * 3, decoding) == dict.fromkeys(range(3), alone)
    assert run(model, [(7,), (8,)], decoding) == {i: greedy(model, (7 + i,), 5)[0] for i in range(2)}


def test_a_stop_string_ends_each_row_by_itself():
    model = without_end(model_of("gpt_neox", dtype=torch.float64))
    whole = {i: greedy(model, row, 12)[0] for i, row in enumerate(ROWS)}
    stop = model.tokenizer.decode(whole[0][3:5], clean_up_tokenization_spaces=False)

    def cut(tokens):
        ends = (
            n for n in range(1, 13) if stop in model.tokenizer.decode(tokens[:n], clean_up_tokenization_spaces=False)
        )
        return tokens[: next(ends, 12)]

    found = run(model, ROWS, Decoding(max_new_tokens=12, stop=(stop, "never")))
    assert found == {i: cut(tokens) for i, tokens in whole.items()}
    assert len(found[0]) <= 5


def test_a_stop_string_of_the_prompt_does_not_end_anything():
    model = without_end(model_of("llama"))
    ids = model.tokenizer("stop here")["input_ids"]
    assert len(run(model, [ids], Decoding(max_new_tokens=6, stop=("here",)))[0]) == 6


@pytest.mark.parametrize("several", [False, True])
def test_the_end_token_ends_a_row_and_is_left_out(several):
    model = without_end(model_of("llama", dtype=torch.float64))
    whole = {i: greedy(model, row, 12)[0] for i, row in enumerate(ROWS)}
    end = whole[0][4]
    model.hf.generation_config.eos_token_id = [319, end] if several else end
    found = run(model, ROWS, Decoding(max_new_tokens=12, stop=("never",)))
    assert found == {i: tokens[: tokens.index(end)] if end in tokens else tokens for i, tokens in whole.items()}


def test_the_generation_config_of_the_model_changes_nothing_but_the_end():
    model = without_end(model_of("qwen2", dtype=torch.float64))
    config = model.hf.generation_config
    config.repetition_penalty, config.no_repeat_ngram_size, config.min_new_tokens = 5.0, 1, 9
    config.do_sample, config.top_k, config.num_beams = True, 5, 2
    assert run(model, ROWS[:1], Decoding(max_new_tokens=8))[0] == greedy(model, ROWS[0], 8)[0]
    assert model.hf.generation_config is config


def test_a_prompt_that_leaves_no_room_is_refused():
    model = model_of("llama", max_position_embeddings=32)
    with pytest.raises(ContextLengthError, match="has 23 tokens and 12 are to follow"):
        run(model, ROWS, Decoding(max_new_tokens=12))
    with pytest.raises(ContextLengthError, match="without any token"):
        run(model, [PREFIX, ()], Decoding(max_new_tokens=4))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_go_on_as_far_as_the_context_reaches_where_asked(family):
    size = {"n_positions": 20} if family == "gpt2" else {"max_position_embeddings": 20}
    model = without_end(model_of(family, dtype=torch.float64, **size))
    rows = [ROWS[1], ROWS[0], PREFIX[:4]]
    found = run(model, rows, Decoding(max_new_tokens=12, must_fit=False))
    assert found == {i: greedy(model, row, n)[0] for i, (row, n) in enumerate(zip(rows, (5, 1, 12), strict=True))}


@contextmanager
def nothing():
    yield


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2 GiB", "can't allocate memory: you tried"])
def test_a_batch_that_does_not_fit_is_halved(words):
    model = without_end(model_of("llama", dtype=torch.float64))
    sizes, finished = [], []

    def watch(layout):
        sizes.append(len(layout.ids))
        if len(layout.ids) > 2:
            raise RuntimeError(words)
        return nothing()

    found = run(model, ROWS, Decoding(max_new_tokens=4), watch=watch, progress=finished.append)
    assert found == {i: greedy(model, row, 4)[0] for i, row in enumerate(ROWS)}
    assert sizes == [5, 2, 2, 1]
    assert finished == [2, 2, 1]


def test_a_row_that_does_not_fit_alone_raises_after_the_others_were_given():
    model = without_end(model_of("llama"))
    longest = max(map(len, ROWS))

    def watch(layout):
        if layout.ids.shape[1] == longest:
            raise MemoryError
        return nothing()

    seen = []
    with pytest.raises(MemoryError):
        seen.extend(done.index for done in generate(model, ROWS, Decoding(max_new_tokens=2), watch=watch))
    assert sorted(seen) == [0, 1, 3, 4]


def test_any_other_error_is_not_swallowed():
    def watch(layout):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(model_of("llama"), ROWS, Decoding(max_new_tokens=2), watch=watch)


def test_sampling_repeats_by_seed_and_leaves_the_callers_randomness_alone(untouched_randomness, device):
    model = without_end(model_of("llama", device))
    rows = [PREFIX] * 6
    first = run(model, rows, Decoding(max_new_tokens=8, temperature=1.0, seed=3, batch_size=2))
    torch.rand(3, generator=torch.Generator().manual_seed(1))
    assert run(model, rows, Decoding(max_new_tokens=8, temperature=1.0, seed=3, batch_size=2)) == first
    assert run(model, rows, Decoding(max_new_tokens=8, temperature=1.0, seed=4, batch_size=2)) != first
    assert len({tuple(tokens) for tokens in first.values()}) == 6, "batches repeat each other's draws"


def test_sampling_follows_the_distribution():
    model = without_end(model_of("llama"))
    found = run(model, [PREFIX] * 2000, Decoding(max_new_tokens=1, temperature=2.0, batch_size=500))
    counts = torch.bincount(torch.tensor([tokens[0] for tokens in found.values()]), minlength=320) / 2000
    expected = (greedy(model, PREFIX, 1)[1][0] / 2.0).softmax(-1)
    assert (counts - expected).abs().max() < 4.5 * (0.25 / 2000) ** 0.5


def test_a_model_with_recurrent_layers_shares_nothing_and_still_generates():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    linear = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    config = CONFIG_MAPPING["qwen3_next"](
        vocab_size=320,
        num_hidden_layers=4,
        head_dim=8,
        linear_value_head_dim=8,
        shared_expert_intermediate_size=16,
        initializer_range=0.2,
        **sizes,
        **linear,
        **experts,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config).eval()
    model = without_end(load_model(hf, tiny_tokenizer(), name="recurrent"))
    prefixes = PrefixCache(model)
    assert prefixes.choose(ROWS, padding="left") == prefixes.choose(ROWS, padding="right") == 0
    assert run(model, [ROWS[0]], Decoding(max_new_tokens=5))[0] == greedy(model, ROWS[0], 5)[0]
    forced = force(model, [ROWS[0]], prefixes=prefixes, read=[4])
    assert forced.logprobs is not None
    with pytest.raises(Exception, match=r"layer 0 keeps no keys and values \(LinearAttentionLayer\)"):
        _ = forced.donor


def test_a_cache_may_begin_with_what_another_computed():
    model = tiny_language_model()
    one = PrefixCache(model)
    other = one.beginning(PREFIX)
    before = one.get(PREFIX, 1).layers[0].keys
    for last in range(40, 46):  # more than either holds
        other.get((*PREFIX, last), 2)
        one.get((last, *PREFIX), 2)
    calls = []
    hook = model.hf.register_forward_pre_hook(lambda *_: calls.append(1))
    held = other.get(PREFIX, 3)
    hook.remove()
    assert not calls
    assert held.get_seq_length() == len(PREFIX)
    assert torch.equal(held.layers[0].keys[:1], before)
    assert one.beginning(()).get((), 1).get_seq_length() == 0
