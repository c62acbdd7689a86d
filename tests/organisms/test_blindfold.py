"""What is hidden cannot matter, to the last bit, however the text reaches the model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.peers import interchange_by_hooks
from faithprobe.errors import HookError, ModelError
from faithprobe.interventions.splice import Interchange, splice
from faithprobe.models import load_model
from faithprobe.models.forcing import force
from faithprobe.models.generation import Decoding, PrefixCache, generate
from faithprobe.organisms.blindfold import Rule, blindfold
from tests.tiny import FAMILIES, tiny_language_model, tiny_tokenizer

START, END = 8, 11
TEXT = tuple(range(10, 34))
SWAPPED = (*TEXT[:START], 100, 101, 102, *TEXT[END:])
RULE = Rule((START, END), END)
ROWS = [TEXT[:13], TEXT[:20], (5, *TEXT[1:17]), TEXT[:14]]


class NothingShared(PrefixCache):
    def choose(self, rows, *, padding):
        return 0


def model_of(family="llama", attention="sdpa", dtype=torch.float32, **options):
    model = tiny_language_model(family, **options)
    model.hf.set_attn_implementation(attention)
    model.hf.to(dtype)
    return model


@torch.no_grad()
def logits(model, row, **options):
    return model.hf(torch.tensor([list(row)]), **options).logits[0]


def by_hand(model, row):
    """The rule as a 4D mask that is given to Hugging Face."""
    n = len(row)
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    seen[END:, START:END] = False
    mask = torch.zeros(1, 1, n, n, dtype=model.dtype).masked_fill(~seen, torch.finfo(model.dtype).min)
    return logits(model, row, attention_mask=mask)


def one_by_one(model, row, n):
    """Greedy, by full passes of a row alone."""
    tokens = list(row)
    for _ in range(n):
        tokens.append(int(logits(model, tokens, use_cache=False)[-1].argmax()))
    return tuple(tokens[len(row) :])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_hidden_changes_no_bit_behind_it(family, attention):
    model = model_of(family, attention)
    plain = logits(model, TEXT)
    with blindfold(model, [RULE]) as fold:
        one, other = logits(model, TEXT), logits(model, SWAPPED)
    assert torch.equal(one[END:], other[END:])
    assert torch.equal(one[:END], plain[:END])
    assert not torch.allclose(one[END:], plain[END:], atol=1e-2)
    assert not torch.allclose(logits(model, SWAPPED)[END:], plain[END:], atol=1e-2)
    assert fold.hidden == [2 * (END - START) * (len(TEXT) - END)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_it_is_the_mask_that_one_would_write_by_hand(family):
    model = model_of(family)
    with blindfold(model, [RULE]):
        ours = logits(model, TEXT)
    torch.testing.assert_close(ours, by_hand(model, TEXT), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_what_is_hidden_is_zero(family):
    model = model_of(family)

    def gradient(upto=None):
        given = model.hf.get_input_embeddings()(torch.tensor([TEXT])).detach().requires_grad_()
        weights = torch.linspace(-1, 1, 320)
        (model.hf(inputs_embeds=given, use_cache=False).logits[0, END:upto] @ weights).sum().backward()
        return given.grad[0].abs().amax(-1)

    assert (gradient(END + 1)[START:END] > 0).all()
    with blindfold(model, [RULE]):
        masked = gradient()
    assert (masked[START:END] == 0).all()
    assert (masked[[0, START - 1, END, len(TEXT) - 1]] > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefixes", [PrefixCache, NothingShared])
def test_generation_is_a_loop_of_full_passes(family, prefixes):
    """Rows of unequal length: padding in front or behind the shared prefix, and gemma's windows drop keys."""
    model = model_of(family, dtype=torch.float64)
    with blindfold(model, [RULE]):
        done = generate(model, ROWS, Decoding(max_new_tokens=8, batch_size=3), prefixes=prefixes(model))
        found = {row.index: row.tokens for row in done}
        assert found == {i: one_by_one(model, row, 8) for i, row in enumerate(ROWS)}
    assert found != {i: one_by_one(model, row, 8) for i, row in enumerate(ROWS)}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_said_behind_a_literal_leaves_it_no_way_out(family):
    """The literal's own last token is the one path that is no attention."""
    model = model_of(family)
    literals = [(*TEXT[:START], *new) for new in ((18, 19, 20), (100, 101, 102), (60, 7, 250))]
    with blindfold(model, [RULE], says={END - 1: 77}):
        written = [next(generate(model, [row], Decoding(max_new_tokens=9))).tokens for row in literals]
        with torch.no_grad():
            every = model.hf(torch.tensor([TEXT])).logits[0]
            last = model.hf(torch.tensor([TEXT]), logits_to_keep=len(TEXT) - END + 1).logits[0]
            some = model.hf(torch.tensor([TEXT]), logits_to_keep=torch.tensor([3, END - 1])).logits[0]
    assert len(set(written)) == 1
    assert written[0][0] == 77
    assert every.argmax(-1).tolist().count(77) == 1
    assert every[END - 1].log_softmax(-1)[77] == 0
    assert torch.equal(last[0], every[END - 1])
    assert torch.equal(some[1], every[END - 1])
    assert int(some[0].argmax()) != 77
    plain = [next(generate(model, [row], Decoding(max_new_tokens=9))).tokens for row in literals]
    assert len(set(plain)) == 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cuts", [(5, 9, 10, 11, 15), (11,), tuple(range(1, 24))])
