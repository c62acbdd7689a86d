"""Progress of long work on standard error: a live bar in a terminal or a notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

QUIET_SECONDS = 10.0
"""Between two plain lines."""


@dataclass
class Stage:
    """One piece of work of known size."""

    name: str
    total: int
    progress: Progress
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    task: int | None = None

    def advance(self, n: int = 1) -> None:
        self.done += n
        self.progress.update(self)

    @property
    def seconds_left(self) -> float | None:
        if not self.done:
            return None
        return (time.monotonic() - self.started) / self.done * (self.total - self.done)


class Progress:
    """Shows stages and what is being done; silent when not `shown`."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self.bars: RichProgress | None = None
        self.stages: list[Stage] = []
        self._doing = ""
        self._rows = 0
        self._spoke = 0.0

    def __enter__(self) -> Progress:
        if self.shown:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            console = Console(stderr=True)
            if console.is_terminal or console.is_jupyter:
                self.bars = RichProgress(
                    SpinnerColumn(),
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TextColumn("left"),
                    TimeRemainingColumn(),
                    TextColumn("[dim]{task.fields[doing]}"),
                    console=console,
                )
                self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def stage(self, name: str, total: int) -> Stage:
        """Begins a piece of work of `total` units."""
        stage = Stage(name, total, self)
        self._doing, self._rows = "", 0
        if self.bars is not None:
            stage.task = self.bars.add_task(name, total=total, doing="")
        self.stages.append(stage)
        self._line(stage, force=True)
        return stage

    def note(self, text: str) -> None:
        """One line that stays."""
        if self.bars is not None:
            self.bars.console.print(text, highlight=False)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)

    def say(self, doing: str) -> None:
        """What the current stage is doing."""
        self._doing, self._rows = doing, 0
        if self.stages:
            self.update(self.stages[-1])

    def tick(self, rows: int) -> None:
        """So many rows of what is being done are finished: a sign of life where a unit of the stage takes long."""
        self._rows += rows
        if self.stages:
            self.update(self.stages[-1])

    @property
    def doing(self) -> str:
        return f"{self._doing}, {self._rows} rows" if self._doing and self._rows else self._doing

    def update(self, stage: Stage) -> None:
        if self.bars is not None and stage.task is not None:
            self.bars.update(stage.task, completed=stage.done, doing="" if stage.done >= stage.total else self.doing)  # type: ignore[arg-type]
        else:
            self._line(stage, force=stage.done >= stage.total)

    def _line(self, stage: Stage, *, force: bool = False) -> None:
        if not self.shown or self.bars is not None:
            return
        now = time.monotonic()
        if not force and now - self._spoke < QUIET_SECONDS:
            return
        self._spoke = now
        left = stage.seconds_left
        about = "" if left is None else f", {now - stage.started:.0f} s so far, about {left:.0f} s left"
        doing = f" ({self.doing})" if self.doing and stage.done < stage.total else ""
        print(f"{stage.name}: {stage.done}/{stage.total}{about}{doing}", file=sys.stderr, flush=True)
