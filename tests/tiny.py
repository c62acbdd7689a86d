"""Small random models and exact tokenizers, built in memory, for every test that needs a real Hugging Face model."""

from __future__ import annotations

import string
from functools import cache
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from faithprobe.models.language_model import LanguageModel

FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "gemma")
Digits = Literal["split", "merged", "spaced"]

_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
_CHARACTERS = (*string.printable[:95], "\n", "\t")
_PIECES = {
    "split": r"[\s\S]",
    "merged": r"\d{1,2}|[\s\S]",
    "spaced": r" ?\d{1,2}|[\s\S]",
}
# Every vocabulary is filled up to this size, so any tokenizer can decode whatever any random model writes.
_VOCABULARY = 320


@cache
def _vocabulary(digits: Digits) -> tuple[str, ...]:
    pairs = [f"{n:02}" for n in range(100)] if digits != "split" else []
    spaced = [f" {n}" for n in (*range(10), *pairs)] if digits == "spaced" else []
    words = (*_SPECIAL, *_CHARACTERS, *pairs, *spaced)
    return (*words, *(f"w{i}" for i in range(len(words), _VOCABULARY)))


def tiny_tokenizer(digits: Digits = "split", **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that decodes every ASCII text exactly as it was, with offsets.

    Args:
        digits: `split`, one token a character; `merged`, two digits are one token (`123` is `12` `3`); `spaced`, a
            number also swallows the space before it (` 12` is one token), as in GPT-2.
        options: anything that `PreTrainedTokenizerFast` takes, `pad_token=None` for example.
    """
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_vocabulary(digits))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES[digits]), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    defaults = {
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
        "name_or_path": f"tiny-{digits}",
        "clean_up_tokenization_spaces": False,
        "chat_template": (
            "{% for m in messages %}{{ m.role[0].upper() }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}A:{% endif %}"
        ),
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**defaults, **options})


def tiny_config(family: str, **overrides: Any) -> Any:
    """The configuration of `tiny_model`: d_model 32, 3 layers (gemma: 4), 4 heads, 2 key-value heads where grouped."""
    options: dict[str, Any] = {"vocab_size": _VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    # The usual .02 leaves the residual stream so small that every effect drowns in the norms.
    options["initializer_range"] = 0.2
    if family == "gpt2":
        options |= {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
    else:
        options |= {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
        }
    if family in ("llama", "qwen2", "gemma"):
        options |= {"num_key_value_heads": 2}
    if family == "gemma":
        kinds = ["sliding_attention", "full_attention"]
        options |= {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
        options |= {"num_hidden_layers": 4, "layer_types": kinds * 2}
    # The sizes of a family's layers follow its number of layers.
    options |= overrides
    if family == "gemma" and "layer_types" not in overrides:
        options["layer_types"] = (kinds * options["num_hidden_layers"])[: options["num_hidden_layers"]]
    if family not in FAMILIES:
        raise ValueError(f"no tiny model {family!r}; there are {', '.join(FAMILIES)}")
    return CONFIG_MAPPING["gemma3_text" if family == "gemma" else family](**options)


def tiny_model(family: str = "llama", seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random model of `family` in fp32 on the CPU, in eval mode; the same seed gives the same weights.

    `gemma` is a Gemma 3 text model: post-norms, and sliding-window layers of width 8 between full ones.
    `overrides` are fields of the family's configuration. The caller's random state is not touched.
    """
    config = tiny_config(family, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Greedy answers run to max_new_tokens: a random model would otherwise stop wherever it happens to write <eos>.
    model.generation_config.eos_token_id = None
    return model.eval()


def tiny_language_model(
    family: str = "llama", seed: int = 0, digits: Digits = "split", **overrides: Any
) -> LanguageModel:
    """`tiny_model` and `tiny_tokenizer` as `load_model` gives them."""
    from faithprobe.models import load_model

    return load_model(tiny_model(family, seed, **overrides), tiny_tokenizer(digits), name=f"tiny-{family}")