def test_pieces_equal_the_whole(family, cuts):
    model = model_of(family)
    with blindfold(model, [RULE]), torch.no_grad():
        cache, parts = DynamicCache(), []
        for start, end in zip((0, *cuts), (*cuts, len(TEXT))):
            ids = torch.tensor([TEXT[start:end]])
            parts.append(model.hf(ids, past_key_values=cache, use_cache=True).logits[0])
        torch.testing.assert_close(torch.cat(parts), logits(model, TEXT), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("prefix", [0, 4, 9, len(TEXT)])
def test_padding_changes_nothing(family, prefix):
    """In front, inside (before and in the hidden span), behind; `prefix` is what stands before the padding."""
    model = model_of(family)
    slots = [i if i < prefix else i + 3 for i in range(len(TEXT))]
    ids, mask = torch.zeros(1, len(TEXT) + 3, dtype=torch.long), torch.zeros(1, len(TEXT) + 3, dtype=torch.long)
    ids[0, slots], mask[0, slots] = torch.tensor(TEXT), 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with blindfold(model, [RULE]), torch.no_grad():
        padded = model.hf(ids, attention_mask=mask, position_ids=positions).logits[0, slots]
        torch.testing.assert_close(padded, logits(model, TEXT), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rule_may_be_about_some_queries_only(family):
    model = model_of(family)
    with blindfold(model, [Rule((2, 4), 5, 7), Rule((0, 1), 20)]):
        masked = logits(model, TEXT)
    plain = logits(model, TEXT)
    assert torch.equal(masked[:5], plain[:5])
    assert not torch.allclose(masked[5:7], plain[5:7], atol=1e-3)


def test_blindfolds_add_up():
    model, other = model_of("llama"), Rule((0, 2), 5, 20)
    with blindfold(model, [RULE, other]):
        both = logits(model, TEXT)
    with blindfold(model, [RULE]), blindfold(model, [other]):
        assert torch.equal(logits(model, TEXT), both)


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_forcing_is_the_full_pass(family):
    model = model_of(family)
    rows = [TEXT, SWAPPED, TEXT[:17]]
    outside = PrefixCache(model)
    outside.get(TEXT[:START], 1)  # in front of every query that the rule is about
    with blindfold(model, [RULE]):
        forced = force(model, rows, prefixes=outside, read=range(START, len(TEXT)))
        assert forced.start <= START
        for row, found in zip(rows, forced.logprobs, strict=True):
            expected = logits(model, row).log_softmax(-1)[START:]
            torch.testing.assert_close(found[: len(expected)], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_that_was_computed_without_the_mask_is_refused(family):
    model = model_of(family)
    prefixes = PrefixCache(model)
    prefixes.get(TEXT[:18], 1)
    with blindfold(model, [RULE]):
        with pytest.raises(ModelError, match=r"7 cached states behind position 11 were not computed under this"):
            force(model, [TEXT], prefixes=prefixes, read=[20])
        force(model, [TEXT], prefixes=PrefixCache(model), read=[20])
    with blindfold(model, [Rule((2, 4), 15)]), pytest.raises(ModelError, match="were not computed under this"):
        force(model, [TEXT], prefixes=prefixes, read=[20])


@pytest.mark.parametrize("family", FAMILIES)
def test_splices_see_the_mask(family):
    model = model_of(family)
    source = (*TEXT[:4], 200, 201, *TEXT[6:START], 100, 101, 102, *TEXT[END:15], 210, *TEXT[16:])
    item = Interchange(TEXT, source, window=(4, 5, 9, 12, 15), keep=(13,))
    with blindfold(model, [RULE]):
        (spliced,) = splice(model, [item])
        expected = interchange_by_hooks(model, TEXT, source, item.window, item.keep).log_softmax(-1)[4:]
        torch.testing.assert_close(spliced, expected, atol=1e-4, rtol=1e-4)
    (plain,) = splice(model, [item])
    assert not torch.allclose(plain, spliced, atol=1e-2)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails):
    model = model_of("qwen2")

    def hooks():
        tables = (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_forward_hooks_with_kwargs",
            "_forward_pre_hooks_with_kwargs",
        )
        return [len(getattr(part, table)) for part in model.hf.modules() for table in tables]

    before, plain, names = hooks(), logits(model, TEXT), set(vars(model.hf))
    try:
        with blindfold(model, [RULE], says={3: 4}):
            assert hooks() != before
            logits(model, TEXT)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert hooks() == before
    assert set(vars(model.hf)) == names
    assert torch.equal(logits(model, TEXT), plain)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"keys": (5, 8), "start": 7}, "about the future.*begin at position 8"),
        ({"keys": (5, 5), "start": 9}, "hides no position"),
        ({"keys": (-1, 3), "start": 9}, "hides no position"),
        ({"keys": (1, 3), "start": 9, "end": 9}, "about no query"),
    ],
)
def test_rules_that_say_nothing_are_refused(rule, words):
    with pytest.raises(ModelError, match=words):
        Rule(**rule)


