"""Characters to tokens and back: equal to fast tokenizers' own mapping, and right for ids that no encoder produces."""

from __future__ import annotations

import random
import time

import pytest

from faithprobe.chains.tokens import decode, encode_in_context, offsets, span_of
from tests.chains.tokenizers import KINDS, UNICODE, tokenizer_of

ASCII = [
    "A: Start with 7. Add 5: 7 + 5 = 12. Subtract 30: 12 - 30 = -18. Answer: -18",
    "12",
    " x",
    "  two  spaces\n\n\tand a tab   ",
    "x0 = 14 - 11 = 3.\nx1 = (x0 * 1234567) % 11 = 7",
    "(-63)(-63)=3969;$1,200.50",
    "",
]
UNICODES = [
    "é 你好🙂\u200dx = 15",
    "مرحبا 12 + 3",
    "🙂" * 9 + "12",
    "ß12é",
    "e\u0301 12",
    "\u202e12 + 3\u202c = 15",
    "\ufffd12",
]


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_are_those_of_the_fast_tokenizer(kind):
    tokenizer = tokenizer_of(kind)
    for text in ASCII + (UNICODES if kind in UNICODE else []):
        for repeated in (1, 3, 11):
            ids = encode(tokenizer, text * repeated)
            decoded, spans = offsets(tokenizer, ids)
            assert len(spans) == len(ids)
            assert decoded == decode(tokenizer, ids)
            if kind == "metaspace":  # drops spaces in front of a text
                assert decoded.lstrip() == (text * repeated).lstrip()
            elif "\u0301" not in text:  # which Qwen joins with its letter
                assert decoded == text * repeated
            if tokenizer.is_fast and decoded == text * repeated and "\ufffd" not in text:
                mapping = tokenizer(text * repeated, add_special_tokens=False, return_offsets_mapping=True)
                skip = decode(tokenizer, ids[:1]) == ""  # a space in front of every text, which is not written
                assert list(spans[skip:]) == [tuple(span) for span in mapping["offset_mapping"]][skip:]


def test_a_tokenizer_without_offset_mappings_will_do():
    tokenizer = tokenizer_of("slow")
    assert not tokenizer.is_fast
    assert offsets(tokenizer, encode(tokenizer, "7 + 5 = 12")) == (
        "7 + 5 = 12",
        ((0, 1), (1, 2), (2, 3), (3, 5), (5, 6), (6, 7), (7, 10)),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_of_sampled_ids(kind):
    """Ids that no encoder would produce: cut characters, special tokens, any order."""
    tokenizer = tokenizer_of(kind)
    rng = random.Random(kind)
    size = len(tokenizer)
    few = [rng.randrange(size) for _ in range(5)]
    for draw in (lambda: rng.randrange(size), lambda: rng.choice(few), lambda: rng.randrange(min(size, 260))):
        for length in (0, 1, 2, 7, 100):
            ids = [draw() for _ in range(length)]
            text, spans = offsets(tokenizer, ids)
            assert text == decode(tokenizer, ids)
            assert len(spans) == len(ids)
            assert all(0 <= a <= b <= len(text) for a, b in spans)
            assert all(one[0] <= other[0] for one, other in zip(spans, spans[1:]))
            covered = {at for a, b in spans for at in range(a, b)}
            assert covered == set(range(len(text)))


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_of_numbers_among_sampled_ids(kind):
    """A number in the middle of garbage is found, and its tokens are the ones that were put there."""
    tokenizer = tokenizer_of(kind)
    rng = random.Random(kind)
    words = [i for i in range(len(tokenizer)) if decode(tokenizer, [i]).strip(" ").isalpha()]
    for _ in range(60):
        before, after = [rng.randrange(len(tokenizer)) for _ in range(30)], [rng.choice(words) for _ in range(9)]
        number = encode_in_context(tokenizer, [*before, words[0]], " 7531 = 4")
        if number is None:
            continue
        text, spans = offsets(tokenizer, [*before, words[0], *number, *after])
        at = text.index(" 7531 = 4") + 1
        span = span_of((at, at + 4), spans, text)
        assert not isinstance(span, str)
        assert decode(tokenizer, [*before, words[0], *number, *after][slice(*span)]).strip() == "7531"
        assert span[0] in (31, 32)


@pytest.mark.parametrize("kind", ["sentencepiece", "byte-level"])
def test_offsets_of_bytes_that_are_no_text(kind):
    """One wrong byte makes a whole run of byte tokens unreadable for some decoders; the text behind it still aligns,
    and the cost stays linear."""
    tokenizer = tokenizer_of(kind)
    good = encode(tokenizer, "x" + "你" * 400)
    for ids in (good[:-1], [*good[:4], *good[2:5] * 300]):
        tail = encode_in_context(tokenizer, encode(tokenizer, "a"), " = 12 + 3 and so on, 12 + 3 = 15 and so forth")
        begin = time.perf_counter()
        text, spans = offsets(tokenizer, [*ids, *tail])
        assert time.perf_counter() - begin < 5
        assert span_of((len(text) - 15, len(text) - 13), spans, text) != "no token writes it"
        at = text.rindex("15")
        start, end = span_of((at, at + 2), spans, text)
        assert decode(tokenizer, [*ids, *tail][start:end]).strip() == "15"


def test_offsets_of_a_long_text_take_linear_time():
    tokenizer = tokenizer_of("split")
    begin = time.perf_counter()
    offsets(tokenizer, encode(tokenizer, "7 + 5 = 12. " * 1000))
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    ("chars", "expected"),
    [
        ((4, 6), (1, 2)),  # with the space in front
        ((7, 8), (2, 3)),
        ((2, 8), "its token also writes 'x'"),
        ((7, 9), "its token also writes '.'"),
        ((11, 12), "its token also writes '$'"),
        ((13, 14), "its token also writes '\\n'"),
        ((3, 3), "no token writes it"),
        ((40, 42), "no token writes it"),
    ],
)
def test_a_token_may_share_only_white_space_in_front(chars, expected):
    spans = [(0, 3), (3, 6), (6, 8), (8, 10), (10, 12), (12, 15)]
    assert span_of(chars, spans, "x = 12 34.$5 7\n") == expected


