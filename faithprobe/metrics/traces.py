"""What probes need, and how it gets to disk: activations of the model's own chains and of teacher-forced responses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from faithprobe.chains.capture import Recorder, probe_positions, record_forced
from faithprobe.chains.records import Chain
from faithprobe.chains.store import TraceWriter
from faithprobe.chains.subject import Subject
from faithprobe.errors import TaskError, UnscoredError
from faithprobe.metrics.items import label
from faithprobe.models import LanguageModel
from faithprobe.models.generation import PrefixCache
from faithprobe.probes.inputs import FEWEST_TRAINING
from faithprobe.tasks import Problem, Task

FEWEST_PROBE_PROBLEMS = FEWEST_TRAINING * 5 // 4
"""One of five folds is held out."""


def probed(chain: Chain) -> tuple[list[str], list[int]]:
    """Labels and token positions of everything that is probed in a chain."""
    found = {
        label(chain.reference[step], place): position
        for step in chain.literals
        if step in chain.reference
        for place, position in probe_positions(chain, step).items()
    }
    return list(found), list(found.values())


def respond_and_store(subject: Subject, problems: Sequence[Problem], sites: Sequence[str], folder: Path) -> list[Chain]:
    """Lets the model answer; what is probed is recorded meanwhile. Activations are held one batch at a time."""
    recorder = Recorder(subject.model, sites)
    chains = []
    with TraceWriter(folder, model=subject.model, sites=sites) as store:
        for chain, done in subject.respond(problems, watch=recorder):
            names, positions = probed(chain)
            if positions and chain.id not in store.done:
                store.add(chain.id, names, positions, recorder.at(done, positions))
            chains.append(chain)
    return chains


def force_and_store(
    model: LanguageModel,
    chains: Sequence[Chain],
    sites: Sequence[str],
    folder: Path,
    *,
    prefixes: PrefixCache,
    batch_size: int,
) -> None:
    """Stores activations of given chains, teacher-forced through a model: the subject's own, or its random twin."""
    with TraceWriter(folder, model=model, sites=sites) as store:
        rows = [(chain, *probed(chain)) for chain in chains if chain.id not in store.done]
        rows = [row for row in rows if row[2]]
        tokens = [chain.tokens[: max(positions) + 1] for chain, _, positions in rows]
        for found in record_forced(
            model, tokens, [row[2] for row in rows], sites, prefixes=prefixes, batch_size=batch_size
        ):
            chain, names, positions = rows[found.index]
            store.add(chain.id, names, positions, found.activations)


def forced_chains(subject: Subject, problems: Sequence[Problem], *, like: str) -> Iterator[Chain]:
    """Reference responses as chains; a problem whose response cannot be put behind its prompt is left out."""
    for problem in problems:
        prompt = subject.prompt(problem)
        tokens = subject.forced(problem, problem.response, like=like)
        if tokens is not None:
            yield subject.read(problem, prompt, tokens[len(prompt) :])


def probe_problems(task: Task, wanted: int, *, seed: int, asked: Collection[Problem]) -> list[Problem]:
    """Problems of another seed, none of them asked already; fewer where the family has no more.

    Raises UnscoredError where there are too few to fit probes on.
    """
    if wanted < FEWEST_PROBE_PROBLEMS:
        raise UnscoredError(f"{wanted} probe problems, at least {FEWEST_PROBE_PROBLEMS} are needed")
    taken = {problem.question for problem in asked}
    tried = wanted
    while tried >= FEWEST_PROBE_PROBLEMS:
        try:
            drawn = task.problems(tried + len(taken), seed=seed + 1)
        except TaskError:
            tried = tried * 3 // 4
            continue
        return [problem for problem in drawn if problem.question not in taken][:wanted]
    raise UnscoredError(
        f"the family has fewer than {FEWEST_PROBE_PROBLEMS} problems besides the audited ones; so many probes need"
    )
