"""The guard of a training run: held-out problems are audited at every evaluation, and the run stops by a rule.

guard = Guard(subject, problems, StopRule(max_gap=0.2))            # a bare loop, or Lightning
for step, batch in enumerate(loader):
    ...
    if step % 100 == 0:
        guard.check(step)
    if guard.reason:
        break

`GoodhartCallback` is the same for every Hugging Face trainer. Only the first process measures, and what it decided is
broadcast, so that all stop at the same step. The history is a JSON file, written whole or not at all; a run that is
resumed goes on with it, and what it had measured beyond the step that it resumes from is dropped.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from faithprobe.chains.subject import Subject
from faithprobe.errors import FaithprobeError, ModelError, StoreError
from faithprobe.files import write_text
from faithprobe.tasks import Problem
from faithprobe.training.evaluate import Evaluation, evaluate_training, trained_kinds
from faithprobe.training.stop_rule import StopRule

__all__ = ["FILE", "GoodhartCallback", "Guard", "StopRule"]

logger = logging.getLogger(__name__)

FILE = "goodhart.json"
"""Of the history, in the folder of a trainer's output."""


class Guard:
    """Evaluates a model on held-out problems while it is trained, and says when to stop.

    Attributes:
        history: a record for each check, by step; what `plots.training.goodhart_figure` draws.
        reason: why the run must stop; empty as long as it may go on.
    """

    def __init__(
        self,
        subject: Subject,
        problems: Sequence[Problem],
        rule: StopRule | None = None,
        *,
        trained_on: str | Collection[str] = "counterfactual",
        seed: int = 0,
        replacements: int = 3,
        readout: bool = False,
        path: str | Path | None = None,
        every_process: bool = False,
    ) -> None:
        """
        Args:
            subject: around the very model that is trained.
            problems: held out.
            rule: default: `StopRule()`.
            trained_on, seed, replacements, readout: as of `evaluate_training`.
            path: of the history; None: it is kept in memory.
            every_process: all processes measure, and the first one's result counts. Needed where a forward pass takes
                all of them, as with FSDP; otherwise they wait for the first (and the wait must be shorter than the
                time-out of torch.distributed).

        Raises:
            StoreError: the file at `path` is damaged, or belongs to other problems or another objective.
            UnknownNameError, ValueError: as `evaluate_training`.
        """
        self.subject, self.problems, self.rule = subject, list(problems), rule or StopRule()
        self.trained_on = trained_on if isinstance(trained_on, str) else trained_kinds(trained_on)
        trained_kinds(self.trained_on)
        self.seed, self.replacements, self.readout = seed, replacements, readout
        self.every_process = every_process
        self.history: list[dict[str, Any]] = []
        self.path: Path | None = None
        if path is not None:
            self.open(path)

    @property
    def reason(self) -> str:
        return self.history[-1]["stop"] if self.history else ""

    def open(self, path: str | Path) -> None:
        """Goes on with the history at a path, or begins one there. Raises StoreError."""
        self.path = Path(path)
        if not self.path.exists():
            return
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            identity, history = held["guard"], list(held["history"])
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} is no history of a guard ({error}); remove it, or give another path") from None
        for name, mine in self._identity().items():
            if identity.get(name) != mine:
                raise StoreError(
                    f"{path} is the history of a guard with {name}={identity.get(name)!r}, and this one has {mine!r}: "
                    "their numbers cannot be compared; give another path, or remove the file"
                )
        self.history = history

    def _identity(self) -> dict[str, Any]:
        ids = "\n".join(problem.id for problem in self.problems)
        return {
            "task": self.subject.task.name,
            "problems": sha256(ids.encode()).hexdigest()[:16],
            "trained_on": self.trained_on if isinstance(self.trained_on, str) else list(self.trained_on),
            "seed": self.seed,
            "replacements": self.replacements,
            "readout": self.readout,
        }

    def forget(self, step: int) -> None:
        """Drops what was measured at a step and beyond it: a run that is resumed in front of it comes there again."""
        self.history = [record for record in self.history if record["step"] < step]

    def check(self, step: int) -> Evaluation:
        """Evaluates, adds to the history, and sets `reason`. All processes call it, at the same step.

        Raises FaithprobeError in the others where the first process fails, so that none of them waits for ever.
        """
        rank, count = _processes()
        self.forget(step)
        message: dict[str, Any] = {}
        failed: Exception | None = None
        if rank == 0 or self.every_process:
            try:
                message = {"record": self._record(step)}
            except Exception as error:
                message, failed = {"error": f"{type(error).__name__}: {error}"}, error
        if count > 1:
            message = _from_the_first(message)
        if failed is not None:
            raise failed
        if "error" in message:
            raise FaithprobeError(f"the guard failed in the first process: {message['error']}")
        self.history.append(message["record"])
        if rank == 0:
            if self.path is not None:
                write_text(self.path, json.dumps({"guard": self._identity(), "history": self.history}, indent=1))
            if self.reason:
                logger.warning("step %d: training is to stop: %s", step, self.reason)
        return Evaluation.from_record(message["record"])

    def _record(self, step: int) -> dict[str, Any]:
        found = evaluate_training(
            self.subject,
            self.problems,
            trained_on=self.trained_on,
            seed=self.seed,
            replacements=self.replacements,
            readout=self.readout,
        )
        record = json.loads(json.dumps({"step": step, **found.record()}))  # as it will be read again
        return {**record, "stop": self.rule.reason([*self.history, record])}


