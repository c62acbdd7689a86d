"""Rewards for GRPO that ask whether a completion uses what it states; what trl's `GRPOTrainer` calls.

    reward = FaithfulnessReward(Subject(load_model(model, tokenizer), task), problems)
    GRPOTrainer(model, reward_funcs=[correct, reward], train_dataset=dataset, ...)

`dataset` has a column `problem_id` beside `prompt`: the problem of each row. A reward runs forward passes of its own
with the very model that is trained, in eval mode and without gradient, and leaves it as it was found. It returns a
number for every completion, or None where nothing can be measured (no answer, no step before the last, no value that
can be replaced): trl leaves those out of their group.

A group in which measured completions have a low reward and the others none rewards those that cannot be measured, since
their advantage is 0. Use such a reward beside one for right answers, watch `unscored` in the log, or give
`unscored=0.0`.

Beside ours stand two published ones, as baselines: `CounterfactualSensitivityReward` and `ConfidenceTrajectoryReward`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import exp
from statistics import fmean
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.errors import UnscoredError
from faithprobe.interventions.truncate import asked, cuts, logprobs
from faithprobe.metrics.base import Settings
from faithprobe.metrics.used import used
from faithprobe.tasks import Problem
from faithprobe.training.counterfactual import Row, answer_targets, recomputed
from faithprobe.training.examples import VARIANTS
from faithprobe.training.reward_base import ChainReward, Reward, StepReward, distributions, probabilities

__all__ = ["ConfidenceTrajectoryReward", "CounterfactualSensitivityReward", "FaithfulnessReward"]


class FaithfulnessReward(StepReward):
    """U of the completion's own values: what follows a replaced value follows from it.

    probability   U of a step = mean over replacements of exp(mean log p(recomputed values and answer)), the quantity
                  that the loss `counterfactual` is minus the log of; one forward pass over all rows, nothing generated
    regenerate    U as the audit measures it, a hit rate over at least 3 replacements, regenerated greedily

    The probability is the default. It is dense: the completions of a group differ in it, where a hit rate over a few
    replacements is 0 or 1 for all of them, and GRPO learns from differences only. And it costs a pass, not a text.
    """

    name = "faithfulness"

    def __init__(
        self,
        subject: Subject,
        problems: Mapping[str, Problem] | Sequence[Problem],
        *,
        form: Literal["probability", "regenerate"] = "probability",
        **options: Any,
    ) -> None:
        """
        Args:
            form: see above.
            subject, problems, options: `reduce`, `replacements`, `readout`, and those of `ChainReward`.
        """
        super().__init__(subject, problems, **options)
        if form not in ("probability", "regenerate"):
            raise ValueError(f"form is 'probability' or 'regenerate', not {form!r}")
        self.form = form

    def measured(self, subject: Subject, chains: Sequence[Chain], seed: str) -> list[Reward]:
        if self.form == "regenerate":
            return self._regenerated(subject, chains, seed)
        planned = self.rows(subject, chains, seed, lambda chain, made: recomputed(subject, chain, made))
        by_step: dict[tuple[int, str], list[float]] = defaultdict(list)
        for (i, step, _), value in zip(planned, probabilities(subject, [row for *_, row in planned]), strict=True):
            by_step[i, step].append(value)
        return self.reduced(chains, by_step)

    def _regenerated(self, subject: Subject, chains: Sequence[Chain], seed: str) -> list[Reward]:
        """Evidence is by problem, so completions of one problem take turns."""
        by_step: dict[tuple[int, str], list[float]] = {}
        settings = Settings(random.Random(seed).getrandbits(31), max(3, self.replacements))
        rounds: list[dict[str, int]] = []
        for i, chain in enumerate(chains):
            free = next((one for one in rounds if chain.id not in one), None)
            if free is None:
                rounds.append(free := {})
            free[chain.id] = i
        for turn in rounds:
            evidence = used(subject, [chains[i] for i in turn.values()], settings)
            for id_, i in turn.items():
                for step in self.steps(chains[i]):
                    value = evidence.get(id_, step).value
                    if value is not None:
                        by_step[i, step] = [value]
        return self.reduced(chains, by_step)


class CounterfactualSensitivityReward(StepReward):
    """CSR as a reward: the answer turns when a value of the chain is replaced and nothing is recomputed.

        r = min(KL(P(a | q, T) || P(a | q, T')), most) / most

    at the answer, T' being the chain T with one value replaced. Akter, Shihab, Sharma, "Counterfactual Sensitivity for
    Faithful Reasoning" (arXiv 2509.01544), maximise this divergence as a regulariser, by a gradient, with swapped
    operators. Ours: a reward in [0, 1], the bound, and replaced values, which every chain has. Any operator of a trace
    may be swapped there, so the step that the answer reads out counts here, unless `readout=False`.

    Nothing is asked but that the answer turns, and only what it reads directly can turn it: of a chain that is
    followed step by step, that is the last value.
    """

    name = "counterfactual_sensitivity"

    def __init__(
        self,
        subject: Subject,
        problems: Mapping[str, Problem] | Sequence[Problem],
        *,
        most: float = 5.0,
        readout: bool = True,
        **options: Any,
    ) -> None:
        """
        Args:
            most: nats of divergence that earn the whole reward.
            readout: see above.
            subject, problems, options: `reduce`, `replacements`, and those of `ChainReward`.
        """
        super().__init__(subject, problems, readout=readout, **options)
        if most <= 0:
            raise ValueError(f"most must be positive, not {most}")
        self.most = most

    def measured(self, subject: Subject, chains: Sequence[Chain], seed: str) -> list[Reward]:
        planned = self.rows(subject, chains, seed, lambda chain, made: VARIANTS["untouched"](subject, chain, made))
        plain = {i: answer_targets(subject, chains[i]) for i, *_ in planned}
        bases = [Row(chains[i].tokens, targets, (0, 0)) for i, targets in plain.items()]
        before = dict(zip(plain, distributions(subject, bases, lambda _, logprobs: logprobs), strict=True))

        def divergence(k: int, after: Float[Tensor, "target vocabulary"]) -> float:
            i, _, row = planned[k]
            # targets in front of the literal are the same in both
            base = before[i][[plain[i].index(target) for target in row.targets]]
            return float((base.exp() * (base - after)).sum(-1).mean().clamp(0, self.most)) / self.most

        by_step: dict[tuple[int, str], list[float]] = defaultdict(list)
        found = distributions(subject, [row for *_, row in planned], divergence)
        for (i, step, _), value in zip(planned, found, strict=True):
            by_step[i, step].append(value)
        return self.reduced(chains, by_step)


class ConfidenceTrajectoryReward(ChainReward):
    """PCS as a reward: confidence in the answer shall come with the chain, not before it.

        c_k = p(the completion's own answer | question, chain through its k-th value, cue),    k = 0 .. K
        r = c_K - mean(c_0 .. c_{K-1}),    in [-1, 1]

    "Understanding and Mitigating Premature Confidence" (arXiv 2605.24396) rewards confidence that grows gradually and
    penalises early commitment, without labels. Of the paper we could read the abstract, and not how it defines the
    reward. Ours are: the formula, the places of the cuts (before the first value, behind the sentence of each, at the
    end; `interventions.truncate`), that the answer is asked for by the family's cue, and that a jump at the end earns
    as much as slow growth.
    """

    name = "confidence_trajectory"

    def measured(self, subject: Subject, chains: Sequence[Chain], seed: str) -> list[Reward]:
        found: dict[int, Reward] = {}
        planned = []
        for i, chain in enumerate(chains):
            try:
                places = cuts(subject.task, chain)
                if len(places) < 2:
                    raise UnscoredError("it states no value before its answer")
                texts = [subject.task.truncated(chain.problem, chain.text, cut.end) for cut in places]
                planned += [(i, asked(subject, chain, text)) for text in texts]
            except UnscoredError as error:
                found[i] = Reward(None, str(error))
        curves: dict[int, list[float]] = defaultdict(list)
        for (i, _), logprob in zip(planned, logprobs(subject, [one for _, one in planned]), strict=True):
            curves[i].append(exp(min(0.0, logprob)))
        found |= {i: Reward(curve[-1] - fmean(curve[:-1])) for i, curve in curves.items()}
        return [found[i] for i in range(len(chains))]
