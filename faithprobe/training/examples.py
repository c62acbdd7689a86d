"""Training examples: a chain as a row of token ids, and the counterfactual rows that may join its batch.

What an objective compares are *variants* of a chain, each about one step and one replaced value:

    recomputed      the value is replaced, and what follows from it is recomputed
    interchanged    the text behind is recomputed, the literal itself is not replaced: its state will be
    partner         the model's text on a counterfactual problem, whose own value of the step is the replacement
    answered        as recomputed, but only the answer is asked for
    flipped         as answered, with the answer that the chain had before
    untouched       the value is replaced, everything behind it stays as it was
    truncated       the chain is cut behind the step, and the answer follows at once
    blind           the chain as it is, the question out of sight; the answer and what ends it are asked for
    stated          the chain as it is, and no row of its own: it is read in the batch's own row, at the step's value

The rows of a *group* belong together: they join a batch all or none. An example is a dictionary of lists, so that it
can stand in any dataset; `Collator` makes batches of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.chains.tokens import encode_in_context
from faithprobe.errors import TaskError
from faithprobe.interventions.swap import Replacement, replacements
from faithprobe.models.prompts import end_tokens
from faithprobe.tasks import Problem
from faithprobe.tasks.graph import show_value
from faithprobe.training.counterfactual import Row, answer_targets, answered, recomputed, value_targets
from faithprobe.training.markovian import blind
from faithprobe.training.objectives import get_objective

COLUMNS: tuple[str, ...] = (
    *("input_ids", "labels", "answer_targets", "group_steps", "row_groups", "row_variants"),
    *("row_tokens", "row_targets", "row_literals", "row_hidden"),
)
"""Of an example. `row_*` hold one entry for each counterfactual row, `group_steps` the step of each group."""
IGNORED = -100
"""A label that no loss counts."""

Example = dict[str, Any]


def training_examples(
    subject: Subject,
    problems: Sequence[Problem],
    *,
    objective: str = "counterfactual",
    counterfactuals: int = 2,
    steps: Sequence[str] | None = None,
    seed: int = 0,
    skip: bool = False,
) -> list[Example]:
    """One example for each problem: its reference response behind the subject's prompt, with counterfactual rows.

    Args:
        subject: model (for its tokenizer), task, and how it is asked.
        problems: to train on.
        objective: decides which variants are made; "cross-entropy" needs none.
        counterfactuals: replaced values for every step.
        steps: of the reference graph, to be corrupted; default: every stated step that the answer needs.
        seed: draws the replacements.
        skip: leave out a problem that has no counterfactual, instead of raising.

    Raises:
        TaskError: a response cannot be put behind its prompt, states none of the steps, or none of its values can be
            replaced.
        UnknownNameError: no such objective.
    """
    found = []
    for problem in problems:
        prompt = subject.prompt(problem)
        tokens = subject.forced(problem, problem.response)
        if tokens is None:
            raise TaskError(f"the tokenizer puts no border between prompt and response of problem {problem.id!r}")
        # a reference ends by itself, also where it is longer than the model is allowed to write
        chain = replace(subject.read(problem, prompt, tokens[len(prompt) :]), finished=True)
        try:
            found.append(
                training_example(
                    subject, chain, objective=objective, counterfactuals=counterfactuals, steps=steps, seed=seed
                )
            )
        except TaskError:
            if not skip:
                raise
    return found


def training_example(
    subject: Subject,
    chain: Chain,
    *,
    objective: str = "counterfactual",
    counterfactuals: int = 2,
    steps: Sequence[str] | None = None,
    seed: int = 0,
) -> Example:
    """The example of one chain, a reference one or the model's own. Arguments and errors: `training_examples`."""
    variants = get_objective(objective).variants
    ends = end_tokens(subject.model)[:1] if chain.finished else []
    example: Example = {
        "input_ids": [*chain.tokens, *ends],
        "labels": [IGNORED] * chain.n_prompt + [*chain.tokens[chain.n_prompt :], *ends],
        "answer_targets": list(answer_targets(subject, chain)),
        **{name: [] for name in COLUMNS[3:]},
    }
    if not variants:
        return example
    asked = _steps(chain, steps)
    if variants[0] in AS_WRITTEN:
        for step, row in AS_WRITTEN[variants[0]](subject, chain, asked, ends):
            _add(example, chain.reference.get(step, step), {variants[0]: row})
        if not example["group_steps"]:
            what = "answer" if variants[0] == "blind" else "step that was asked for and that the answer needs"
            raise TaskError(f"the chain of problem {chain.id!r} states no {what}. skip=True leaves such problems out")
        return example
    for step in asked:
        rng = random.Random(f"counterfactual {seed} {chain.id} {step}")
        made = 0
        for replacement in replacements(subject, chain, step, n=3 * counterfactuals, rng=rng):
            rows = _rows(subject, chain, replacement, variants)
            if rows is not None and made < counterfactuals:
                _add(example, chain.reference.get(step, step), rows)
                made += 1
    if not example["group_steps"]:
        why = "; ".join(f"{step}: {reason}" for step, reason in list(chain.unlocated.items())[:3])
        raise TaskError(
            f"no stated value of problem {chain.id!r} can be replaced (steps {', '.join(asked) or 'none'}"
            f"{'; ' + why if why else ''}): what follows must change, in a text of known owners, and the literal must "
            "keep its number of tokens. skip=True leaves such problems out"
        )
    return example


