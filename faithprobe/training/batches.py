"""From examples to a batch, and from a batch to one that also holds counterfactual rows.

Counterfactual rows go through the model in the same forward pass as the batch's own: one pass is cheaper than two, and
distributed training with gradient checkpointing allows no second one. The model's loss does not see them; their labels
are all -100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from faithprobe.training.counterfactual import Row
from faithprobe.training.examples import COLUMNS, IGNORED, IN_PLACE, Example, groups_of

GROUPS = "counterfactuals"
"""The key of a batch that holds its counterfactual groups; no model argument."""
PADDED = {"input_ids": None, "labels": IGNORED, "attention_mask": 0, "position_ids": 0}
"""What may stand in a batch of tensors, and what a counterfactual row has where it is padded (None: the pad token)."""


class BatchError(ValueError):
    """A batch that cannot carry counterfactual rows: columns missing, no room, unknown tensors."""


@dataclass(frozen=True)
class Group:
    """Rows that belong together: one step of one example, one replaced value."""

    example: int
    """Row of the batch."""
    step: str
    rows: Mapping[str, Row]
    """By variant."""
    answer: tuple[int, ...]
    """Positions of the answer in the example's own row."""


class Collator:
    """Examples to a batch: `input_ids`, `attention_mask` and `labels` padded on the right, and the groups beside them.

    Works as `collate_fn` of a `DataLoader` and as `data_collator` of every Hugging Face trainer.
    """

    def __init__(self, tokenizer: Any, *, max_length: int | None = None) -> None:
        """`max_length`: a longer text raises; nothing is cut, since the literal or the answer would be lost."""
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
            raise BatchError("the tokenizer has neither a pad token nor an end token: set tokenizer.pad_token")
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.max_length = max_length

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        for example in examples:
            missing = [name for name in COLUMNS if name not in example]
            if missing:
                raise BatchError(
                    f"an example has no column {missing[0]!r}, only {', '.join(example)}: make examples with "
                    "training_examples, and keep their columns (in a Hugging Face trainer: remove_unused_columns=False)"
                )
            _require_whole(example)
        longest = max(len(row) for example in examples for row in (example["input_ids"], *example["row_tokens"]))
        if self.max_length is not None and longest > self.max_length:
            raise BatchError(
                f"a text has {longest} tokens, and max_length is {self.max_length}: cutting it would lose a literal or "
                "the answer; raise max_length, or leave such problems out"
            )
        rows = [example["input_ids"] for example in examples]
        return {
            "input_ids": right_padded(rows, self.pad),
            "attention_mask": right_padded([[1] * len(row) for row in rows], 0),
            "labels": right_padded([example["labels"] for example in examples], IGNORED),
            GROUPS: [
                Group(i, step, found, tuple(example["answer_targets"]))
                for i, example in enumerate(examples)
                for step, found in groups_of(example)
            ],
        }


def _require_whole(example: Example) -> None:
    """Raises BatchError where something cut the texts of an example, or its labels."""
    length = len(example["input_ids"])
    if len(example["labels"]) != length:
        raise BatchError(f"an example has {len(example['labels'])} labels for {length} tokens: there is one for each")
    places = [(length, max(example["answer_targets"], default=0), "its answer")]
    for tokens, targets, literal in zip(example["row_tokens"], example["row_targets"], example["row_literals"]):
        places += [(len(tokens), literal[1] - 1, "a literal"), (len(tokens), max(targets), "what follows a literal")]
    for length, last, what in places:
        if last >= length:
            raise BatchError(
                f"a text ends after {length} tokens, and {what} stands at {last}: it was truncated; leave texts whole, "
                "or leave the problem out"
            )


@dataclass(frozen=True)
class Targets:
    """Which predictions of a batch one variant is about."""

    rows: Int[Tensor, " target"]
    positions: Int[Tensor, " target"]
    """Where the prediction is made: in front of the target."""
    labels: Int[Tensor, " target"]
    group: Int[Tensor, " target"]


@dataclass(frozen=True)
class Plan:
    """What the rows behind a batch's own are for."""

    own: int
    """Rows of the batch itself."""
    groups: tuple[Group, ...]
    places: tuple[Mapping[str, int], ...]
    """Of each group, the row of every variant."""

    @property
    def rows(self) -> int:
        """Of the whole batch."""
        return self.own + sum(place >= self.own for places in self.places for place in places.values())

    def targets(self, variant: str, input_ids: Int[Tensor, "row position"]) -> Targets:
        """Of a variant; of `base`, the answer in the batch's own rows."""
        found = [
            (group.example if variant == "base" else places[variant], position, number)
            for number, (group, places) in enumerate(zip(self.groups, self.places, strict=True))
            for position in (group.answer if variant == "base" else group.rows[variant].targets)
        ]
        rows, positions, numbers = torch.tensor(found, dtype=torch.long, device=input_ids.device).T
        return Targets(rows, positions - 1, input_ids[rows, positions], numbers)