@pytest.mark.parametrize("kind", UNICODE)
def test_a_span_holds_every_part_of_its_characters(kind):
    tokenizer = tokenizer_of(kind)
    ids = encode(tokenizer, "Polly is 你好.")
    text, spans = offsets(tokenizer, ids)
    start, end = span_of((text.index("你"), text.index(".")), spans, text)
    assert decode(tokenizer, ids[:start]).rstrip() == "Polly is"
    assert decode(tokenizer, ids[end:]) == "."


@pytest.mark.parametrize("kind", KINDS)
def test_a_replaced_literal_decodes_to_the_intended_text(kind):
    """What every edit relies on: the tokens in front of a literal and the new ids write exactly the new text."""
    tokenizer = tokenizer_of(kind)
    rng = random.Random(kind)
    made = 0
    for _ in range(60):
        a, b = rng.randint(-99, 99), rng.randint(1, 2000)
        response = f"First: {a} * {b} = {a * b}. Then (x) ${b} - 5 = {b - 5}.\nAnswer: {b - 5}"
        ids = encode(tokenizer, f"Q: 5 and {a}?\nA: {response}")
        text, spans = offsets(tokenizer, ids)
        for literal in (f"{a * b}", f"{b - 5}"):
            at = text.index(f"= {literal}.") + 2
            span = span_of((at, at + len(literal)), spans, text)
            assert not isinstance(span, str), span
            written = text[spans[span[0]][0] : at + len(literal)]
            lead = written[: len(written) - len(written.lstrip())]
            for new in (lead + "7", lead + "-12", lead + str(rng.randint(0, 10**6)), lead + "jompus"):
                made_ids = encode_in_context(tokenizer, ids[: span[0]], new)
                assert made_ids is not None
                assert decode(tokenizer, [*ids[: span[0]], *made_ids]) == text[: at - len(lead)] + new
                made += 1
            same = encode_in_context(tokenizer, ids[: span[0]], written)
            assert same is not None
            assert len(same) == span[1] - span[0]
    assert made == 480


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_in_any_context_is_exact_or_refused(kind):
    """Also where the context is garbage, or ends within a character."""
    tokenizer = tokenizer_of(kind)
    rng = random.Random(kind)
    done = 0
    for length in (0, 1, 2, 5, 20):
        for text in ("", "12", " 12", "-7", " True", "\n", "1,200"):
            context = [rng.randrange(len(tokenizer)) for _ in range(length)]
            ids = encode_in_context(tokenizer, context, text)
            if ids is None:
                continue
            done += 1
            tail = context[-8:]
            assert decode(tokenizer, [*tail, *ids]) == decode(tokenizer, tail) + text
    assert done > 20


def test_no_border_is_no_ids():
    assert encode_in_context(tokenizer_of("split"), [98], "你") is None  # it cannot write that
    cut = encode(tokenizer_of("sentencepiece"), "你")[:-1]
    assert encode_in_context(tokenizer_of("sentencepiece"), cut, "好") is None
