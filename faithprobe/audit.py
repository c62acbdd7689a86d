"""The main job: let a model reason, and say for every stated value when it was determined and whether it was used.

Reads from top to bottom: the problems are answered part by part (chains, use, lead, bypass), activations
going to a store on disk; then probes are fitted on problems of their own and read from it; then verdicts are made.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithprobe.chains.capture import default_layers, memory_estimate, probe_sites
from faithprobe.chains.records import Chain
from faithprobe.chains.store import Trace
from faithprobe.chains.subject import Subject
from faithprobe.errors import FaithprobeError, MetricError, TaskError, UnscoredError
from faithprobe.metrics.base import Metric, Settings, run_metric
from faithprobe.metrics.bypass import bypass
from faithprobe.metrics.computed import computed, reference_steps
from faithprobe.metrics.items import Traces
from faithprobe.metrics.lead import lead
from faithprobe.metrics.mediation import mediation
from faithprobe.metrics.traces import force_and_store, forced_chains, probe_problems, respond_and_store
from faithprobe.metrics.used import used
from faithprobe.models import LanguageModel, load_model
from faithprobe.models.forcing import batches
from faithprobe.models.generation import PrefixCache
from faithprobe.models.hooks import evaluating
from faithprobe.models.twin import random_twin
from faithprobe.progress import Progress
from faithprobe.results.exchanges import bypass_rows, mediation_summary
from faithprobe.results.parts import Part, claim_folder, load_evidence, load_part, merged, save_evidence, save_part
from faithprobe.results.record import Audit, chain_view
from faithprobe.results.verdicts import evidence_rows, frame, outcome_rows, step_rows, summarise
from faithprobe.results.versions import versions
from faithprobe.scores.evidence import Evidence, Measurement
from faithprobe.tasks import Problem, Task, as_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Audit", "audit"]

CAUSAL: Mapping[str, Metric] = {"used": used, "lead": lead, "bypass": bypass}
"""Metrics that re-run the model; a user's own is added by `audit(..., metrics=...)`. `mediation` is read off what
`bypass` ran, `computed` off what was recorded."""
PART = 16
"""Problems that are answered and measured together: what an interruption can cost."""
PROBE_PART = 64
"""Probe problems that are read together."""


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
    probe_cache: str | Path | None = None,
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
            than 250, *computed* and the score stay unscored. 0 skips the probes.
        replacements: for every stated value; at least 3 for a score.
        layers: that are probed; default: six, evenly spaced, the last one among them.
        chat: ask through the chat template.
        temperature: 0 is greedy.
        batch_size: rows that go through the model together.
        out: a folder for the results; an interrupted audit goes on there. Default: a temporary folder.
        metrics: further metrics by name, called like those in `faithprobe.metrics`; what they find stands in the table
            `evidence` of the result.
        probe_cache: a folder where fitted probes leave what they found: an audit whose probes would be fitted on the
            very same activations, bit by bit, reads it from there.
        command: how this was started; default: the Python call.
        show_progress: on standard error.

    Raises:
        FaithprobeError: an unknown name, a model that fails validation, a folder that holds another audit, ...
    """
    started = time.monotonic()
    language_model = model if isinstance(model, LanguageModel) else load_model(model, tokenizer)
    the_task = as_task(task)
    if not isinstance(metrics or {}, Mapping):
        raise MetricError(
            f"metrics maps names to functions, and is no {type(metrics).__name__}; published ones are found by name: "
            "metrics=published(['early-answering']), from faithprobe.metrics.published"
        )
    every = {**CAUSAL, **(metrics or {})}
    chosen = tuple(layers) if layers is not None else default_layers(language_model.n_layers)
    plan = Plan(problems, seed, probe_problems, replacements, chosen, chat, temperature, tuple(every))
    _check(plan, language_model, batch_size, metrics or {})
    with tempfile.TemporaryDirectory() as scratch, Progress(show_progress) as progress, evaluating(language_model):
        folder = Path(out) if out is not None else Path(scratch)
        claim_folder(folder / "work", _identity(language_model, the_task, plan))
        subject = Subject(language_model, the_task, chat, temperature, seed, batch_size, progress.tick)
        asked = the_task.problems(problems, seed=seed)
        parts = _answer_all(subject, asked, plan, every, folder / "work", progress)
        chains = [chain for part in parts for chain in part.chains]
        evidence = {name: merged([part.evidence[name] for part in parts], name) for name in every}
        evidence["mediation"] = mediation(evidence["bypass"])
        cache = None if probe_cache is None else Path(probe_cache)
        evidence["computed"], reading = _compute(subject, chains, asked, plan, folder / "work", cache, progress)
        direct = {id_: right for part in parts for id_, right in part.direct.items()}
        info = _info(language_model, the_task, plan, command, time.monotonic() - started)
        info["seconds_by_metric"] = {name: round(found.seconds, 3) for name, found in evidence.items()}
        info["seconds_by_stage"] = _seconds(parts, evidence, reading)
        result = replace(_conclude(chains, evidence, direct), info=info)
        if out is not None:
            result.save(folder)
    return result


