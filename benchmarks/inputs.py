"""Fixed inputs of the benchmarks with a real model: few-shot arithmetic, the same on every machine, and its activations
under teacher forcing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from faithprobe.chains.capture import record_forced
from faithprobe.chains.subject import Subject
from faithprobe.metrics.traces import forced_chains
from faithprobe.models.generation import Tokens, encode, end_tokens
from faithprobe.models.language_model import LanguageModel
from faithprobe.probes.splits import operand_combinations
from faithprobe.progress import Progress
from faithprobe.tasks.arithmetic import Arithmetic


def prompts(model: LanguageModel, n: int, *, shots: int) -> list[tuple[int, ...]]:
    """Token ids of n two-step problems with their examples."""
    task = Arithmetic(steps=2, shots=shots)
    return [encode(model, task.prompt(problem)) for problem in task.problems(n, seed=0)]


def left_padded(model: LanguageModel, rows: Sequence[Tokens]) -> dict[str, torch.Tensor]:
    """Prompts as `generate` of transformers takes them."""
    longest = max(map(len, rows))
    ids = [[model.pad_id] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }


@torch.no_grad()
def plain_generate(model: LanguageModel, batch: dict[str, torch.Tensor], new_tokens: int) -> torch.Tensor:
    """Greedy, as one would write it."""
    return model.hf.generate(
        **batch,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=model.pad_id,
        eos_token_id=end_tokens(model),
    )


@dataclass(frozen=True)
class Activations:
    """Residual streams of reference chains around the last step's literal."""

    x: np.ndarray
    """(layers, positions, items, d_model), float32."""
    values: Mapping[str, np.ndarray]
    """Name of an input or of a step -> (items,) its value in each problem."""
    combinations: Mapping[str, np.ndarray]
    """Name of a step -> (items,) group ids: items whose step has the same operation and operands share one."""


def activations(
    model: LanguageModel, n: int, *, layers: Sequence[int], back: Sequence[int] = (0,), seed: int = 5
) -> Activations:
    """Of n two-step problems with operands up to 20, teacher-forced, after each of `layers`; `back` counts positions
    back from the one that predicts the last step's literal. Takes minutes on a CPU: progress is on standard error."""
    subject = Subject(model, Arithmetic(steps=2, high=20), seed=0)
    chains = list(forced_chains(subject, subject.task.problems(n, seed=seed), like=" "))
    assert len(chains) == n, f"{n - len(chains)} of {n} reference responses could not be put behind their prompt"
    last = [max(literal.predicting for literal in chain.literals.values()) for chain in chains]
    x = np.empty((len(layers), len(back), n, model.d_model), dtype=np.float32)
    with Progress() as progress:
        stage = progress.stage("activations", n)
        for row in record_forced(
            model,
            [chain.tokens[: position + 1] for chain, position in zip(chains, last, strict=True)],
            [[position - k for k in back] for position in last],
            [f"blocks.{layer}.hook_resid_post" for layer in layers],
            prefixes=subject.prefixes,
            batch_size=64,
        ):
            x[:, :, row.index] = row.activations.transpose(0, 1).numpy()
            stage.advance()
    graphs = [chain.problem.graph for chain in chains]
    return Activations(
        x=x,
        values={name: np.array([int(graph.values[name]) for graph in graphs]) for name in graphs[0].values},
        combinations={
            step.name: operand_combinations(
                [(graph[step.name].expression, *(graph.values[name] for name in step.operands)) for graph in graphs]
            )
            for step in graphs[0].steps
        },
    )