class StackedBatch(dict[str, Any]):
    """What the model is called with, `model(**batch)`, and what is to be read from its output."""

    plan: Plan | None
    """None where this step has no counterfactual rows."""

    def __init__(self, batch: Mapping[str, Any], plan: Plan | None) -> None:
        super().__init__(batch)
        self.plan = plan


def stacked(batch: Mapping[str, Any], groups: Sequence[Group], *, pad: int) -> StackedBatch:
    """A batch with the rows of `groups` behind its own. All rows become as long as the longest.

    Raises BatchError for a tensor that is not known to be of the batch, and for a batch that is padded on the left.
    """
    tensors = {name: value for name, value in batch.items() if name != GROUPS}
    unknown = [name for name in tensors if name not in PADDED]
    if unknown:
        raise BatchError(
            f"the batch holds {unknown[0]!r}, and what its counterfactual rows should have there is not known; make "
            "batches with faithprobe.training.Collator, or take it out before stacking"
        )
    ids, mask = tensors["input_ids"], tensors.get("attention_mask")
    for name, value in tensors.items():
        if value.shape != ids.shape:
            raise BatchError(
                f"{name!r} has shape {list(value.shape)}, and 'input_ids' {list(ids.shape)}: they must agree"
            )
    if mask is not None and bool((mask[:, 0] == 0).any()):
        raise BatchError(
            "the batch is padded on the left; the positions of its literals count from the left: pad right"
        )
    rows: list[Row] = []
    places: list[dict[str, int]] = []
    for group in groups:
        if group.answer and group.answer[-1] >= ids.shape[1]:
            raise BatchError(
                f"row {group.example} of the batch has {ids.shape[1]} tokens, and its answer stands at "
                f"{group.answer[-1]}: it was truncated; leave texts whole, or leave the problem out"
            )
        joining = [variant for variant in group.rows if variant not in IN_PLACE]
        places.append(dict.fromkeys(group.rows, group.example))
        places[-1] |= {variant: len(ids) + len(rows) + k for k, variant in enumerate(joining)}
        rows += [group.rows[variant] for variant in joining]
    length = max([ids.shape[1], *(len(row.tokens) for row in rows)])
    added = {
        "input_ids": right_padded([row.tokens for row in rows], pad, length),
        "labels": right_padded([[]] * len(rows), IGNORED, length),
        "attention_mask": right_padded([_seen(row) for row in rows], 0, length),
        "position_ids": torch.arange(length).expand(len(rows), -1),
    }
    hides = any(row.hidden[0] < row.hidden[1] for row in rows)
    if mask is None and (hides or any(len(row) != length for row in (*ids, *(row.tokens for row in rows)))):
        tensors["attention_mask"] = torch.ones_like(ids)
    if hides and "position_ids" not in tensors:  # a model that counts positions by the mask would skip what is hidden
        tensors["position_ids"] = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
    joined = {}
    for name, own in tensors.items():
        fill = pad if PADDED[name] is None else PADDED[name]
        wide = torch.nn.functional.pad(own, (0, length - own.shape[1]), value=fill)
        joined[name] = torch.cat([wide, added[name].to(own)])
    return StackedBatch(joined, Plan(len(ids), tuple(groups), tuple(places)))


def _seen(row: Row) -> list[int]:
    """1 for a token that the others may see."""
    start, end = row.hidden
    return [int(not start <= position < end) for position in range(len(row.tokens))]


def unanswered(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch whose own rows get no loss on the answer and what follows it; BatchError where some row does not say
    where that is."""
    if "labels" not in batch:
        raise BatchError("the batch has no 'labels', so they cannot leave the answers out")
    groups = batch.get(GROUPS, ())
    missing = sorted(set(range(len(batch["labels"]))) - {group.example for group in groups if group.answer})
    if missing:
        raise BatchError(
            f"row {missing[0]} of the batch does not say where its answer is: make examples with "
            "training_examples(..., objective='markovian') and batches with Collator, which puts it under "
            f"{GROUPS!r}"
        )
    labels = batch["labels"].clone()
    for group in groups:
        labels[group.example, group.answer[0] :] = IGNORED
    return {**batch, "labels": labels}


def right_padded(rows: Sequence[Sequence[int]], fill: int, length: int | None = None) -> Int[Tensor, "row position"]:
    """Rows of ids as one tensor, filled up on the right."""
    longest = max(map(len, rows), default=0) if length is None else length
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long).reshape(-1, longest)
