"""The main job: let a model reason, and say for every stated value when it was determined and whether it was used.

Reads from top to bottom: the problems are answered part by part (chains, use, lead, bypass), activations going to a
store on disk; then probes are fitted on problems of their own and read from the store; then verdicts are made.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithprobe.chains.capture import Recorder, default_layers, probe_positions, probe_sites, record_forced
from faithprobe.chains.records import Chain
from faithprobe.chains.store import Trace, TraceWriter
from faithprobe.chains.subject import Subject
from faithprobe.errors import TaskError, UnscoredError
from faithprobe.metrics.base import Metric, Settings
from faithprobe.metrics.bypass import bypass
from faithprobe.metrics.computed import computed, reference_steps
from faithprobe.metrics.items import Traces, label
from faithprobe.metrics.lead import lead
from faithprobe.metrics.used import used
from faithprobe.models import LanguageModel, load_model
from faithprobe.models.forcing import batches
from faithprobe.models.hooks import evaluating
from faithprobe.models.twin import random_twin
from faithprobe.progress import Progress
from faithprobe.results.parts import Part, claim_folder, load_part, merged, save_part
from faithprobe.results.record import Audit, chain_view
from faithprobe.results.verdicts import bypass_rows, frame, outcome_rows, step_rows, summarise
from faithprobe.scores.evidence import Evidence, Measurement
from faithprobe.tasks import Problem, Task, load_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Audit", "audit"]

CAUSAL: Mapping[str, Metric] = {"used": used, "lead": lead, "bypass": bypass}
"""Metrics that re-run the model; a user's own is added by `audit(..., metrics=...)`."""
PART = 16
"""Problems that are answered and measured together: what an interruption can cost."""
FEWEST_PROBE_PROBLEMS = 200


@dataclass(frozen=True)
class Plan:
    """Everything that decides what an audit finds; an audit's folder belongs to one plan."""

    problems: int
    seed: int
    probe_problems: int
    replacements: int
    layers: tuple[int, ...]
    chat: bool
    temperature: float
    metrics: tuple[str, ...]


def audit(
    model: str | Path | LanguageModel | PreTrainedModel,
    task: str | Task,
    *,
    problems: int = 50,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    probe_problems: int = 1000,
    replacements: int = 4,
    layers: Sequence[int] | None = None,
    chat: bool = False,
    temperature: float = 0.0,
    batch_size: int = 32,
    out: str | Path | None = None,
    metrics: Mapping[str, Metric] | None = None,
    command: str = "",
    show_progress: bool = True,
) -> Audit:
    """Audits a model on a family of problems.

    Args:
        model: whatever `load_model` takes, or what it returned.
        task: a task or its name.
        problems: how many problems the model answers.
        seed: of problems, replacements, partners and splits.
        tokenizer: with a Hugging Face model.
        probe_problems: teacher-forced problems that probes are fitted on, disjoint from the audited ones; with fewer
            than 200, *computed* and the score stay unscored. 0 skips the probes.
        replacements: for every stated value; at least 3 for a score.
        layers: that are probed; default: six, evenly spaced, the last one among them.
        chat: ask through the chat template.
        temperature: 0 is greedy.
        batch_size: rows that go through the model together.
        out: a folder for the results; an interrupted audit goes on there. Default: a temporary folder.
        metrics: further metrics by name, called like those in `faithprobe.metrics`; their evidence is saved with the
            parts.
        command: how this was started; default: the Python call.
        show_progress: on standard error.

    Raises:
        FaithprobeError: an unknown name, a model that fails validation, a folder that holds another audit, ...
    """
    started = time.monotonic()
    language_model = model if isinstance(model, LanguageModel) else load_model(model, tokenizer)
    the_task = load_task(task) if isinstance(task, str) else task
    every = {**CAUSAL, **(metrics or {})}
    chosen = tuple(layers) if layers is not None else default_layers(language_model.n_layers)
    plan = Plan(problems, seed, probe_problems, replacements, chosen, chat, temperature, tuple(every))
    with tempfile.TemporaryDirectory() as scratch, Progress(show_progress) as progress, evaluating(language_model):
        folder = Path(out) if out is not None else Path(scratch)
        claim_folder(folder / "work", _identity(language_model, the_task, plan))
        subject = Subject(language_model, the_task, chat, temperature, seed, batch_size)
        asked = the_task.problems(problems, seed=seed)
        parts = _answer_all(subject, asked, plan, every, folder / "work", progress)
        chains = [chain for part in parts for chain in part.chains]
        evidence = {name: merged([part.evidence[name] for part in parts], name) for name in every}
        evidence["computed"] = _compute(subject, chains, asked, plan, folder / "work", progress)
        direct = {id_: right for part in parts for id_, right in part.direct.items()}
        found = _conclude(chains, evidence, direct)
        info = _info(language_model, the_task, plan, command, time.monotonic() - started)
        result = replace(found, info=info)
        if out is not None:
            result.save(folder)
    return result


