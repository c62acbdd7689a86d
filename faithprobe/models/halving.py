"""Work in batches that are halved where memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from faithprobe.errors import OutOfMemoryError, is_out_of_memory

T = TypeVar("T")
R = TypeVar("R")


def halving(items: Sequence[T], size: int, work: Callable[[Sequence[T]], R]) -> Iterator[tuple[Sequence[T], R]]:
    """Works through items in batches of `size`. Where one does not fit into memory it is tried again with half as many
    items, as is everything behind it; one that does not fit alone raises OutOfMemoryError."""
    begin = 0
    while begin < len(items):
        part = items[begin : begin + size]
        try:
            done = work(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                words = str(error).strip().split("\n")[0]
                raise OutOfMemoryError(
                    f"out of memory{f' ({words})' if words else ''}, even with one row at a time. Take a smaller dtype "
                    "(--dtype bfloat16), shorter prompts (fewer of a task's shots or steps), fewer layers (--layers) "
                    "or a smaller model"
                ) from error
            done = None
        if done is None:  # outside of `except`: a living traceback holds the tensors that did not fit
            size = len(part) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        begin += len(part)
        yield part, done
