"""The second job: fit probes on many problems in one pass, and say what they know beyond every control.

Reads from top to bottom: a sample of problems fixes targets and text slots; then, part by part, the model answers, what
is probed is captured and added to moments, and forgotten; at the end probes are fitted from the moments and judged on
held-out operand combinations. Under `torchrun` each process takes every so-manieth part, and the moments add up.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from faithprobe.chains.capture import Recorder, default_layers, probe_sites, record_forced
from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.errors import FaithprobeError, StoreError, UnscoredError
from faithprobe.metrics.streamed import Collector, Layout, Observed, probed_places
from faithprobe.metrics.traces import forced_chains
from faithprobe.models import LanguageModel, load_model
from faithprobe.models.generation import PrefixCache
from faithprobe.models.hooks import evaluating
from faithprobe.models.twin import random_twin
from faithprobe.probes.columns import REAL
from faithprobe.probes.held_out import readings
from faithprobe.processes import Processes
from faithprobe.progress import Progress
from faithprobe.results.checkpoints import read_checkpoint, write_checkpoint
from faithprobe.results.parts import claim_folder
from faithprobe.results.probes import Probes, pointwise_rows, source_rows, weights_of
from faithprobe.results.versions import versions
from faithprobe.scores.probe_tables import POINTWISE, SOURCES
from faithprobe.tasks import Problem, Task, as_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Probes", "probe"]

Responses = Literal["generated", "reference"]
PART = 64
"""Problems that are read together; the unit that processes share out."""
SAMPLE = 512
"""Problems whose reference responses fix targets and text slots."""
HELD_OUT_PROBLEMS = 2000
"""Problems, the first ones, whose held-out items are kept: about a fifth of their items."""
SECONDS = 120.0
"""Between two checkpoints: what an interruption can cost."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a run finds; its folder belongs to one plan."""

    problems: int
    seed: int
    layers: tuple[int, ...]
    responses: Responses
    moduli: tuple[int, ...]
    shuffles: int
    chat: bool
    temperature: float


def probe(
    model: str | Path | LanguageModel | PreTrainedModel,
    task: str | Task,
    *,
    problems: int = 2000,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    layers: Sequence[int] | None = None,
    responses: Responses = "generated",
    moduli: Sequence[int] = (),
    shuffles: int = 20,
    chat: bool = False,
    temperature: float = 0.0,
    batch_size: int = 32,
    out: str | Path,
    command: str = "",
    show_progress: bool = True,
) -> Probes:
    """Fits linear probes for every step, position, layer and target of a family of problems, with their controls.

    Args:
        model: whatever `load_model` takes, or what it returned.
        task: a task or its name.
        problems: how many problems are read; activations of none of them are kept, but for held-out items.
        seed: of problems, splits, shuffles and the random twin.
        tokenizer: with a Hugging Face model.
        layers: default: six, evenly spaced, the last one among them.
        responses: `generated`: the model's own, targets computed from the operands as it stated them; `reference`:
            the family's, teacher-forced, several times as fast.
        moduli: residues to read besides parity and last digit.
        shuffles: label shuffles for each target.
        chat: ask through the chat template.
        temperature: 0 is greedy.
        batch_size: rows that go through the model together.
        out: folder for the result; an interrupted run goes on there, a finished one is loaded from there.
        command: how this was started; default: the Python call.
        show_progress: on standard error.

    Under `torchrun`, every process calls this with the same arguments and a folder that all can reach, and all get
    the result.

    Raises:
        FaithprobeError: an unknown name, a folder that holds another run, too few problems, ...
    """
    started = time.monotonic()
    language_model = model if isinstance(model, LanguageModel) else load_model(model, tokenizer)
    the_task = as_task(task)
    processes = Processes.now()
    chosen = tuple(dict.fromkeys(layers)) if layers is not None else default_layers(language_model.n_layers)
    plan = Plan(problems, seed, chosen, responses, tuple(moduli), shuffles, chat, temperature)
    _check(plan, language_model, batch_size)
    folder = Path(out)
    identity = {"fingerprint": language_model.fingerprint, "task": the_task.name, "task_options": the_task.options()}
    processes.one_by_one(lambda: claim_folder(folder / "work", {**identity, **vars(plan)}))
    if (folder / "config.json").exists():
        return Probes.load(folder, model=language_model)
    with Progress(show_progress and processes.rank == 0) as progress, evaluating(language_model):
        subject = Subject(language_model, the_task, chat, temperature, seed, batch_size, progress.tick)
        asked = the_task.problems(problems, seed=seed)
        sites = probe_sites(chosen)
        collector, like = _layout(subject, asked, plan, sites)
        parts = _parts(asked, processes)
        del asked  # thousands of problems take more than a probe: each part goes when it has been read
        held = sum(t.nbytes for stream in collector.streams.values() for t in stream.state().values())
        progress.note(
            f"{len(collector.streams)} places in {len(chosen)} layers: their moments take {held / 1e6:.0f} MB, "
            "whatever the number of problems"
        )
        _read_all(subject, parts, plan, sites, collector, like, folder / "work", processes, progress)
        _share(collector, folder / "work", processes)
        if processes.rank == 0:
            found = _conclude(collector, plan, progress)
            info = _info(language_model, the_task, plan, command, collector.left_out, time.monotonic() - started)
            info["processes"] = processes.count
            info["classes"] = {
                f"{step}/{block.target.name}": list(block.target.classes)
                for step, columns in collector.layout.columns.items()
                for block in columns.blocks
                if block.kind == REAL
            }
            Probes(json.loads(json.dumps({**info, "unscored": found[3]}, default=str)), *found[:3]).save(folder)
        processes.wait()
        _checkpoint(folder / "work", processes).unlink(missing_ok=True)
        _held_file(folder / "work", processes.rank).unlink(missing_ok=True)
    return Probes.load(folder, model=language_model)