def _check(plan: Plan, model: LanguageModel, batch_size: int, metrics: Mapping[str, Metric]) -> None:
    """Raises FaithprobeError for what cannot be meant, before any work is done."""
    for name, number, least in (
        ("problems", plan.problems, 1),
        ("probe_problems", plan.probe_problems, 0),
        ("replacements", plan.replacements, 1),
        ("layers", len(plan.layers), 1),
        ("temperature", plan.temperature, 0),
        ("batch_size", batch_size, 1),
    ):
        if not isinstance(number, int | float) or number < least:
            raise FaithprobeError(f"{name} must be at least {least}, not {number!r}")
    for site in probe_sites(plan.layers):
        model.sites[site]  # raises UnknownNameError
    taken = sorted({*CAUSAL, "mediation", "computed"} & set(metrics))
    if taken:
        raise FaithprobeError(f"a metric of your own cannot be called {taken[0]!r}: that is one of faithprobe's")


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
    if len(by_id) < len(problems):
        raise TaskError(
            f"task {subject.task.name!r} made {len(problems)} problems with {len(by_id)} ids: each needs its own"
        )
    twin = random_twin(subject.model, seed=plan.seed) if plan.probe_problems else None
    longest = max(len(subject.prompt(problem)) for problem in problems[:PART]) + subject.task.max_new_tokens
    recorded, cached = memory_estimate(subject.model, len(probe_sites(plan.layers)), subject.batch_size, longest)
    progress.note(
        f"a batch of {subject.batch_size} takes at most about {recorded / 1e6:.0f} MB of recorded activations and "
        f"{cached / 1e6:.0f} MB of keys and values, whatever the number of problems"
    )
    stage = progress.stage("answering and replaying", len(problems))
    parts = []
    for k, part in enumerate(batches(problems, PART)):
        path = work / f"part-{k:04d}.json"
        if not path.exists():
            drawn = subject.with_seed(plan.seed + 1_000_003 * k)  # parts must not repeat each other's samples
            save_part(path, _measure(drawn, twin, problems[part], plan, metrics, work, progress))
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
    progress.say("chains")
    began = time.monotonic()
    if twin is None:
        chains = [chain for chain, _ in subject.respond(problems)]
    else:
        sites, size = probe_sites(plan.layers), subject.batch_size
        chains = respond_and_store(subject, problems, sites, work / "own")
        force_and_store(twin, chains, sites, work / "own-twin", prefixes=PrefixCache(twin), batch_size=size)
    answered, direct = time.monotonic(), {}
    if subject.task.prompt(problems[0], chain=False) != subject.task.prompt(problems[0]):
        progress.say("answers without a chain")
        texts = subject.complete([subject.prompt(problem, chain=False) for problem in problems])
        direct = {p.id: subject.answer(text) == p.answer for p, text in zip(problems, texts, strict=True)}
    seconds = {"chains": answered - began, "answers without a chain": time.monotonic() - answered}
    settings = Settings(seed=plan.seed, replacements=plan.replacements)
    evidence = {}
    for name, metric in metrics.items():
        progress.say(name)
        evidence[name] = run_metric(name, metric, subject, chains, settings)
    return Part(tuple(chains), evidence, direct, seconds)


def _compute(
    subject: Subject,
    chains: Sequence[Chain],
    asked: Sequence[Problem],
    plan: Plan,
    work: Path,
    cache: Path | None,
    progress: Progress,
) -> tuple[Evidence, float]:
    """D of every literal, from probes fitted on problems of their own, loaded where it is finished; and what reading
    these problems took, in seconds."""
    steps, reading = reference_steps(chains), 0.0
    paths = [work / f"computed-{k:03d}.json" for k in range(len(steps))]
    if not all(path.exists() for path in paths):
        try:
            own_problems = probe_problems(subject.task, plan.probe_problems, seed=plan.seed, asked=asked)
        except UnscoredError as error:
            none = Measurement.none(str(error))
            every = {(chain.id, step): none for chain in chains for step in chain.literals}
            return Evidence("computed", every), reading
        began = time.monotonic()
        traces = _probe_traces(subject, own_problems, plan, chains[0].text, work, progress)
        reading = time.monotonic() - began
        stage = progress.stage("fitting probes", len(steps))
        for path, step in zip(paths, steps, strict=True):
            progress.say(step)
            if not path.exists():
                save_evidence(path, _fitted(subject, chains, step, traces, plan, cache))
            stage.advance()
    return merged([load_evidence(path, "computed") for path in paths], "computed"), reading


