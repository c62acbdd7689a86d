"""From characters to tokens and back, for any tokenizer: only `decode` and `__call__` are used.

Offset mappings exist for fast tokenizers only, and for text that was encoded, not for ids that a model sampled; a
prefix of the ids always decodes to a prefix of the text, up to unfinished UTF-8 sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Span = tuple[int, int]


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The exact text of token ids, special tokens included."""
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def offsets(tokenizer: Any, ids: Sequence[int], *, overlap: int = 6) -> tuple[str, tuple[Span, ...]]:
    """The text of `ids` and each token's [start, end) in it.

    Decodes in a sliding window of `overlap` tokens, so that the cost is linear. A token that is part of an unfinished
    character gets an empty span, and the token that completes it gets the whole character.
    """
    text, spans = "", []
    anchor = 0  # the window's first token
    done = 0  # tokens whose text is complete
    for end in range(1, len(ids) + 1):
        before = decode(tokenizer, ids[anchor:done])
        window = decode(tokenizer, ids[anchor:end])
        if window.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids):
            spans.append((len(text), len(text)))
            continue
        piece = window[len(before) :]
        spans.append((len(text), len(text) + len(piece)))
        text += piece
        done = end
        anchor = max(anchor, done - overlap)
    return text, tuple(spans)


def span_of(chars: Span, token_offsets: Sequence[Span], text: str) -> Span | str:
    """Indices [start, end) of the tokens that write `chars`, or why there are none.

    A token may bring white space in front of the literal; any other text in a shared token makes it unusable, since
    an edit of the literal would change that text too.
    """
    start, end = chars
    touched = [i for i, (a, b) in enumerate(token_offsets) if a < end and b > start]
    if not touched:
        return "no token writes it"
    before = text[token_offsets[touched[0]][0] : start]
    after = text[end : token_offsets[touched[-1]][1]]
    if before.strip() or after.strip():
        return f"its token also writes {(before.strip() or after.strip())!r}"
    return touched[0], touched[-1] + 1


def encode_in_context(tokenizer: Any, context: Sequence[int], text: str, *, overlap: int = 8) -> tuple[int, ...] | None:
    """Token ids that write `text` after `context`, or None where the tokenizer cannot put a border there."""
    tail = list(context[-overlap:])
    before = decode(tokenizer, tail)
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if decode(tokenizer, [*tail, *ids]) == before + text:
        return ids
    joined = tokenizer(before + text, add_special_tokens=False)["input_ids"]
    if list(joined[: len(tail)]) == tail:
        return tuple(joined[len(tail) :])
    return None
