"""From characters to tokens and back, for any tokenizer: only `decode` and `__call__` are used.

Offset mappings exist for fast tokenizers only, and for text that was encoded, not for ids that a model sampled. What
holds for every tokenizer: the first ids decode to the beginning of the text, up to unfinished characters and white
space at the very start.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

Span = tuple[int, int]

_LONGEST_WINDOW = 400
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The exact text of token ids, special tokens included."""
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def offsets(tokenizer: Any, ids: Sequence[int], *, overlap: int = 6) -> tuple[str, tuple[Span, ...]]:
    """The text of `ids`, and for each token the [start, end) of the characters that it writes, white space included.

    Tokens that share a character, as parts of an emoji do, all get the whole of it, as in the offset mappings of fast
    tokenizers. Decodes short windows that overlap, so that the cost is linear.
    """
    text = decode(tokenizer, ids)
    spans: list[Span] = []
    anchor, origin = 0, 0  # the window's first token, and the place of its text
    done = 0  # characters that are complete
    for end in range(1, len(ids) + 1):
        window = decode(tokenizer, ids[anchor:end])
        agreed = _common(window, text[origin : origin + len(window)])
        before, done = done, max(done, origin + agreed)
        unfinished = agreed < len(window) and window[agreed] == _UNFINISHED
        spans.append((before, min(done + unfinished, len(text))))
        if end - anchor >= 2 * overlap:
            anchor, origin = _next_window(tokenizer, ids[:end], text[:done], (anchor, origin), overlap)
    return text, tuple(spans)


def _next_window(tokenizer: Any, ids: Sequence[int], text: str, window: Span, overlap: int) -> Span:
    """A later window: its first token, at the border of a character (of at most four bytes), and where its text begins.

    The old one where there is none, as long as that is short: some decoders write a whole run of bytes otherwise where
    one of them is wrong.
    """
    for anchor in range(len(ids) - overlap, len(ids) - overlap - 4, -1):
        written = decode(tokenizer, ids[anchor:])
        if text.endswith(written):
            return anchor, len(text) - len(written)
    return window if len(ids) - window[0] < _LONGEST_WINDOW else (len(ids) - overlap, len(text))


def _common(one: str, other: str) -> int:
    """How many characters at the beginning are the same."""
    if one == other:
        return len(one)
    return next((k for k, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def span_of(chars: Span, token_offsets: Sequence[Span], text: str) -> Span | str:
    """Indices [start, end) of the tokens that write `chars`, or why there are none.

    A token may bring white space in front of the literal; any other text in a shared token makes it unusable, since
    an edit of the literal would change that text too.
    """
    start, end = chars
    first = bisect_right(token_offsets, start, key=itemgetter(1))
    last = bisect_left(token_offsets, end, key=itemgetter(0))
    if start >= end or first >= last:
        return "no token writes it"
    before = text[token_offsets[first][0] : start]
    after = text[end : max(b for _, b in token_offsets[first:last])]
    if before.strip() or after:
        return f"its token also writes {(before.strip() or after)!r}"
    return first, last


def encode_in_context(tokenizer: Any, context: Sequence[int], text: str, *, overlap: int = 8) -> tuple[int, ...] | None:
    """Token ids that write exactly `text` after `context`, or None where the tokenizer cannot put a border there."""
    tail = list(context[-overlap:])
    before = decode(tokenizer, tail)
    for ids in _encodings(tokenizer, tail, text):
        if decode(tokenizer, [*tail, *ids]) == before + text:
            return tuple(ids)
    return None


def _encodings(tokenizer: Any, tail: Sequence[int], text: str) -> Iterator[list[int]]:
    """`text` by itself, then behind shorter and shorter ends of the context: some tokenizers begin every text with a
    space, which stands inside a text for a real one."""

    def encode(written: str) -> list[int]:
        return list(tokenizer(written, add_special_tokens=False)["input_ids"])

    yield encode(text)
    written = [decode(tokenizer, tail[k:]) for k in range(len(tail))]
    for context in dict.fromkeys([*written, "\n", "."]):
        alone, joined = encode(context), encode(context + text)
        if joined[: len(alone)] == alone:
            yield joined[len(alone) :]