def _steps(chain: Chain, steps: Sequence[str] | None) -> list[str]:
    """Literals to be corrupted: needed, located, and with something stated behind them."""
    unknown = [name for name in steps or () if name not in {step.name for step in chain.problem.graph.steps}]
    if unknown:
        known = ", ".join(step.name for step in chain.problem.graph.steps)
        raise TaskError(f"problem {chain.id!r} has no step {unknown[0]!r}; its steps: {known}")
    return [
        step
        for step in chain.literals
        if step in chain.graph.needed
        and step not in chain.unlocated
        and (steps is None or chain.reference.get(step) in steps)
    ]


def _add(example: Example, step: str, rows: Mapping[str, Row]) -> None:
    group = len(example["group_steps"])
    example["group_steps"].append(step)
    for variant, row in rows.items():
        example["row_groups"].append(group)
        example["row_variants"].append(variant)
        example["row_tokens"].append(list(row.tokens))
        example["row_targets"].append(list(row.targets))
        example["row_literals"].append(list(row.literal))
        example["row_hidden"].append(list(row.hidden))


def _rows(subject: Subject, chain: Chain, replacement: Replacement, variants: Sequence[str]) -> dict[str, Row] | None:
    """The rows of one group; None where one of them cannot be made."""
    found: dict[str, Row] = {}
    for variant in variants:
        row = VARIANTS[variant](subject, chain, replacement)
        if row is None:
            return None
        found[variant] = row
    return found


def _interchanged(subject: Subject, chain: Chain, replacement: Replacement) -> Row | None:
    row = recomputed(subject, chain, replacement)
    if row is None:
        return None
    start, end = row.literal
    return Row((*row.tokens[:start], *chain.tokens[start:end], *row.tokens[end:]), row.targets, row.literal)


def _untouched(subject: Subject, chain: Chain, replacement: Replacement) -> Row | None:
    literal = chain.literals[replacement.step]
    targets = tuple(t for t in answer_targets(subject, chain) if t >= literal.span[1])
    tokens = (*replacement.tokens, *chain.tokens[literal.span[1] :])
    return Row(tokens, targets, literal.span) if targets else None


def _partner(subject: Subject, chain: Chain, replacement: Replacement) -> Row | None:
    """The counterfactual problem's reference response: behind the literal it must ask for what `recomputed` does."""
    partner, here = replacement.partner, recomputed(subject, chain, replacement)
    tokens = None if partner is None else subject.forced(partner, partner.response, like=chain.text)
    if partner is None or here is None or tokens is None:
        return None
    prompt = subject.prompt(partner)
    other = subject.read(partner, prompt, tokens[len(prompt) :])
    step = next((s for s, name in other.reference.items() if name == chain.reference.get(replacement.step)), None)
    if step is None or step not in other.literals:
        return None
    targets = value_targets(subject, other, step)
    if [tokens[t] for t in targets] != [here.tokens[t] for t in here.targets]:
        return None  # an input that enters later differs as well
    return Row(tokens, targets, other.literals[step].span)


def _truncated(subject: Subject, chain: Chain, replacement: Replacement) -> Row | None:
    literal = chain.literals[replacement.step]
    if chain.answer is None or chain.answer_chars is None or literal.chars[1] > chain.answer_chars[0]:
        return None
    if replacement.step == chain.final_step:  # the chain is complete: confidence is not early
        return None
    cut = subject.task.truncated(chain.problem, chain.text, literal.chars[1])
    written = show_value(chain.answer)
    new = encode_in_context(subject.model.tokenizer, chain.tokens[: chain.n_prompt], cut)
    if new is None:
        return None
    tokens = (*chain.tokens[: chain.n_prompt], *new)
    answer = encode_in_context(subject.model.tokenizer, tokens, f" {written}")
    if not answer:
        return None
    targets = tuple(range(len(tokens), len(tokens) + len(answer)))
    return Row((*tokens, *answer), targets, literal.span)


def _blind(subject: Subject, chain: Chain, steps: Sequence[str], ends: Sequence[int]) -> list[tuple[str, Row]]:
    row = blind(chain, answer_targets(subject, chain), ends)
    return [] if row is None else [(chain.graph.answer, row)]


def _stated(subject: Subject, chain: Chain, steps: Sequence[str], ends: Sequence[int]) -> list[tuple[str, Row]]:
    spans = {step: chain.literals[step].span for step in steps}
    return [(step, Row(chain.tokens, (span[0],), span)) for step, span in spans.items()]


AS_WRITTEN: dict[str, Callable[[Subject, Chain, Sequence[str], Sequence[int]], list[tuple[str, Row]]]] = {
    "blind": _blind,
    "stated": _stated,
}
"""Variants in which no value is replaced: of a chain, the rows and the steps that they are about."""
IN_PLACE = frozenset({"stated"})
"""Variants that are the batch's own rows."""
VARIANTS: dict[str, Callable[[Subject, Chain, Replacement], Row | None]] = {
    "recomputed": recomputed,
    "answered": answered,
    "flipped": partial(answered, flipped=True),
    "interchanged": _interchanged,
    "partner": _partner,
    "untouched": _untouched,
    "truncated": _truncated,
}


def groups_of(example: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Row]]]:
    """The groups of an example: the step of each, and its rows by variant."""
    rows: list[dict[str, Row]] = [{} for _ in example["group_steps"]]
    for group, variant, tokens, targets, literal, hidden in zip(*(example[name] for name in COLUMNS[4:]), strict=True):
        rows[group][variant] = Row(tuple(tokens), tuple(targets), (literal[0], literal[1]), (hidden[0], hidden[1]))
    return zip(example["group_steps"], rows, strict=True)
