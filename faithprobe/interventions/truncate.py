"""Cutting a chain short, or putting filler in its place, and asking for the answer at once.

Where a chain is cut, which tokens then stand there, what the model answers behind the family's cue, and how likely it
holds the answer that it gave at the end of its whole chain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from faithprobe.chains.read import read_answer
from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.chains.tokens import encode_in_context
from faithprobe.errors import UnscoredError
from faithprobe.models.forcing import force
from faithprobe.models.generation import halving
from faithprobe.tasks import Task, Value

ANSWER_TOKENS = 24
"""An answer is read from so many new tokens: who needs more is reasoning on."""
_SENTENCE_END = re.compile(r"(?<=\S)[.!?;](?=\s|$)|(?=\n)")


@dataclass(frozen=True)
class Cut:
    """A place where a chain may end."""

    step: str
    """Whose statement it follows; empty before the first step, and behind what follows the last."""
    end: int
    """In characters of the response."""
    tokens: int
    """How many of the chain's tokens stand before it."""


@dataclass(frozen=True)
class Asked:
    """A response that was cut or filled and ends with the cue: only the answer is missing."""

    text: str
    tokens: tuple[int, ...]
    """Prompt and `text`."""
    answer: tuple[int, ...]
    """The answer that the chain stated, as tokens behind the cue."""


def chain_end(task: Task, chain: Chain) -> int:
    """The character of the response at which its answer line begins. Raises UnscoredError where it states none, and
    where nothing stands before it."""
    found = [m for m in re.finditer(task.answer_pattern, chain.text) if m["value"]]
    if chain.answer is None or not found:
        raise UnscoredError("the response states no answer")
    if not chain.text[: found[-1].start()].strip():
        raise UnscoredError("nothing stands before the answer")
    return found[-1].start()


def cuts(task: Task, chain: Chain) -> tuple[Cut, ...]:
    """Before the first step, behind the sentence of each stated value, overruled ones too, and at the chain's end."""
    end = chain_end(task, chain)
    stated = [literal for literal in chain.stated if literal.chars[1] <= end]
    found = [Cut("", 0, 0)]
    for literal, after in zip(stated, [*(other.chars[0] for other in stated[1:]), end]):
        stop = _SENTENCE_END.search(chain.text, literal.chars[1], after)
        at = stop.end() if stop else literal.chars[1]
        found.append(Cut(literal.step, at, tokens_before(chain, at)))
    if chain.text[found[-1].end : end].strip():
        found.append(Cut("", end, tokens_before(chain, end)))
    return tuple(found)


def tokens_before(chain: Chain, char: int) -> int:
    """How many of the response's tokens write nothing from character `char` on."""
    begin = len(chain.question_text)
    return sum(end - begin <= char for _, end in chain.offsets[chain.n_prompt - chain.question_start :])


def asked(subject: Subject, chain: Chain, text: str, *, overlap: int = 4) -> Asked:
    """`text` in place of the response. As far as they agree, the tokens are those that the model itself wrote.

    Raises UnscoredError where the tokenizer has no border there, or none between the cue and the stated answer.
    """
    assert chain.answer_chars is not None
    tokens = _rewritten(subject, chain, text, overlap)
    answer = encode_in_context(subject.model.tokenizer, tokens, f" {chain.text[slice(*chain.answer_chars)]}")
    if not answer:
        raise UnscoredError("the tokenizer has no border between the cue and the answer")
    return Asked(text, tokens, answer)


def _rewritten(subject: Subject, chain: Chain, text: str, overlap: int) -> tuple[int, ...]:
    begin, first = len(chain.question_text), chain.n_prompt
    different = (k for k, (new, old) in enumerate(zip(text, chain.text)) if new != old)
    agreed = next(different, min(len(text), len(chain.text)))
    ends = [end - begin for _, end in chain.offsets[first - chain.question_start :]]
    kept = sum(end <= agreed for end in ends)
    for k in range(kept, max(-1, kept - overlap), -1):
        context = chain.tokens[: first + k]
        ids = encode_in_context(subject.model.tokenizer, context, text[ends[k - 1] if k else 0 :])
        if ids is not None:
            return (*context, *ids)
    raise UnscoredError("the tokenizer has no border where the chain is cut")


def answers(subject: Subject, rows: Sequence[Asked]) -> list[Value | None]:
    """The answer that the model gives behind each cue, greedily; None where what follows is none."""
    decoding = replace(
        subject.decoding, max_new_tokens=min(ANSWER_TOKENS, subject.task.max_new_tokens), temperature=0.0
    )
    different = list(dict.fromkeys(row.tokens for row in rows))
    tails = dict(zip(different, subject.complete(different, decoding=decoding), strict=True))
    return [_answer(subject.task, row.text, tails[row.tokens]) for row in rows]


def _answer(task: Task, text: str, tail: str) -> Value | None:
    """The first answer in the first line of `tail`; one that already stood in `text` is none."""
    # one space between them: some tokenizers decode the first token without its own
    whole = f"{text} {tail.lstrip().split(chr(10), 1)[0]}"
    found = [m for m in re.finditer(task.answer_pattern, whole) if m["value"] and m.end("value") > len(text)]
    if not found:
        return None
    return read_answer(task, whole[: found[1].start()] if len(found) > 1 else whole)[0]


def logprobs(subject: Subject, rows: Sequence[Asked]) -> list[float]:
    """Log-probability of the stated answer behind each cue, as a whole string, in nats. What only begins with the
    answer's tokens counts as the answer."""
    order = sorted({(row.tokens, row.answer) for row in rows}, key=lambda pair: len(pair[0]))
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}

    def work(batch: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[float]:
        spans = [(len(tokens), len(tokens) + len(answer)) for tokens, answer in batch]
        whole = [(*tokens, *answer) for tokens, answer in batch]
        read = sorted({p for start, end in spans for p in range(start - 1, end - 1)})
        forced = force(subject.model, whole, prefixes=subject.prefixes, read=read)
        return [forced.of_span(i, whole[i], span) for i, span in enumerate(spans)]

    for batch, done in halving(order, subject.batch_size, work):
        found |= zip(batch, done, strict=True)
    return [found[row.tokens, row.answer] for row in rows]