def _fitted(
    subject: Subject, chains: Sequence[Chain], step: str, traces: Traces, plan: Plan, cache: Path | None
) -> Evidence:
    """What probes find about one step; from the cache where they were fitted on the same bits before."""
    shared = None
    if cache is not None:
        stores = [trace.digest() for trace in (traces.probe, traces.probe_twin, traces.own, traces.own_twin)]
        texts = [chain.tokens for chain in (*traces.probe_chains.values(), *chains)]
        about = [stores, texts, subject.task.name, subject.task.options(), traces.sites, step, plan.seed]
        shared = cache / f"{sha256(json.dumps(about, default=str).encode()).hexdigest()[:32]}.json"
        if shared.exists():
            return load_evidence(shared, "computed")
    began = time.monotonic()
    found = computed(chains, step, traces, seed=plan.seed)
    found = replace(found, seconds=time.monotonic() - began)
    if shared is not None:
        save_evidence(shared, found)
    return found


def _probe_traces(
    subject: Subject, problems: Sequence[Problem], plan: Plan, like: str, work: Path, progress: Progress
) -> Traces:
    """Reads the reference responses to the probe problems, and opens all that was recorded."""
    sites, size = probe_sites(plan.layers), subject.batch_size
    twin = random_twin(subject.model, seed=plan.seed)
    twin_prefixes = PrefixCache(twin)
    stage = progress.stage("reading probe problems", len(problems))
    chains: dict[str, Chain] = {}
    for part in batches(problems, PROBE_PART):
        read = list(forced_chains(subject, problems[part], like=like))
        force_and_store(subject.model, read, sites, work / "probe", prefixes=subject.prefixes, batch_size=size)
        force_and_store(twin, read, sites, work / "probe-twin", prefixes=twin_prefixes, batch_size=size)
        chains |= {chain.id: chain for chain in read}
        stage.advance(len(problems[part]))
    return Traces(
        chains,
        Trace(work / "probe", model=subject.model),
        Trace(work / "probe-twin", model=twin),
        Trace(work / "own", model=subject.model),
        Trace(work / "own-twin", model=twin),
        sites[1:],
    )


def _seconds(parts: Sequence[Part], evidence: Mapping[str, Evidence], reading: float) -> dict[str, float]:
    """What each stage took. Reading the probe problems is the only one whose size does not follow the chains; what an
    earlier run read is not counted."""
    stages = {name: sum(part.seconds[name] for part in parts) for name in ("chains", "answers without a chain")}
    metrics = {name: found.seconds for name, found in evidence.items() if name not in ("mediation", "computed")}
    every = {**stages, **metrics, "reading probe problems": reading, "fitting probes": evidence["computed"].seconds}
    return {name: round(seconds, 2) for name, seconds in every.items()}


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
        "mediation": frame("mediation", evidence["mediation"].tables.get("mediation", ())),
        "outcomes": frame("outcomes", outcome_rows(steps)),
        "evidence": frame("evidence", evidence_rows(evidence)),
    }
    summary = {
        **summarise(chains, steps, verdicts, direct),
        "mediation": mediation_summary(evidence["mediation"]),
    }
    return Audit({}, summary, tables, [chain_view(chain) for chain in chains])


def _identity(model: LanguageModel, task: Task, plan: Plan) -> dict[str, Any]:
    return {"fingerprint": model.fingerprint, "task": task.name, "task_options": task.options(), **vars(plan)}


def _info(model: LanguageModel, task: Task, plan: Plan, command: str, seconds: float) -> dict[str, Any]:
    info = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "task": task.name,
        "task_options": task.options(),
        "n_problems": plan.problems,
        "chat_template": bool(getattr(model.tokenizer, "chat_template", None)),
        **{name: value for name, value in vars(plan).items() if name != "problems"},
        "versions": versions(),
        "command": command
        or f"faithprobe.audit({model.name!r}, {task.name!r}, problems={plan.problems}, seed={plan.seed})",
        "seconds": round(seconds, 1),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    return json.loads(json.dumps(info, default=str))  # as it is read back from its file