def _processes() -> tuple[int, int]:
    """The rank of this process, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted > 1:
        raise FaithprobeError(
            f"torchrun started {wanted} processes, and torch.distributed is not set up: each would decide by itself "
            "when to stop; set it up first (a trainer does), or run one process"
        )
    return 0, 1


def _from_the_first(message: dict[str, Any]) -> dict[str, Any]:
    """What the first process says, as text: nothing but JSON is passed on."""
    box = [json.dumps(message)]
    torch.distributed.broadcast_object_list(box, src=0)
    return json.loads(box[0])


class GoodhartCallback(TrainerCallback):
    """A `Guard` for a Hugging Face trainer: checks at every evaluation, and once before the first step.

    Its numbers join the trainer's log history. Reporters (Weights & Biases, TensorBoard) are told by the trainer alone:
    they get the numbers too where `callback.trainer = trainer` is set. `metric_for_best_model` may name any of them.

    Attributes:
        guard: with the history, and the reason of a stop.
        trainer: optional, see above.
    """

    def __init__(
        self,
        subject: Subject,
        problems: Sequence[Problem],
        rule: StopRule | None = None,
        *,
        at_start: bool = True,
        **options: Any,
    ) -> None:
        """
        Args:
            subject, problems, rule, options: as of `Guard`; `path` is by default `goodhart.json` in the output folder.
            at_start: also check before the first step, so that a fall of accuracy is seen from there.
        """
        self.guard = Guard(subject, problems, rule, **options)
        self.at_start = at_start
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Raises ModelError where the trainer trains another model than the guard measures."""
        measured = {id(parameter) for parameter in self.guard.subject.model.hf.parameters()}
        if model is not None and not any(id(parameter) in measured for parameter in model.parameters()):
            raise ModelError(
                "the guard measures another model than the trainer trains: make its subject of trainer.model, or give "
                "the trainer subject.model.hf"
            )
        if self.guard.path is None:
            self.guard.open(Path(args.output_dir) / FILE)
        self.guard.forget(state.global_step + 1 if state.global_step else 0)
        if self.at_start and not self.guard.history:
            self._check(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> Any:
        history = self.guard.history
        if not history or history[-1]["step"] != state.global_step:  # each of several evaluation sets comes by here
            self._check(state)
        if metrics is not None:
            metrics.update({f"eval_{name}": number for name, number in self._last().logs().items()})
        if self.guard.reason:
            control.should_training_stop = True
        return control

    def _last(self) -> Evaluation:
        return Evaluation.from_record(self.guard.history[-1])

    def _check(self, state: Any) -> None:
        logs = self.guard.check(state.global_step).logs()
        if self.trainer is not None:
            self.trainer.log(dict(logs))
        else:
            epoch = {} if state.epoch is None else {"epoch": state.epoch}
            state.log_history.append({**logs, **epoch, "step": state.global_step})
        if self.guard.reason:
            state.log_history.append({"goodhart_stop": self.guard.reason, "step": state.global_step})
