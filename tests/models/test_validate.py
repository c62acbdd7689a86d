"""Models that would give wrong numbers without a sign of it are refused when they are loaded."""

import pytest
import torch
from torch import nn

from faithprobe.errors import ModelError
from faithprobe.models import load_model
from faithprobe.models.sites import Sites
from faithprobe.models.validate import validate_model
from tests.models.test_sites import hook_counts
from tests.tiny import tiny_language_model, tiny_model, tiny_tokenizer


def test_damaged_weights_are_refused():
    hf = tiny_model("llama")
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"blocks.1.hook_resid_post are NaN or infinite"):
        load_model(hf, tiny_tokenizer())
    assert hook_counts(hf) == [(0, 0)] * len(list(hf.modules()))
    assert load_model(hf, tiny_tokenizer(), validate=False).n_layers == 3


def test_a_damaged_head_is_refused():
    hf = tiny_model("gpt2", tie_word_embeddings=False)
    with torch.no_grad():
        hf.lm_head.weight[7] = float("inf")
    with pytest.raises(ModelError, match="logits are NaN or infinite"):
        load_model(hf, tiny_tokenizer())


def test_a_skipped_layer_is_refused():
    hf = tiny_model("llama")
    hf.config.num_hidden_layers = 2
    with pytest.raises(ModelError, match=r"blocks.2.hook_resid_post fired 0 times"):
        load_model(hf, tiny_tokenizer())


def test_a_layer_that_runs_twice_is_refused():
    hf = tiny_model("llama")
    hf.model.layers[1] = hf.model.layers[0]
    with pytest.raises(ModelError, match=r"blocks.0.hook_resid_post fired 2 times"):
        load_model(hf, tiny_tokenizer())


class Overwrites(nn.Module):
    """A layer around a layer whose result is thrown away: edits inside it reach nothing."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.attention_type = getattr(inner, "attention_type", "full_attention")

    def forward(self, hidden_states, **options):
        self.inner(hidden_states, **options)
        return hidden_states


def test_an_edit_that_reaches_nothing_is_refused():
    model = tiny_language_model("llama")
    layers = model.hf.model.layers
    sites = dict(model.sites.table)
    layers[1] = Overwrites(layers[1])
    stale = type(model)(
        model.hf, model.tokenizer, "stale", Sites(model.n_layers, model.d_model, sites), model.fingerprint
    )
    with pytest.raises(ModelError, match=r"blocks.1.hook_resid_post"):
        validate_model(stale)


def test_the_wrong_width_is_refused():
    model = tiny_language_model("llama")
    wrong = type(model)(model.hf, model.tokenizer, "wrong", Sites(3, 31, model.sites.table), model.fingerprint)
    with pytest.raises(ModelError, match=r"has shape \[1, 6, 32\], where \[1, 6, 31\]"):
        validate_model(wrong)


@pytest.mark.parametrize("layers", [1, 2])
def test_shallow_models_pass(layers):
    assert load_model(tiny_model("llama", num_hidden_layers=layers), tiny_tokenizer()).n_layers == layers


def test_a_short_context_passes():
    assert load_model(tiny_model("gpt2", n_positions=4), tiny_tokenizer()).context_length == 4