def _answer_all(
    subject: Subject,
    problems: Sequence[Problem],
    plan: Plan,
    metrics: Mapping[str, Metric],
    work: Path,
    progress: Progress,
) -> list[Part]:
    """Every part, loaded where it is finished, else measured and saved."""
    by_id = {problem.id: problem for problem in problems}
    twin = random_twin(subject.model, seed=plan.seed) if plan.probe_problems else None
    stage = progress.stage("answering and replaying", len(problems))
    parts = []
    for k, part in enumerate(batches(problems, PART)):
        path = work / f"part-{k:04d}.json"
        if not path.exists():
            save_part(path, _measure(subject, twin, problems[part], plan, metrics, work, progress))
        parts.append(load_part(path, subject, by_id))
        stage.advance(len(problems[part]))
    return parts


def _measure(
    subject: Subject,
    twin: LanguageModel | None,
    problems: Sequence[Problem],
    plan: Plan,
    metrics: Mapping[str, Metric],
    work: Path,
    progress: Progress,
) -> Part:
    """Lets the model answer a few problems, records activations meanwhile, and replays the chains."""
    sites = probe_sites(plan.layers)
    progress.say("chains")
    if twin is None:
        chains = [chain for chain, _ in subject.respond(problems)]
    else:
        recorder = Recorder(subject.model, sites)
        with TraceWriter(work / "own", model=subject.model, sites=sites) as store:
            chains = []
            for chain, done in subject.respond(problems, watch=recorder):
                names, positions = _probed(chain)
                if positions and chain.id not in store.done:
                    store.add(chain.id, names, positions, recorder.at(done, positions))
                chains.append(chain)
        _force_into(twin, subject, chains, sites, work / "own-twin")
    direct = {}
    if subject.task.prompt(problems[0], chain=False) != subject.task.prompt(problems[0]):
        progress.say("answers without a chain")
        texts = subject.complete([subject.prompt(problem, chain=False) for problem in problems])
        direct = {p.id: subject.answer(text) == p.answer for p, text in zip(problems, texts, strict=True)}
    settings = Settings(seed=plan.seed, replacements=plan.replacements)
    evidence = {}
    for name, metric in metrics.items():
        progress.say(name)
        evidence[name] = metric(subject, chains, settings)
    return Part(tuple(chains), evidence, direct)


def _probed(chain: Chain) -> tuple[list[str], list[int]]:
    """Labels and token positions of everything that is probed in a chain."""
    found = {
        label(chain.reference[step], place): position
        for step in chain.literals
        if step in chain.reference
        for place, position in probe_positions(chain, step).items()
    }
    return list(found), list(found.values())


def _force_into(
    model: LanguageModel, subject: Subject, chains: Sequence[Chain], sites: Sequence[str], folder: Path
) -> None:
    """Stores activations of given chains, teacher-forced through `model`."""
    with TraceWriter(folder, model=model, sites=sites) as store:
        rows = [(chain, *_probed(chain)) for chain in chains if chain.id not in store.done]
        rows = [row for row in rows if row[2]]
        for part in batches(rows, subject.batch_size):
            chosen = rows[part]
            tokens = [chain.tokens[: max(positions) + 1] for chain, _, positions in chosen]
            prefixes = subject.prefixes if model is subject.model else type(subject.prefixes)(model)
            for found in record_forced(
                model, tokens, [row[2] for row in chosen], sites, prefixes=prefixes, batch_size=subject.batch_size
            ):
                chain, names, positions = chosen[found.index]
                store.add(chain.id, names, positions, found.activations)


