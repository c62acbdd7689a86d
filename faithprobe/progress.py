"""Progress of long work on standard error: a live bar in a terminal or a notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

QUIET_SECONDS = 10.0
"""Between two plain lines."""
REDRAW_SECONDS = 0.2
"""Between two looks of the bars in a notebook."""


@dataclass
class Stage:
    """One piece of work of known size."""

    name: str
    total: int
    progress: Progress
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    task: int | None = None

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self.done >= self.total:
            self.ended = time.monotonic()
        self.progress.update(self)

    @property
    def seconds(self) -> float:
        """That it has taken so far, or took."""
        return (self.ended or time.monotonic()) - self.started

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
        self.output: NotebookBars | None = None
        self.stages: list[Stage] = []
        self._doing = ""
        self._rows = 0
        self._spoke = 0.0

    def __enter__(self) -> Progress:
        if self.shown and in_notebook():
            self.output = NotebookBars()
        elif self.shown:
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
            if console.is_terminal:
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
        if self.output is not None:
            self.output.draw(self.stages, "" if kind is None else f"stopped: {kind.__name__}", ended=True)

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
        elif self.output is not None:
            self.output.notes.append(text)
            self.output.draw(self.stages, self.doing)
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
        elif self.output is not None:
            if time.monotonic() - self.output.drawn >= REDRAW_SECONDS or stage.done >= stage.total:
                self.output.draw(self.stages, self.doing)
        else:
            self._line(stage, force=stage.done >= stage.total)

    def _line(self, stage: Stage, *, force: bool = False) -> None:
        if not self.shown or self.bars is not None:
            return
        if self.output is not None:
            self.output.draw(self.stages, self.doing)
            return
        now = time.monotonic()
        if not force and now - self._spoke < QUIET_SECONDS:
            return
        self._spoke = now
        left = stage.seconds_left
        about = "" if left is None else f", {now - stage.started:.0f} s so far, about {left:.0f} s left"
        doing = f" ({self.doing})" if self.doing and stage.done < stage.total else ""
        print(f"{stage.name}: {stage.done}/{stage.total}{about}{doing}", file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """This is a Jupyter kernel, whose front end shows HTML: there `get_ipython` is known, and it is no terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "Terminal" not in type(shell).__name__ and hasattr(shell, "kernel")


class NotebookBars:
    """One output of a notebook's cell that is replaced in place: a line for each stage. The saved notebook keeps the
    last look of it. No widget, so that it is seen in a static view as well."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.drawn = 0.0
        self._handle: Any = None

    def draw(self, stages: list[Stage], doing: str, *, ended: bool = False) -> None:
        """Shows the stages as they are; what has ended is one quiet line."""
        from IPython.display import display

        self.drawn = time.monotonic()
        data = {"text/plain": _plain(stages), "text/html": _bars(stages, self.notes, doing, ended)}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def _plain(stages: list[Stage]) -> str:
    return "; ".join(f"{stage.name} {stage.done}/{stage.total}" for stage in stages)


def _bars(stages: list[Stage], notes: list[str], doing: str, ended: bool) -> str:
    look = "opacity:.75;font-size:.92em;line-height:1.5;font-variant-numeric:tabular-nums"
    if ended:
        said = ", ".join(f"{s.name} {s.done}/{s.total} in {s.seconds:.0f} s" for s in stages)
        return f'<div style="{look}">{escape(said)}{escape(f"; {doing}" if doing else "")}</div>'
    lines = []
    for stage in stages:
        now = stage is stages[-1] and stage.done < stage.total
        left = stage.seconds_left if now else None
        words = f"{stage.name} {stage.done}/{stage.total}, {stage.seconds:.0f} s"
        words += (f", about {left:.0f} s left" if left is not None else "") + (f" ({doing})" if now and doing else "")
        share = 100 * stage.done / stage.total if stage.total else 100
        bar = "display:inline-block;height:8px;border-radius:4px;vertical-align:middle"
        lines.append(
            f'<div><span style="{bar};width:160px;background:rgba(128,128,128,.3);margin-right:10px">'
            f'<span style="{bar};width:{share:.1f}%;background:#0072B2;vertical-align:top"></span></span>'
            f"{escape(words)}</div>"
        )
    return f'<div style="{look}">{"".join(f"<div>{escape(note)}</div>" for note in notes)}{"".join(lines)}</div>'
