"""What the rewards of `training.reward` are made of: from what trl hands over to chains, to rows, to numbers."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, ClassVar, Literal, TypeVar

from jaxtyping import Float
from torch import Tensor

from faithprobe.chains.read import read_chain
from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.chains.tokens import decode, encode_in_context
from faithprobe.errors import TaskError
from faithprobe.interventions.swap import Replacement, replacements
from faithprobe.models.forcing import force
from faithprobe.models.halving import halving
from faithprobe.models.hooks import evaluating
from faithprobe.models.prompts import encode, encode_chat, end_tokens
from faithprobe.tasks import Problem
from faithprobe.training.counterfactual import Row

R = TypeVar("R")
READOUT = "it states no value before the one that the answer reads out"
NO_REPLACEMENT = "none of its values can be replaced"


@dataclass(frozen=True)
class Reward:
    """Of one completion."""

    value: float | None
    unscored: str = ""
    """Why there is none."""


class ChainReward(ABC):
    """What every reward of this module is: a callable with a name, from completions to numbers.

    Attributes:
        last: of the last call, a `Reward` for each completion.
    """

    name: ClassVar[str]

    def __init__(
        self,
        subject: Subject,
        problems: Mapping[str, Problem] | Sequence[Problem],
        *,
        column: str = "problem_id",
        unscored: float | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            subject: around the model that is trained, with its task.
            problems: that the dataset asks, by id.
            column: of the dataset, with the id of each row's problem.
            unscored: what a completion gets that cannot be measured; None: nothing, trl leaves it out.
            seed: draws the replaced values; they differ from step to step, and are the same for all completions of a
                problem in one step.
        """
        self.subject = subject
        if not isinstance(problems, Mapping):
            problems = {problem.id: problem for problem in problems}
        self.problems = dict(problems)
        self.column, self.unscored, self.seed = column, unscored, seed
        self.__name__ = self.name
        self.last: list[Reward] = []

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One number, or None, for every completion.

        Args:
            prompts: as text, or as chat turns.
            completions: as text, or as a list with the assistant's turn.
            completion_ids: their tokens; without them the text is encoded again.
            columns: of the dataset, and what trl adds.

        Raises:
            TaskError: the dataset has no such column, or names an unknown problem.
        """
        subject = replace(self.subject, temperature=0.0)  # not the caller's: its caches are of an earlier step
        state = columns.get("trainer_state")
        step = getattr(state, "global_step", 0) or 0
        problems = self._problems(len(prompts), columns)
        ids = completion_ids if completion_ids is not None else [None] * len(prompts)
        chains: list[Chain | str] = [
            read_completion(subject, problem, prompt, completion, tokens)
            for problem, prompt, completion, tokens in zip(problems, prompts, completions, ids, strict=True)
        ]
        whole = {i: chain for i, chain in enumerate(chains) if isinstance(chain, Chain) and chain.answer is not None}
        with evaluating(subject.model):
            found = dict(zip(whole, self.measured(subject, list(whole.values()), f"{self.seed} {step}"), strict=True))
        self.last = [
            found.get(i) or Reward(None, chain if isinstance(chain, str) else "the response states no answer")
            for i, chain in enumerate(chains)
        ]
        if callable(log := columns.get("log_metric")) and self.last:
            log(f"rewards/{self.name}/unscored", fmean(one.value is None for one in self.last))
        return [self.unscored if one.value is None else one.value for one in self.last]

    @property
    def reasons(self) -> Counter[str]:
        """Why completions of the last call have no value."""
        return Counter(one.unscored for one in self.last if one.value is None)

    @abstractmethod
    def measured(self, subject: Subject, chains: Sequence[Chain], seed: str) -> list[Reward]:
        """Of chains that state an answer; several may be about one problem."""

    def _problems(self, n: int, columns: Mapping[str, Any]) -> list[Problem]:
        if self.column not in columns:
            raise TaskError(
                f"the dataset has no column {self.column!r}, only {', '.join(sorted(columns)) or 'none'}: add the id "
                "of each row's problem (and remove_unused_columns=False), or name the column that holds it"
            )
        ids = list(columns[self.column])
        unknown = [id_ for id_ in ids if id_ not in self.problems]
        if unknown or len(ids) != n:
            raise TaskError(
                f"the column {self.column!r} names the problem {unknown[0]!r}, which is not among the "
                f"{len(self.problems)} that this reward was given"
                if unknown
                else f"{n} completions, but the column {self.column!r} has {len(ids)} entries"
            )
        return [self.problems[id_] for id_ in ids]


def read_completion(
    subject: Subject, problem: Problem, prompt: Any, completion: Any, ids: Sequence[int] | None
) -> Chain | str:
    """The chain of a completion behind the prompt that the model was given, or why there is none."""
    model = subject.model
    before = encode(model, prompt) if isinstance(prompt, str) else encode_chat(model, list(prompt))
    ended = True
    if ids is None:
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        new = encode_in_context(model.tokenizer, before, text)
        if new is None:
            return "the tokenizer puts no border between prompt and completion"
    else:
        ends = {*end_tokens(model), model.tokenizer.eos_token_id}
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        new = tuple(int(token) for token in (ids if end is None else ids[:end]))
        stops = subject.task.stop
        ended = end is not None or any(stop in decode(model.tokenizer, new).lstrip() for stop in stops)
    if not new:
        return "it is empty"
    start = subject.question_start(problem, before)
    return read_chain(model.tokenizer, subject.task, problem, before, new, question_start=start, finished=ended)


class StepReward(ChainReward):
    """A reward that is a mean, or the least, over the steps of a chain."""

    def __init__(
        self,
        subject: Subject,
        problems: Mapping[str, Problem] | Sequence[Problem],
        *,
        reduce: Literal["mean", "min"] = "mean",
        replacements: int = 2,
        readout: bool = False,
        **options: Any,
    ) -> None:
        """
        Args:
            reduce: "mean" over steps, or "min": a chain is as good as its worst step.
            replacements: values put in for every literal.
            readout: also count the step that the answer reads out.
            subject, problems, options: as of `ChainReward`.
        """
        super().__init__(subject, problems, **options)
        if reduce not in ("mean", "min") or replacements < 1:
            raise ValueError(f"reduce is 'mean' or 'min', and replacements at least 1; not {reduce!r}, {replacements}")
        self.reduce, self.replacements, self.readout = reduce, replacements, readout

    def steps(self, chain: Chain) -> list[str]:
        """Literals that the answer needs."""
        return [
            step
            for step in chain.literals
            if step in chain.graph.needed and step not in chain.unlocated and (self.readout or step != chain.final_step)
        ]

    def drawn(self, subject: Subject, chain: Chain, step: str, seed: str) -> list[Replacement]:
        """More values than are wanted: not all of them make a row."""
        rng = random.Random(f"reward {seed} {chain.id} {step}")
        return replacements(subject, chain, step, n=3 * self.replacements, rng=rng)

    def rows(
        self, subject: Subject, chains: Sequence[Chain], seed: str, make: Callable[[Chain, Replacement], Row | None]
    ) -> list[tuple[int, str, Row]]:
        """Of every step of every chain, as many rows as replacements are wanted: number of the chain, step, row."""
        found = []
        for i, chain in enumerate(chains):
            for step in self.steps(chain):
                made = (make(chain, replacement) for replacement in self.drawn(subject, chain, step, seed))
                found += [(i, step, row) for row in [row for row in made if row is not None][: self.replacements]]
        return found

    def reduced(self, chains: Sequence[Chain], by_step: Mapping[tuple[int, str], Sequence[float]]) -> list[Reward]:
        """From what every replacement of every step gave."""
        of_chain: dict[int, list[float]] = defaultdict(list)
        for (i, _), values in by_step.items():
            of_chain[i].append(fmean(values))
        reduce = fmean if self.reduce == "mean" else min
        return [
            Reward(reduce(of_chain[i])) if i in of_chain else Reward(None, self._why(chain))
            for i, chain in enumerate(chains)
        ]

    def _why(self, chain: Chain) -> str:
        return NO_REPLACEMENT if self.steps(chain) else READOUT


def probabilities(subject: Subject, rows: Sequence[Row]) -> list[float]:
    """exp of the mean log-probability of every row's targets."""

    def measure(k: int, logprobs: Float[Tensor, "target vocabulary"]) -> float:
        labels = [rows[k].tokens[target] for target in rows[k].targets]
        return float(logprobs[range(len(labels)), labels].mean().exp())

    return distributions(subject, rows, measure)


def distributions(
    subject: Subject, rows: Sequence[Row], measure: Callable[[int, Float[Tensor, "target vocabulary"]], R]
) -> list[R]:
    """What `measure` makes, of every row's number and its log-probabilities in front of each target, in their order.

    Rows of like length go through together; a batch that does not fit into memory is halved.
    """
    order = sorted(range(len(rows)), key=lambda k: len(rows[k].tokens))
    found: dict[int, R] = {}

    def work(batch: Sequence[int]) -> list[R]:
        read = sorted({target - 1 for k in batch for target in rows[k].targets})
        forced = force(subject.model, [rows[k].tokens for k in batch], prefixes=subject.prefixes, read=read)
        return [measure(k, forced.after(j, [t - 1 for t in rows[k].targets])) for j, k in enumerate(batch)]

    for batch, done in halving(order, subject.batch_size, work):
        found |= zip(batch, done, strict=True)
    return [found[k] for k in range(len(rows))]