def _compute(
    subject: Subject,
    chains: Sequence[Chain],
    asked: Sequence[Problem],
    plan: Plan,
    work: Path,
    progress: Progress,
) -> Evidence:
    """D of every literal, from probes fitted on problems of their own."""
    if plan.probe_problems < FEWEST_PROBE_PROBLEMS:
        reason = f"{plan.probe_problems} probe problems, at least {FEWEST_PROBE_PROBLEMS} are needed"
        return _unscored(chains, reason)
    try:
        own_problems = _disjoint(subject.task, plan, {problem.id for problem in asked})
    except UnscoredError as error:
        return _unscored(chains, str(error))
    sites = probe_sites(plan.layers)
    twin = random_twin(subject.model, seed=plan.seed)
    stage = progress.stage("reading probe problems", len(own_problems))
    probe_chains: dict[str, Chain] = {}
    for part in batches(own_problems, 64):
        read = list(_teacher_forced(subject, own_problems[part], like=chains[0].text if chains else " "))
        _force_into(subject.model, subject, read, sites, work / "probe")
        _force_into(twin, subject, read, sites, work / "probe-twin")
        probe_chains |= {chain.id: chain for chain in read}
        stage.advance(len(own_problems[part]))
    traces = Traces(
        probe_chains,
        Trace(work / "probe", model=subject.model),
        Trace(work / "probe-twin", model=twin),
        Trace(work / "own", model=subject.model),
        Trace(work / "own-twin", model=twin),
        sites[1:],
    )
    stage = progress.stage("fitting probes", len(reference_steps(chains)))
    return computed(chains, traces, seed=plan.seed, progress=stage.advance)


def _unscored(chains: Sequence[Chain], reason: str) -> Evidence:
    return Evidence("computed", {(c.id, step): Measurement.none(reason) for c in chains for step in c.literals})


def _teacher_forced(subject: Subject, problems: Sequence[Problem], *, like: str) -> Iterator[Chain]:
    """Reference responses as chains; a problem whose response cannot be put behind its prompt is left out."""
    for problem in problems:
        prompt = subject.prompt(problem)
        tokens = subject.forced(problem, problem.response, like=like)
        if tokens is not None:
            yield subject.read(problem, prompt, tokens[len(prompt) :])


def _disjoint(task: Task, plan: Plan, taken: set[str]) -> list[Problem]:
    """Probe problems: another seed, none of the audited ones; fewer where the family has no more."""
    wanted = plan.probe_problems
    while wanted >= FEWEST_PROBE_PROBLEMS:
        try:
            drawn = task.problems(wanted + len(taken), seed=plan.seed + 1)
        except TaskError:
            wanted = wanted * 3 // 4
            continue
        return [problem for problem in drawn if problem.id not in taken][: plan.probe_problems]
    raise UnscoredError(f"the family has fewer than {FEWEST_PROBE_PROBLEMS} problems besides the audited ones")


def _conclude(chains: Sequence[Chain], evidence: Mapping[str, Evidence], direct: Mapping[str, bool]) -> Audit:
    """Verdicts, tables and summary."""
    rows, verdicts = [], {}
    for chain in chains:
        of_chain, verdicts[chain.id] = step_rows(chain, evidence)
        rows += of_chain
    steps = frame("steps", rows)
    tables = {
        "steps": steps,
        "decodability": frame("decodability", evidence["computed"].tables.get("decodability", ())),
        "lead": frame("lead", evidence["lead"].tables.get("lead", ())),
        "bypass": frame("bypass", bypass_rows(evidence["bypass"].tables.get("bypass", ()))),
        "outcomes": frame("outcomes", outcome_rows(steps)),
    }
    return Audit({}, summarise(chains, steps, verdicts, direct), tables, [chain_view(chain) for chain in chains])


def _identity(model: LanguageModel, task: Task, plan: Plan) -> dict[str, Any]:
    return {"fingerprint": model.fingerprint, "task": task.name, "task_options": task.options(), **vars(plan)}


def _info(model: LanguageModel, task: Task, plan: Plan, command: str, seconds: float) -> dict[str, Any]:
    packages = ("faithprobe", "torch", "transformers", "transformer-lens", "scikit-learn", "numpy")
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "task": task.name,
        "task_options": task.options(),
        "n_problems": plan.problems,
        **{name: value for name, value in vars(plan).items() if name != "problems"},
        "versions": {"python": sys.version.split()[0], **{name: _version(name) for name in packages}},
        "command": command or f"faithprobe.audit({model.name!r}, {task.name!r}, problems={plan.problems}, seed={plan.seed})",
        "seconds": round(seconds, 1),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