def _check(plan: Plan, model: LanguageModel, batch_size: int) -> None:
    """Raises FaithprobeError for what cannot be meant, before any work is done."""
    for name, number, least in (
        ("problems", plan.problems, 1),
        ("layers", len(plan.layers), 1),
        ("shuffles", plan.shuffles, 0),
        ("temperature", plan.temperature, 0),
        ("batch_size", batch_size, 1),
        ("moduli", min(plan.moduli, default=2), 2),
    ):
        if number < least:
            raise FaithprobeError(f"{name} must be at least {least}, not {number}")
    if plan.responses not in ("generated", "reference"):
        raise FaithprobeError(f"responses must be 'generated' or 'reference', not {plan.responses!r}")
    for site in probe_sites(plan.layers):
        model.sites[site]  # raises UnknownNameError


def _layout(subject: Subject, problems: Sequence[Problem], plan: Plan, sites: Sequence[str]) -> tuple[Collector, str]:
    """What is fixed before the stream begins; and a response, whose leading white space teacher-forced ones copy."""
    like = next(chain.text for chain, _ in subject.respond(problems[:1]))
    sample = forced_chains(subject, problems[:SAMPLE], like=like)
    layout = Layout.of(sample, moduli=plan.moduli, shuffles=plan.shuffles, seed=plan.seed)
    collector = Collector(
        layout,
        layers=len(sites) - 1,
        d_model=subject.model.d_model,
        held_out=HELD_OUT_PROBLEMS,
    )
    return collector, like


Part = tuple[int, list[Problem]]
"""Number of the first problem, and the problems."""


def _parts(problems: Sequence[Problem], processes: Processes) -> deque[Part]:
    """What this process reads, in order."""
    begins = range(processes.rank * PART, len(problems), processes.count * PART)
    return deque((begin, list(problems[begin : begin + PART])) for begin in begins)


def _read_all(
    subject: Subject,
    parts: deque[Part],
    plan: Plan,
    sites: Sequence[str],
    collector: Collector,
    like: str,
    work: Path,
    processes: Processes,
    progress: Progress,
) -> None:
    """Every part of this process, going on where an interrupted run has left; `parts` is empty afterwards."""
    path = _checkpoint(work, processes)
    done = _resume(path, collector)
    earlier = sum(len(parts.popleft()[1]) for _ in range(done))
    if earlier:
        progress.note(f"{earlier} problems have been read before")
    twin = random_twin(subject.model, seed=plan.seed)
    twin_prefixes = PrefixCache(twin)
    stage = progress.stage("reading problems", sum(len(part) for _, part in parts))
    saved = time.monotonic()
    while parts:
        begin, part = parts.popleft()
        drawn = subject.with_seed(plan.seed + 1_000_003 * begin)  # parts must not repeat each other's samples
        found = _generated(drawn, part, sites) if plan.responses == "generated" else _forced(drawn, part, sites, like)
        collector.add(list(_observed(found, begin, part, twin, twin_prefixes, sites, subject.batch_size)))
        done += 1
        stage.advance(len(part))
        if time.monotonic() - saved > SECONDS or not parts:
            _save(path, collector, done)
            saved = time.monotonic()


Captured = tuple[Chain, list[int], torch.Tensor]
"""A chain, the token positions that are probed in it, and (position, site, d_model) there."""


def _generated(subject: Subject, problems: Sequence[Problem], sites: Sequence[str]) -> Iterator[Captured]:
    recorder = Recorder(subject.model, sites)
    for chain, done in subject.respond(problems, watch=recorder):
        if positions := _positions(chain):
            yield chain, positions, recorder.at(done, positions)


def _forced(subject: Subject, problems: Sequence[Problem], sites: Sequence[str], like: str) -> Iterator[Captured]:
    chains = [(chain, _positions(chain)) for chain in forced_chains(subject, problems, like=like)]
    chains = [(chain, positions) for chain, positions in chains if positions]
    tokens = [chain.tokens[: max(positions) + 1] for chain, positions in chains]
    for found in record_forced(
        subject.model,
        tokens,
        [positions for _, positions in chains],
        sites,
        prefixes=subject.prefixes,
        batch_size=subject.batch_size,
    ):
        yield *chains[found.index], found.activations