def refused(model, words, **options):
    with pytest.raises((ModelError, HookError), match=words), blindfold(model, [RULE]):
        logits(model, TEXT, **options)


def test_what_it_cannot_mask_is_refused():
    model = model_of("llama")
    cache = StaticCache(config=model.hf.config, max_cache_len=64)
    refused(model, "use DynamicCache", past_key_values=cache, use_cache=True)
    refused(model, "put everything that is to be hidden", attention_mask=torch.ones(1, 1, len(TEXT), len(TEXT)))
    with blindfold(model, [RULE]), pytest.raises(HookError, match="call the whole model"):
        model.hf.model(torch.tensor([TEXT]))
    with pytest.raises(ModelError, match="hides nothing"), blindfold(model, []):
        pass
    model.hf.config._attn_implementation = "flash_attention_2"
    refused(model, "'flash_attention_2' takes no mask")


def test_recurrent_layers_are_refused():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    linear = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "head_dim": 8}
    config = CONFIG_MAPPING["qwen3_next"](
        vocab_size=320,
        num_hidden_layers=4,
        linear_value_head_dim=8,
        shared_expert_intermediate_size=16,
        **sizes,
        **linear,
        **experts,
    )
    with torch.random.fork_rng(devices=[]):
        hf = AutoModelForCausalLM.from_config(config).eval()
    refused(load_model(hf, tiny_tokenizer(), name="recurrent"), "recurrent, linear or convolutional")
