"""Reads the files that users bring: every complaint names the file, the line or entry, and the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from faithprobe.errors import TaskError


class BadRowError(TaskError):
    """A row that cannot become a problem; the reason alone, the reader adds file and line."""


def read_text(path: str | PathLike[str], *, family: str) -> str:
    """The text of a data file; TaskError where it is missing, a folder, not UTF-8, or empty."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise TaskError(f"{family} cannot read {path}: {reason}; give path= a file in the format of help()") from None
    if not text.strip():
        raise TaskError(f"{path} is empty; {family} needs at least one problem in it")
    return text


def json_lines(text: str) -> Iterator[tuple[int, dict[str, Any] | BadRowError]]:
    """(line number, object) for each line that is not blank; a BadRowError stands in for what is no JSON object."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, BadRowError(f"not JSON ({str(error)[:80]})")
            continue
        yield number, row if isinstance(row, dict) else BadRowError(f"a JSON {type(row).__name__}, not an object")


def text_field(row: dict[str, Any], key: str) -> str:
    """The text under `key`; BadRowError where it is missing or no text."""
    value = row.get(key)
    if isinstance(value, str) and value.strip():
        return value
    have = ", ".join(map(repr, row)) or "nothing"
    raise BadRowError(f"needs a text under {key!r}, it has {have}" if key not in row else f"{key!r} is no text")


class RowReport:
    """Collects what is skipped, or raises at the first bad row."""

    def __init__(self, path: str | PathLike[str], *, skip_bad: bool) -> None:
        self.path, self.skip_bad = path, skip_bad
        self.skipped: list[tuple[int | str, str]] = []

    def bad(self, line: int | str, error: BadRowError) -> None:
        """`line` is a line number or the key of an entry."""
        if not self.skip_bad:
            place = f"line {line}" if isinstance(line, int) else f"entry {line}"
            raise TaskError(
                f"{self.path}, {place}: {error}; repair or remove it, or pass skip_bad=True to leave such rows out "
                "(they are listed in task.skipped)"
            ) from None
        self.skipped.append((line, str(error)))

    def check_any(self, found: int) -> None:
        """TaskError where nothing usable is left."""
        if not found:
            reason = f"; the first reason: {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
            raise TaskError(f"{self.path} has no usable problem, {len(self.skipped)} rows were skipped{reason}")
