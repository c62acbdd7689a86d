"""Tokenizers that split text in every way that matters, built in memory; real ones where their files are."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from tests.tiny import tiny_tokenizer

CACHE = Path.home() / ".cache"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_ASCII = [chr(code) for code in range(33, 127)]


def _pairs(space: str) -> list[tuple[str, str]]:
    """Merges: two digits are one token, a space goes with what follows, `=` with the space behind it."""
    return [*((a, b) for a in "123456789" for b in "0123456789"), *((space, c) for c in "+-*=AQ1234567890")]


def _bytes_and(merges: list[tuple[str, str]]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    words = dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)])
    return {word: k for k, word in enumerate(words)}, merges


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 1: a space in front of every text, which decoding drops; unknown characters become bytes."""
    merges = _pairs("▁")
    words = ["<unk>", "<s>", *_BYTES, "▁", "\n", *_ASCII, *(a + b for a, b in merges)]
    vocabulary = {word: k for k, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def metaspace() -> PreTrainedTokenizerFast:
    """As T5: words begin with a space, and decoding drops the first."""
    merges = _pairs("▁")
    words = ["<unk>", "▁", "\n", "\t", *_ASCII, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2: bytes, of which a character may need several."""
    tokenizer = Tokenizer(models.BPE(*_bytes_and(_pairs("Ġ"))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def equals() -> PreTrainedTokenizerFast:
    """Writes a number and an `=` in front of it as one token, so that the number cannot be edited alone."""
    tokenizer = Tokenizer(models.BPE(*_bytes_and([("1", "2"), ("=", "12")])))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


class SlowTokenizer(PreTrainedTokenizer):
    """In Python, without offset mappings: a number, with the space before it, is one token; else a character."""

    def __init__(self, **options: Any) -> None:
        numbers = [str(n) for n in range(1000)]
        words = ["<unk>", "\n", "\t", " ", *_ASCII, *numbers, *(f" {n}" for n in numbers)]
        self.ids = {word: k for k, word in enumerate(dict.fromkeys(words))}
        super().__init__(unk_token="<unk>", **options)

    @property
    def vocab_size(self) -> int:
        return len(self.ids)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.ids)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return re.findall(r" ?(?:0|[1-9][0-9]{0,2})|[\s\S]", text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.ids.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self.ids)[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


def _folder(pattern: str) -> Any:
    found = sorted(CACHE.glob(pattern))
    if not found:
        pytest.skip(f"needs a tokenizer in {CACHE / pattern}, and there is none")
    return AutoTokenizer.from_pretrained(found[0])


_KINDS = {
    "split": lambda: tiny_tokenizer("split"),
    "merged": lambda: tiny_tokenizer("merged"),
    "spaced": lambda: tiny_tokenizer("spaced"),
    "sentencepiece": sentencepiece,
    "metaspace": metaspace,
    "byte-level": byte_level,
    "slow": SlowTokenizer,
    "equals": equals,
    "smollm2": lambda: _folder("faithprobe*/[sS]mol[lL][mM]2*"),
    "qwen": lambda: _folder("faithprobe*/[qQ]wen*"),
}
KINDS = tuple(kind for kind in _KINDS if kind != "equals")
UNICODE = ("sentencepiece", "byte-level", "smollm2", "qwen")
"""Those that can write any character."""


@cache
def tokenizer_of(kind: str) -> Any:
    """Skips where it needs files that are not here."""
    return _KINDS[kind]()
