"""From chains and their activations to probes, while chains stream by: one `Stream` for every step and place.

What is kept does not grow with the number of chains: moments, and the held-out items of the first `held_out` problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.feature_extraction import DictVectorizer
from torch import Tensor

from faithprobe.chains.capture import PLACES, PREDICTING, probe_positions
from faithprobe.chains.records import Chain
from faithprobe.errors import UnscoredError
from faithprobe.metrics.items import Described, describe
from faithprobe.probes.columns import HELD_OUT, Columns, columns_for
from faithprobe.probes.held_out import HeldOut
from faithprobe.probes.stream import Batch, Stream
from faithprobe.tasks.graph import Value, is_number, show_value

Where = tuple[str, str]
"""A step of the reference graph, and a place."""


@dataclass(frozen=True)
class Observed:
    """A chain with the activations of everything that is probed in it."""

    number: int
    """Of its problem in the stream: what decides whether held-out items are kept."""
    chain: Chain
    positions: Sequence[int]
    """Token positions of the activations."""
    activations: Float[Tensor, "position site d_model"]
    """Embedding first, then the layers."""
    twin: Float[Tensor, "position site d_model"]


@dataclass(frozen=True)
class Layout:
    """What is fixed before the first chain: which steps and places, their targets and the slots of their text."""

    columns: Mapping[str, Columns]
    """By step."""
    text: Mapping[Where, DictVectorizer]

    @classmethod
    def of(cls, sample: Iterable[Chain], **options: Any) -> Layout:
        """From teacher-forced responses to a sample of problems; `options` go to `columns_for`.

        Raises UnscoredError where no step has a target.
        """
        seen: dict[Where, list[Described]] = {}
        for chain in sample:
            for step, place, _ in probed_places(chain):
                seen.setdefault((chain.reference[step], place), []).append(describe(chain, step, place))
        columns, reasons = {}, []
        for (step, place), items in seen.items():
            if place != PREDICTING:
                continue
            try:
                columns[step] = columns_for(
                    [item.local for item in items], [item.combination for item in items], **options
                )
            except UnscoredError as error:
                reasons.append(f"{step}: {error}")
        if not columns:
            raise UnscoredError(f"nothing can be probed ({'; '.join(reasons) or 'no response states a step'})")
        text = {
            where: DictVectorizer(sparse=False).fit([_shown(item.slots) for item in items])
            for where, items in seen.items()
            if where[0] in columns
        }
        return cls(columns, text)


def probed_places(chain: Chain) -> list[tuple[str, str, int]]:
    """Stated step, place and token position of everything that is probed in a chain."""
    return [
        (step, place, position)
        for step in chain.literals
        if step in chain.reference
        for place, position in probe_positions(chain, step).items()
        if place in PLACES
    ]


@dataclass
class _Held:
    """Held-out items so far."""

    activations: list[Tensor] = field(default_factory=list)
    twin: list[Tensor] = field(default_factory=list)
    text: list[Tensor] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    who: list[tuple[int, str, str]] = field(default_factory=list)
    """Number of the problem, id of the chain, combination."""


class Collector:
    """Streams of all steps and places, with their held-out items."""

    def __init__(
        self, layout: Layout, *, layers: int, d_model: int, held_out: int, device: torch.device | str = "cpu"
    ) -> None:
        self.layout, self.held_out = layout, held_out
        self.streams = {
            where: Stream(
                layout.columns[where[0]],
                layers=layers,
                d_model=d_model,
                slots=len(encoder.vocabulary_),
                device=device,
            )
            for where, encoder in layout.text.items()
        }
        self.left_out = 0
        """Items without some target: a class that the sample lacked, a value that is no number."""
        self._held: dict[Where, _Held] = {where: _Held() for where in self.streams}

    def add(self, observed: Sequence[Observed]) -> None:
        """Adds chains; activations are not kept, but for held-out items of the first problems."""
        found: dict[Where, list[tuple[Observed, int, Described]]] = {}
        for one in observed:
            row = {position: i for i, position in enumerate(one.positions)}
            for step, place, position in probed_places(one.chain):
                where = one.chain.reference[step], place
                if where in self.streams and position in row:
                    found.setdefault(where, []).append((one, row[position], describe(one.chain, step, place)))
        for where, rows in found.items():
            self._add(where, rows)

    def _add(self, where: Where, rows: Sequence[tuple[Observed, int, Described]]) -> None:
        columns, encoder = self.layout.columns[where[0]], self.layout.text[where]
        told = [item for _, _, item in rows]
        combinations = [item.combination for item in told]
        labels, known = columns.labels(
            [item.local for item in told], combinations, [item.last_literal for item in told]
        )
        activations = torch.stack([one.activations[row] for one, row, _ in rows], dim=1)
        twin = torch.stack([one.twin[row] for one, row, _ in rows], dim=1)
        finite = (activations.isfinite() & twin.isfinite()).all(dim=2).all(dim=0).numpy()
        known &= finite
        self.left_out += int((~known).sum())
        fold = np.where(known, columns.fold(combinations), -1)
        text = torch.from_numpy(encoder.transform([_shown(item.slots) for item in told]))
        self.streams[where].add(Batch(activations[1:], twin[1:], activations[0], text), labels, fold)
        first = np.array([one.number < self.held_out for one, _, _ in rows])
        kept = np.flatnonzero((fold == HELD_OUT) & first).tolist()
        if kept:
            held = self._held[where]
            held.activations.append(activations[:, kept])
            held.twin.append(twin[:, kept])
            held.text.append(text[kept])
            held.labels.append(labels[kept])
            held.who += [(rows[i][0].number, rows[i][0].chain.id, combinations[i]) for i in kept]

    def held(self, where: Where) -> tuple[HeldOut, list[str]]:
        """Held-out items in the order of the problems, and the ids of their chains.

        Raises UnscoredError where there are none.
        """
        held = self._held[where]
        if not held.who:
            raise UnscoredError("no held-out item; ask for more problems")
        order = sorted(range(len(held.who)), key=lambda i: held.who[i][0])
        activations, twin = torch.cat(held.activations, dim=1)[:, order], torch.cat(held.twin, dim=1)[:, order]
        batch = Batch(activations[1:], twin[1:], activations[0], torch.cat(held.text)[order])
        items = HeldOut(batch, np.concatenate(held.labels)[order], [held.who[i][2] for i in order])
        return items, [held.who[i][1] for i in order]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a run needs to go on: tensors by name, and what is no tensor."""
        tensors: dict[str, Tensor] = {}
        for (step, place), stream in self.streams.items():
            tensors |= {f"{step}/{place}/{name}": tensor for name, tensor in stream.state().items()}
        kept, who = self.held_state()
        return tensors | kept, {"left_out": self.left_out, "who": who}

    def held_state(self) -> tuple[dict[str, Tensor], dict[str, list[tuple[int, str, str]]]]:
        """Held-out items alone: what processes exchange."""
        tensors, who = {}, {}
        for (step, place), held in self._held.items():
            if held.who:
                name = f"{step}/{place}/held"
                tensors[f"{name}.activations"] = torch.cat(held.activations, dim=1).contiguous()
                tensors[f"{name}.twin"] = torch.cat(held.twin, dim=1).contiguous()
                tensors[f"{name}.text"] = torch.cat(held.text).contiguous()
                tensors[f"{name}.labels"] = torch.from_numpy(np.concatenate(held.labels))
                who[f"{step}/{place}"] = held.who
        return tensors, who

    def load(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self.left_out = int(rest["left_out"])
        for (step, place), stream in self.streams.items():
            begin = f"{step}/{place}/"
            stream.load({name.removeprefix(begin): t for name, t in tensors.items() if name.startswith(begin)})
        self._held = {where: _Held() for where in self.streams}
        self.take_held(tensors, rest["who"])

    def take_held(self, tensors: Mapping[str, Tensor], who: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        """Adds held-out items of another process, or of a run that was interrupted."""
        for where, held in self._held.items():
            name = "/".join(where)
            if name in who:
                held.activations.append(tensors[f"{name}/held.activations"])
                held.twin.append(tensors[f"{name}/held.twin"])
                held.text.append(tensors[f"{name}/held.text"])
                held.labels.append(tensors[f"{name}/held.labels"].numpy())
                held.who += [(int(number), str(chain), str(combination)) for number, chain, combination in who[name]]


def _shown(slots: Mapping[str, Value]) -> dict[str, str | float]:
    """Of each slot its literal, which becomes a one-hot column, and a number's magnitude, for the same reason as in
    `probes.features`."""
    found: dict[str, str | float] = {slot: show_value(value) for slot, value in slots.items()}
    return found | {f"{slot} (number)": float(value) for slot, value in slots.items() if is_number(value)}