def _positions(chain: Chain) -> list[int]:
    return sorted({position for _, _, position in probed_places(chain)})


def _observed(
    captured: Iterator[Captured],
    begin: int,
    problems: Sequence[Problem],
    twin: LanguageModel,
    prefixes: PrefixCache,
    sites: Sequence[str],
    batch_size: int,
) -> Iterator[Observed]:
    """With what the random twin makes of the same tokens, in the order of the problems."""
    number = {problem.id: begin + i for i, problem in enumerate(problems)}
    rows = sorted(captured, key=lambda row: number[row[0].id])
    tokens = [chain.tokens[: max(positions) + 1] for chain, positions, _ in rows]
    wanted = [positions for _, positions, _ in rows]
    for other in record_forced(twin, tokens, wanted, sites, prefixes=prefixes, batch_size=batch_size):
        chain, positions, activations = rows[other.index]
        yield Observed(number[chain.id], chain, positions, activations, other.activations)


def _conclude(
    collector: Collector, plan: Plan, progress: Progress
) -> tuple[dict[str, torch.Tensor], pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Weights, tables, and why a place has none."""
    stage = progress.stage("fitting probes", len(collector.streams))
    weights: dict[str, torch.Tensor] = {}
    sources: list[Mapping[str, Any]] = []
    pointwise: list[Mapping[str, Any]] = []
    unscored: dict[str, str] = {}
    for (step, place), stream in collector.streams.items():
        progress.say(f"{step}, {place}")
        try:
            items, chains = collector.held((step, place))
            with threadpool_limits(limits=torch.get_num_threads()):
                fitted = stream.fit()
            found = readings(fitted, stream.columns, items)
        except UnscoredError as error:
            unscored[f"{step}/{place}"] = str(error)
            stage.advance()
            continue
        weights |= weights_of(fitted, stream.columns, step, place)
        sources += source_rows(found, items, step=step, place=place, layers=plan.layers, n_train=stream.n)
        pointwise += pointwise_rows(found, chains, step=step, place=place, layers=plan.layers)
        stage.advance()
    if not weights:
        alike: dict[str, list[str]] = {}
        for where, why in unscored.items():
            alike.setdefault(why, []).append(where)
        reasons = []
        for why, (first, *others) in alike.items():
            also = f" (also {', '.join(others)})" if others else ""
            reasons.append(f"{first}: {why}{also}")
        raise UnscoredError(f"no place could be probed: {'; '.join(reasons)}")
    return weights, pd.DataFrame(sources, columns=[*SOURCES]), pd.DataFrame(pointwise, columns=[*POINTWISE]), unscored


def _info(model: LanguageModel, task: Task, plan: Plan, command: str, left_out: int, seconds: float) -> dict[str, Any]:
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "tokenizer": model.tokenizer_hash,
        "task": task.name,
        "task_options": task.options(),
        **vars(plan),
        "items_without_a_target": left_out,
        "versions": versions(),
        "command": command
        or f"faithprobe.probe({model.name!r}, {task.name!r}, problems={plan.problems}, seed={plan.seed}, out=...)",
        "seconds": round(seconds, 1),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def _checkpoint(work: Path, processes: Processes) -> Path:
    return work / f"moments-{processes.rank}-of-{processes.count}.safetensors"


def _held_file(work: Path, rank: int) -> Path:
    return work / f"held-out-{rank}.safetensors"


def _save(path: Path, collector: Collector, done: int) -> None:
    tensors, rest = collector.state()
    write_checkpoint(path, tensors, {"done": done, **rest})


def _resume(path: Path, collector: Collector) -> int:
    """Parts that are done.

    Raises StoreError where the run was begun with another number of processes, which share parts out otherwise.
    """
    if not path.exists():
        count = path.stem.rpartition("-")[2]
        for other in path.parent.glob("moments-*-of-*.safetensors"):
            if (begun := other.stem.rpartition("-")[2]) != count:
                raise StoreError(
                    f"the run in {path.parent.parent} was begun with {begun} processes, not {count}; start {begun} "
                    f"again, or delete {path.parent} to read all problems anew"
                )
        return 0
    tensors, rest = read_checkpoint(path)
    collector.load(tensors, rest)
    return int(rest["done"])


def _share(collector: Collector, work: Path, processes: Processes) -> None:
    """Adds up the moments of all processes, and gives the first one the held-out items of all."""
    if processes.count == 1:
        return
    for stream in collector.streams.values():
        stream.all_reduce()
    tensors, who = collector.held_state()
    write_checkpoint(_held_file(work, processes.rank), tensors, {"who": who, "left_out": collector.left_out})
    processes.wait()
    for rank in range(1, processes.count) if processes.rank == 0 else ():
        tensors, rest = read_checkpoint(_held_file(work, rank))
        collector.take_held(tensors, rest["who"])
        collector.left_out += int(rest["left_out"])
    processes.wait()
